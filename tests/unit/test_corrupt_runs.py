"""One record, one fault: a damaged run or line of a study costs itself alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.storage.manifest import open_run, record_run
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.studies.code import code_digest
from flash_ray.studies.findings import compare_arms
from flash_ray.studies.records import (
    STUDY,
    TRIALS,
    CategoryData,
    Cost,
    Record,
    append_record,
    read_records,
)
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.workflows import study as commands
from tests.helpers.corruption import (
    EXAMPLES,
    NAMES,
    ONE_OF_THREE,
    QUICK,
    RECIPE,
    Draw,
    Tried,
    counted,
    damaged,
    is_one_line,
)
from tests.helpers.mutation import mutations
from tests.helpers.storage import MemoryStore

STUDY_FILE = """
name: small
recipe: miniature
budget: {iterations: 10}
seeds: [0, 1]
cases: {t2i: 1}
arms: {half: {}, good: {tasks: {t2i: 1, edit: 0}}}
"""


@pytest.fixture(scope="module")
def tried() -> Iterator[Tried]:
    with counted() as tried:
        yield tried


@EXAMPLES
def test_a_damaged_run_costs_itself(tried: Tried, examples: int) -> None:
    store = MemoryStore("bucket")
    fields = RECIPE.model_dump(mode="json")
    for name in NAMES:
        record_run(store, name, fields, RECIPE.digest)

    @given(name=ONE_OF_THREE, data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(name: str, data: Draw) -> None:
        def only_this_one() -> None:
            for other in set(NAMES) - {name}:
                assert open_run(store, other).name == other
            try:
                open_run(store, name)
                tried.count(False)
            except UserError as error:
                tried.count(True)
                assert f"runs/{name}/run.json" in str(error) or "--resume" in str(error)

        damaged(store, f"runs/{name}/run.json", data, only_this_one)

    check()


@EXAMPLES
def test_a_damaged_line_costs_its_trial(tmp_path: Path, tried: Tried, examples: int) -> None:
    (tmp_path / "small.yaml").write_text(STUDY_FILE)
    study = load_study(str(tmp_path / "small.yaml"))
    trials, out = plan_trials(study), tmp_path / "out"
    commands.claim_folder(out, study)
    for trial in trials:
        append_record(
            out,
            Record(
                trial=trial.name,
                arm=trial.arm,
                seed=trial.seed,
                digest=trial.digest,
                code=code_digest(),
                iterations=10,
                scores={
                    task: {
                        case.id: CaseScore(score=2 + number / 10, measures={"a": 0.5})
                        for number, case in enumerate(cases)
                    }
                    for task, cases in trial.scored_cases().items()
                },
                curve=((5, {"t2i": 3.0}),),
                cost=Cost(
                    images=1,
                    teacher_calls=2,
                    seconds=1.5,
                    total_seconds=3.5,
                    compute=2.5,
                    unit="CPU-seconds",
                ),
                data={"t2i": {"text": CategoryData(unique=8, passes=2.5)}},
            ),
        )
    lines = (out / TRIALS).read_bytes().splitlines()
    before, none = read_records(out, trials)
    assert none == [] and len(before) == len(lines) == 4
    cases = trials[0].scored_cases()

    @given(number=st.integers(0, len(lines) - 1), data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(number: int, data: Draw) -> None:
        own = trials[number].name
        mutated = data.draw(mutations(lines[number]))
        (out / TRIALS).write_bytes(b"\n".join([*lines[:number], mutated, *lines[number + 1 :]]))
        found, faults = read_records(out, trials)
        assert {n: r for n, r in found.items() if n != own} == {
            n: r for n, r in before.items() if n != own
        }
        tried.count(own not in found)
        assert all(map(is_one_line, faults))
        findings = compare_arms(study, cases, trials, found)
        assert findings.missing == (() if own in found else (own,))
        assert findings.unscored == {"t2i": 0} or own in found
        means = [cell.mean for table in findings.tables for row in table.rows
                 for cell in row.cells.values()]  # fmt: skip
        assert len(means) > 0 and np.isfinite(means).all()

    check()
    assert (out / STUDY).is_file()


def test_a_trial_without_data_or_an_end_is_no_record() -> None:
    fields = {"trial": "a-0", "arm": "a", "seed": 0, "digest": "x", "iterations": 1}
    fields["code"] = "0123456789abcdef"
    cost = {"images": 1, "teacher_calls": 1, "seconds": 1, "total_seconds": 2, "compute": 1}
    cost["unit"] = "CPU-seconds"
    scores = {"t2i": {"text-000": {"score": 2}}}
    for more in ({}, {"scores": scores, "cost": cost, "data": {"t2i": {}}}):
        with pytest.raises(CorruptRecord, match="neither diverged, nor with scores, cost and data"):
            parse_record(Record, json.dumps({**fields, **more}).encode(), "line 1", "remove it")
    assert parse_record(
        Record, json.dumps({**fields, "diverged": "why"}).encode(), "1", ""
    ).diverged

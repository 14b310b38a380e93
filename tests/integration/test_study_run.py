"""Studies and searches on Ray Tune: records, retries from checkpoints, trials that are stopped."""

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml

from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.draw import draw
from flash_ray.recipe import dump_yaml
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import read_student
from flash_ray.studies import resources
from flash_ray.studies.records import SearchResult, read_records
from flash_ray.studies.runner import run_trials
from flash_ray.studies.search import SearchLog, run_search
from flash_ray.studies.space import combinations
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.telemetry.progress import Steps
from tests.helpers.distilling import small_recipe


class KillOnce(EncodedBenchmark):
    """Cases of the curve: of students with two rungs, the third score ends its process once."""

    def __init__(self, encoded: EncodedBenchmark, marker: Path, store: Store, run_name: str):
        super().__init__(encoded.batches)
        for name, value in (("marker", marker), ("store", store), ("run_name", run_name)):
            object.__setattr__(self, name, value)

    def images(self, base, transformer, sampler):
        if len(sampler.sigmas) != 2:
            return super().images(base, transformer, sampler)
        with self.marker.open("a") as file:
            file.write("scored\n")
        if self.marker.read_text().count("scored") == 3:
            checkpoints = f"runs/{self.run_name}/train/checkpoint_manager_snapshot.json"
            while b"iteration-000002" not in (self.store.get_bytes(checkpoints) or b""):
                time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().images(base, transformer, sampler)


class ByRungs:
    """An EncodedBenchmark with pictures that are perfect, or black of students of two rungs."""

    def cases(self, task):
        return MiniatureBenchmark().cases(task, 1)

    def images(self, base, transformer, sampler):
        drawn = draw([case.target for case in self.cases("t2i")]).transpose(0, 2, 3, 1)
        is_good = len(sampler.sigmas) != 2
        return {"t2i": list(np.round(drawn * 255 * is_good).astype(np.uint8))}


@pytest.fixture
def study(base, tmp_path, monkeypatch):
    """Writes a study of that base and loads it; its trials find the session's Ray."""
    monkeypatch.setattr(resources, "ray_session", lambda needs: nullcontext())

    def written(*overrides, **fields):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(dump_yaml(small_recipe(base, *overrides)))
        file = tmp_path / "study.yaml"
        common = {
            "recipe": str(recipe),
            "seeds": [0],
            "budget": {"iterations": 4},
            "curve_every": 1,
        }
        file.write_text(yaml.safe_dump({**common, **fields}, sort_keys=False))
        return load_study(str(file))

    return written


def test_a_trial_leaves_its_record_and_its_student(study, store, cluster, tmp_path):
    loaded = study(
        "evaluation.baselines=false",
        name="quick",
        budget={"iterations": 2},
        early=1,
        redraw=True,
        diversity={"prompts": 1, "noises": 2},
        arms={"four": {}, "two": {"student.steps": 2}},
        fixed=[],
        cases={"t2i": 1},
    )
    trial, _ = plan_trials(loaded)
    out = tmp_path / "out"
    out.mkdir()
    with Steps() as steps:
        assert run_trials([trial], store, out, 1, steps) == {}
    records, faults = read_records(out, [trial])
    assert set(records) == {"quick-four-0"} and not faults
    record, ids = records[trial.name], {"landscape-016", "portrait-016", "text-016"}
    assert set(record.scores["t2i"]) == set(record.early["t2i"]) == ids
    assert set(record.diversity["t2i"]) == ids and all(record.diversity["t2i"].values())
    assert record.cost.total_seconds > record.cost.seconds > 0
    left = [key.removeprefix(f"runs/{trial.name}/") for key in store.list(f"runs/{trial.name}/")]
    assert [key for key in left if not key.startswith("sheets/")] == ["code", "run.json"]
    assert read_student(store, trial.name).recipe_digest == trial.recipe.digest


@pytest.mark.slow
def test_a_trial_alone_and_beside_another_leaves_the_same_record(study, store, cluster, tmp_path):
    loaded = study(
        "teacher_defaults.placement=actors",  # the trials share the teachers
        "evaluation.baselines=false",
        "evaluation.cases={t2i: 1, edit: 0}",
        name="beside",
        budget={"iterations": 3},
        early=2,
        diversity={"prompts": 1, "noises": 2},
        arms={"half": {}, "images": {"tasks": {"t2i": 1, "edit": 0}}},
        cases={"t2i": 1},
    )
    half, images = plan_trials(loaded)
    found = []
    for number, trials in enumerate(([half], [half, images])):
        for name in (half.name, images.name):
            for kind in ("runs", "students"):
                store.delete_all(f"{kind}/{name}/")
        out = tmp_path / f"out-{number}"
        out.mkdir()
        with Steps() as steps:
            assert run_trials(trials, store, out, len(trials), steps) == {}
        records, _ = read_records(out, trials)
        found.append((records[half.name], (out / "pictures" / f"{half.name}.webp").read_bytes()))
    (alone, shown), (beside, shown_beside) = found
    assert alone.model_copy(update={"cost": beside.cost}) == beside
    assert shown == shown_beside


@pytest.mark.slow
def test_a_study_leaves_records_retries_from_checkpoints_and_repeats_nothing(
    study, store, cluster, tmp_path, monkeypatch
):
    loaded = study(
        "teacher_defaults.placement=actors",
        "runtime.checkpoint_every=2",
        "evaluation.baselines=false",
        "evaluation.cases={t2i: 1, edit: 1}",
        name="two-arms",
        early=1,
        arms={"four": {}, "two": {"student.steps": 2}},
        fixed=[],
        cases={"t2i": 1, "edit": 1},
    )
    trials = plan_trials(loaded)
    marker, encode = tmp_path / "marker", resources.encode_in_task

    def encode_to_kill(recipe, cases):
        encoded, curve = encode(recipe, cases)
        return [encoded, KillOnce(curve, marker, store, "two-arms-two-0")]

    monkeypatch.setattr(resources, "encode_in_task", encode_to_kill)
    out = tmp_path / "out"
    out.mkdir()
    with Steps() as steps:
        assert run_trials(trials, store, out, 2, steps) == {}
    records, _ = read_records(out, trials)
    assert set(records) == {"two-arms-four-0", "two-arms-two-0"}
    for trial in trials:
        record = records[trial.name]
        assert [iteration for iteration, _ in record.curve] == [1, 2, 3, 4]
        assert {task: len(scores) for task, scores in record.scores.items()} == {
            "t2i": 3,
            "edit": 6,
        }
        assert {task: len(scores) for task, scores in record.early.items()} == {"t2i": 3, "edit": 6}
        assert record.early != record.scores
        assert record.cost.images == 16 and record.cost.teacher_calls > 0
        assert read_student(store, trial.name).recipe_digest == trial.recipe.digest
        assert (out / "pictures" / f"{trial.name}.webp").is_file()
        sheets = [f"sheets/iteration-00000{iteration}.png" for iteration in (1, 2, 3, 4)]
        kept = [f"runs/{trial.name}/{name}" for name in ("code", "run.json", *sheets)]
        assert list(store.list(f"runs/{trial.name}/")) == kept
    assert marker.read_text().split() == ["scored"] * 5  # at 1, 2, 3; again at 3, and 4

    def never(*_):
        raise AssertionError("a finished study connects to nothing")

    monkeypatch.setattr(resources, "ray_session", never)
    with Steps() as steps:
        assert run_trials(trials, store, out, 2, steps) == {}
    assert read_records(out, trials) == (records, [])


@pytest.mark.slow
def test_a_search_stops_what_is_worse_and_leaves_no_workers(
    study, store, cluster, tmp_path, monkeypatch
):
    loaded = study(
        "runtime.num_workers=2",  # as many as the cluster has room for
        "runtime.micro_batch_size=2",
        name="rungs",
        cases={"t2i": 1},
        fixed=[],
        space={"student.steps": [4, 2]},
    )
    monkeypatch.setattr(resources, "encode_in_task", lambda *asked: [ByRungs(), ByRungs()])
    choices = combinations(loaded)
    about = SearchResult(study=loaded.name, method="asha", every=1)
    with Steps() as steps:
        log = SearchLog(tmp_path, about, choices, 2, store, steps)
        result = run_search(loaded, choices, 2, store, log, 1, steps)
    # The study's own recipe, too, has more than two rungs: its pictures are as perfect.
    assert result.held_out.best == result.held_out.own
    written = SearchResult.model_validate_json((tmp_path / "search.json").read_text())
    assert result == written
    good, bad = result.trials
    assert (good.state, bad.state) == ("finished", "stopped")
    assert [point.iteration for point in good.points] == [1, 2, 3, 4]
    assert [point.iteration for point in bad.points] == [1]
    assert good.points[0].score > 4.5 > 2 > bad.points[0].score
    assert log.best.number == result.best == good.trial == 0
    assert not list(store.list("runs/rungs_search_0/"))
    until = time.monotonic() + 60
    while ray.available_resources().get("trainer", 0) < 2:
        assert time.monotonic() < until, "the stopped trial's workers still hold their resources"
        time.sleep(0.5)

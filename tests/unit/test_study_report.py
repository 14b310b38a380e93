"""A study's report from records: complete, of a part, with a diverged trial, of a bad folder."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.studies.code import code_digest
from flash_ray.studies.findings import compare_arms, paired_factors
from flash_ray.studies.outcomes import Measured
from flash_ray.studies.pictures import LABEL, LINE, SCORE, grid, strip
from flash_ray.studies.records import CategoryData, Record, append_record, read_records
from flash_ray.studies.report import write_report
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.studies.trial import summary
from flash_ray.workflows import study as commands
from tests.helpers.study_records import STUDY, finished_study, history, remove_records


@pytest.fixture
def study_file(tmp_path):
    return str(tmp_path / "small.yaml")


@pytest.fixture
def filled(study_file):
    """(study, trials, folder) of a study that is finished."""
    return finished_study(Path(study_file))


def test_a_report_begins_with_answers_and_has_tables_curves_and_pictures(filled, study_file):
    _, _, out = filled
    folder, _ = commands.report(study_file, out, None)
    text = (folder / "report.md").read_text()
    assert "6 of 6 trials" in text and "Not finished" not in text and f"`{code_digest()}`" in text
    answers = text[: text.index("## How it was measured")]
    assert "2 claims: 1 replicated, 1 contradicted." in answers
    assert re.search(r"1\. \*\*Replicated\*\*: good is better \(us\)\. .* \+0\.6\d+ \[", answers)
    assert re.search(r"2\. \*\*Contradicted\*\*: bad is better \(us\)\. ", answers)
    assert "- Task mixture, text to image: `good` is ahead with " in answers
    assert "it beats every other arm" in answers
    assert re.search(r"\| 1 \| good is better \(us\) .*\| \*\*replicated\*\* \|  \|", text)
    (row, *_) = [line for line in text.splitlines() if line.startswith("| good | 2 | **")]
    assert row.rstrip().endswith("| 1 |  |")
    assert "| bad † | 2 |" in text and "zero-shot" in text
    assert re.search(r"\| t2i \| score \| 0\.0\d\d \[0\.0\d\d, 0\.\d+\] \| 3 \|", text)
    assert "| good | 10 | 320 | 8 | 2.5 | 640 | 15 | 2.5 |" in text
    assert "| good | other | 1 | 0.50 | 1.00 | -0.25 |" in text
    assert "| arm | compliance | quality | score, early |" in text
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(linked) == 5 and all((folder / file).stat().st_size > 300 for file in linked)
    sheet = Image.open(folder / "figures/grid-mixture-edit.webp")
    assert sheet.height == LINE + 4 * 64 + 3 * SCORE  # the inputs and three arms
    assert {path.name for path in folder.iterdir()} == {
        "report.md",
        "tables.csv",
        "claims.csv",
        "figures",
    }


def test_the_tables_are_also_csv(filled, study_file):
    folder, _ = commands.report(study_file, filled[2], filled[2] / "elsewhere")
    with (folder / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    late, both = ("score", "compliance", "quality", "diversity"), ("score", "compliance", "quality")
    assert len(rows) == (len(late) + len(both)) * (3 * (3 + 1) + 3 * (6 + 1))
    assert {(r["horizon"], r["outcome"]) for r in rows} == {
        *(("late", name) for name in late),
        *(("early", name) for name in both),
    }
    of_t2i = [r for r in rows if r["column"] == "average" and r["task"] == "t2i"]
    best = [r for r in of_t2i if r["rank"] == "1" and r["outcome"] == "score"]
    assert [(r["arm"], r["best"], r["zero_shot"]) for r in best] == [("good", "True", "False")] * 2
    assert float(best[0]["low"]) < float(best[0]["mean"]) < float(best[0]["high"])
    with (folder / "claims.csv").open() as file:
        assert [r["verdict"] for r in csv.DictReader(file)] == ["replicated", "contradicted"]


def test_a_part_of_a_study_names_what_is_missing(filled, study_file):
    study, trials, out = filled
    remove_records(out, "small-good-1", "small-bad-0", "small-bad-1")
    text = (commands.report(study_file, out, None)[0] / "report.md").read_text()
    assert "**Not finished** (3): small-bad-0, small-good-1, small-bad-1" in text
    assert "| no data |  | **undecided** |" in text
    assert "Not all of its arms have been scored." in text
    states = {row.trial: row.state for row in commands.status(study_file, out)[0]}
    assert states["small-bad-0"] == "waiting" and states["small-good-0"] == "finished"


def test_a_diverged_trial_is_named_and_does_not_count(filled):
    study, trials, out = filled
    lost = next(t for t in trials if t.name == "small-bad-1")
    fields = {"trial": lost.name, "arm": "bad", "seed": 1, "digest": lost.digest, "iterations": 10}
    fields["code"] = code_digest()
    append_record(out, Record(**fields, diverged="fake_score_loss is nan at iteration 3"))
    (records, _), cases = read_records(out, trials), lost.scored_cases()
    write_report("small", compare_arms(study, cases, trials, records), cases, out, out / "report")
    text = (out / "report/report.md").read_text()
    assert "**Diverged**: small-bad-1: fake_score_loss is nan at iteration 3." in text
    assert "| bad † | 1 |" in text and "| half | 2 |" in text


def test_cases_that_some_trial_has_no_score_of_are_left_out_for_all(filled):
    study, trials, out = filled
    (records, _), cases = read_records(out, trials), trials[0].scored_cases()
    name = trials[0].name
    lost = {"text-016", "text-017", "text-018", "text-019", "portrait-016"}
    scores = {
        **records[name].scores["t2i"],
        **{case: CaseScore(score=None, failure="unreadable") for case in lost},
    }
    changed = {**records[name].scores, "t2i": scores}
    records[name] = records[name].model_copy(update={"scores": changed})
    findings = compare_arms(study, cases, trials, records)
    assert findings.unscored == {"t2i": 5, "edit": 0}
    of_text = findings.verdicts[1]
    assert (of_text.effect, of_text.verdict) == (None, "undecided")
    table = next(table for table in findings.tables if table.measured == Measured("t2i"))
    assert table.columns == ("landscape", "portrait", "average")
    write_report("small", findings, cases, out, out / "report")
    text = (out / "report/report.md").read_text()
    assert "**Without a score**: 5 cases of t2i, in some trial; they are left out for all." in text


def test_claims_are_decided_on_any_benchmark_by_any_judge(tmp_path):
    """On categories from a file, on the scale of the judge that the study names."""
    rows = (
        f'{{"id": "{kind}-{n}", "prompt": "A sign", "category": "{kind}", "text": "GO"}}\n'
        for kind in ("wood", "metal")
        for n in range(3)
    )
    (tmp_path / "signs.jsonl").write_text("".join(rows))
    better = {"source": "us", "left": ["good"], "right": ["half"], "expect": "higher"}
    fields = yaml.safe_load(STUDY) | {
        "benchmark": {"t2i": str(tmp_path / "signs.jsonl")},
        "judge": "ocr",
        "development": 0,
        "margins": {"score": 0.01},
        "diversity": None,
        "cases": {"t2i": 3},
        "factors": {},
        "claims": [
            {**better, "text": "good reads better", "measure": "t2i"},
            {**better, "text": "and on metal", "measure": "t2i.metal"},
            {**better, "text": "not worse", "measure": "t2i.wood", "expect": "lower"},
        ],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(fields))
    study = load_study(str(tmp_path / "own.yaml"))
    trials = plan_trials(study)
    share = {"half": 0.5, "good": 0.9, "bad": 0.1}
    cases = trials[0].scored_cases()
    records = {
        trial.name: Record(
            trial=trial.name,
            arm=trial.arm,
            seed=trial.seed,
            digest=trial.digest,
            code=code_digest(),
            iterations=10,
            scores={
                "t2i": {
                    case.id: CaseScore(score=share[trial.arm] + trial.seed / 100 + n / 1000)
                    for n, case in enumerate(cases["t2i"])
                }
            },
            data={"t2i": {"wood": CategoryData(unique=8, passes=2.5)}},
            published="s3://bucket/students/x",
            **summary(history(), "CPU-seconds", 150.0),
        )
        for trial in trials
    }
    findings = compare_arms(study, cases, trials, records)
    assert (findings.benchmark, findings.judge) == ("signs", "ocr")
    assert findings.scale == "characters right, 0 to 1"
    assert [found.verdict for found in findings.verdicts] == [
        "replicated",
        "replicated",
        "contradicted",
    ]
    assert findings.tables[0].columns == ("metal", "wood", "average")
    write_report("own", findings, cases, tmp_path / "none", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "judge `ocr` (characters right, 0 to 1)" in text and "development" not in text


def test_pictures_of_any_size_share_a_grid():
    wide = Image.new("RGB", (300, 150), "red")
    cases = {
        "t2i": [Case("a-0", "t2i", "a", "p", (40, 80), 0)],
        "edit": [Case("b-0", "edit", "b", "p", (512, 512), 0, references=(wide,))],
    }
    images = {
        "t2i": [np.zeros((40, 80, 3), np.uint8)],
        "edit": [np.full((512, 512, 3), 99, np.uint8)],
    }
    tile = 256
    strips = {"arm": Image.open(io.BytesIO(strip(images, cases)))}
    sheet = grid(["arm"], strips, cases, "t2i", {"arm": {"a-0": "4.20"}})
    assert sheet.size == (LABEL + tile, LINE + tile + SCORE)
    assert sheet.getpixel((LABEL + tile // 2, LINE + tile // 2)) < (9, 9, 9)  # 80 wide
    assert min(sheet.getpixel((LABEL + 10, LINE + tile // 2))) > 240  # beside it
    below = np.asarray(sheet)[LINE + tile :, LABEL:]
    assert below.min() < 99  # the score
    sheet = grid(["arm"], strips, cases, "edit", {})
    assert sheet.height == LINE + 2 * tile + SCORE
    assert sheet.getpixel((LABEL + tile // 2, LINE + tile // 2))[0] > 240  # the input
    assert sheet.getpixel((LABEL + tile // 2, LINE + 2)) == (255, 255, 255)  # above it


def test_one_seed_decides_nothing(filled, study_file):
    study, trials, out = filled
    remove_records(out, *(trial.name for trial in trials if trial.seed != study.seeds[0]))
    folder, _ = commands.report(study_file, out, None)
    with (folder / "claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    assert {claim["verdict"] for claim in claims} == {"undecided"}
    assert all(claim["low"] and claim["high"] for claim in claims)  # over cases


def test_a_study_without_claims_says_who_is_ahead(filled):
    study, trials, out = filled
    (records, _), cases = read_records(out, trials), trials[0].scored_cases()
    plain = study.model_copy(update={"claims": (), "factors": {}})
    write_report("small", compare_arms(plain, cases, trials, records), cases, out, out / "report")
    text = (out / "report/report.md").read_text()
    assert text.startswith(
        "# Study small\n\n## Answers\n\nWho is ahead:\n\n- Arms, text to image: "
    )
    assert "## Claims" not in text and "claims.svg" not in text
    assert (out / "report/claims.csv").read_text() == ""


def test_arms_of_the_same_data_are_known_by_their_recipes(filled):
    study, trials, _ = filled
    assert paired_factors(study, trials) == frozenset()
    alike = [replace(trial, recipe=trials[0].recipe) for trial in trials]
    assert paired_factors(study, alike) == {"mixture"}

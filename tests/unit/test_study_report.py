"""A study's report from records: complete, of a part, with a diverged trial, of a bad folder."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.miniature.benchmark import cases
from flash_ray.studies.figures import LINE
from flash_ray.studies.findings import find
from flash_ray.studies.records import (
    PICTURES,
    TRIALS,
    Record,
    read_records,
    strip,
    summary,
    write_record,
)
from flash_ray.studies.report import write_report
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.workflows import study as commands

STUDY = """
name: small
recipe: miniature
budget: {iterations: 10}
seeds: [0, 1]
noise: {arms: [half], seeds: [7, 8]}
cases: {t2i: 4, edit: 2}
arms:
  half: {}
  good: {tasks: {t2i: 1, edit: 0}}
  bad: {tasks: {t2i: 0, edit: 1}}
factors:
  mixture: {title: Task mixture, arms: [half, good, bad], tasks: [t2i, edit]}
claims:
  - {text: good is better, source: us, left: [good], right: [half], measure: t2i, expect: higher}
  - {text: bad is better, source: us, left: [bad], right: [half], measure: t2i.text, expect: higher}
"""
LEVEL = {"half": 3.0, "good": 3.6, "bad": 2.4}


def history(updates=10):
    return [
        {
            "update": n + 1,
            "workers": 1,
            "measures": {"images": 32, "teacher_calls": 64, "seconds": 2.0, "cpu_seconds": 1.5},
            "tasks": {"t2i": {"student_loss": 0.5, "fake_loss": 0.4}},
            "teachers": {
                "base": {"1": {"weight": 0.5}},
                "other": {"1": {"weight": 0.5, "norm": 1.0, "cosine": -0.25}},
            },
            **({"bench": {"t2i": 3.0 + n / 10, "edit": 3.0}} if (n + 1) % 5 == 0 else {}),
        }
        for n in range(updates)
    ]


def record(trial):
    rng = np.random.default_rng([trial.seed, len(trial.arm)])
    scores = {
        bench: {
            case.id: (LEVEL[trial.arm] + case.index / 10 + float(rng.normal(0, 0.05)), 0.5, 0.5)
            for case in cases(bench, count)
        }
        for bench, count in trial.benches.items()
    }
    return Record(
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        digest=trial.digest,
        updates=10,
        scores=scores,
        diversity={
            "t2i": {"landscape": 0.1, "portrait": 0.2, "text": None},
            "edit": dict.fromkeys(
                ("scene", "enhancement", "object", "text", "identity", "style"), 0.1
            ),
        },
        data={"t2i": {"text": {"unique": 8, "passes": 2.5}}},
        published="s3://bucket/students/x",
        **summary(history(), "CPU-seconds"),
    )


@pytest.fixture
def study_file(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(STUDY)
    return str(file)


@pytest.fixture
def filled(study_file, tmp_path):
    """(study, trials, folder) of a study that is finished."""
    study = load_study(study_file)
    trials, out = plan_trials(study), tmp_path / "out"
    commands._claim(out, study)
    (out / PICTURES).mkdir()
    for trial in trials:
        write_record(out, record(trial))
        pictures = {
            bench: np.full((len(cases(bench, n)), 64, 64, 3), 99, np.uint8)
            for bench, n in trial.benches.items()
        }
        asked = {bench: cases(bench, n) for bench, n in trial.benches.items()}
        (out / PICTURES / f"{trial.name}.webp").write_bytes(strip(pictures, asked))
    return study, trials, out


def test_a_report_has_tables_verdicts_noise_cost_curves_and_pictures(filled, study_file):
    _, _, out = filled
    folder = commands.report(study_file, out, None)
    text = (folder / "report.md").read_text()
    assert "8 of 8 trials" in text and "Not finished" not in text
    assert re.search(r"good is better \(us\).*\+0\.6\d+ \[\+0\.\d+, .*\*\*replicated\*\*", text)
    assert re.search(r"bad is better \(us\).*\*\*contradicted\*\*", text)
    (row,) = [line for line in text.splitlines() if line.startswith("| good | 2 | **")][:1]
    assert row.rstrip().endswith("| 1 |  |")
    assert "| half | t2i | 4 |" in text  # noise: four seeds
    assert "| good | 10 | 320 | 8 | 2.5 | 640 | 15 |" in text
    assert "| good | other | 1 | 0.50 | 1.00 | -0.25 |" in text
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(linked) == 4 and all((folder / file).stat().st_size > 300 for file in linked)
    sheet = Image.open(folder / "figures/grid-mixture-edit.webp")
    assert sheet.height == LINE + 4 * 64  # the inputs and three arms
    page = (folder / "report.html").read_text()
    assert page.count("data:image/") == 4 and "<table>" in page and 'src="figures' not in page


def test_the_tables_are_also_csv(filled, study_file):
    folder = commands.report(study_file, filled[2], filled[2] / "elsewhere")
    with (folder / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (3 + 1) + 3 * (6 + 1)
    best = [
        r for r in rows if r["column"] == "average" and r["bench"] == "t2i" and r["rank"] == "1"
    ]
    assert [r["arm"] for r in best] == ["good"]
    assert float(best[0]["low"]) < float(best[0]["mean"]) < float(best[0]["high"])
    with (folder / "claims.csv").open() as file:
        assert [r["verdict"] for r in csv.DictReader(file)] == ["replicated", "contradicted"]


def test_a_part_of_a_study_names_what_is_missing(filled, study_file):
    study, trials, out = filled
    (out / "trials/small-good-1.json").unlink()
    (out / "trials/small-bad-0.json").unlink()
    (out / "trials/small-bad-1.json").unlink()
    text = (commands.report(study_file, out, None) / "report.md").read_text()
    assert "**Not finished** (3): small-bad-0, small-good-1, small-bad-1" in text
    assert "no data | **undecided**" in text
    states = {row["trial"]: row["state"] for row in commands.status(study_file, out)}
    assert states["small-bad-0"] == "waiting" and states["small-good-0"] == "finished"


def test_a_diverged_trial_is_named_and_does_not_count(filled):
    study, trials, out = filled
    lost = next(t for t in trials if t.name == "small-bad-1")
    fields = {"trial": lost.name, "arm": "bad", "seed": 1, "digest": lost.digest, "updates": 10}
    write_record(out, Record(**fields, diverged="fake_loss is nan at update 3"))
    found = find(study, trials, read_records(out, trials))
    write_report("small", found, out, out / "report")
    text = (out / "report/report.md").read_text()
    assert "**Diverged**: small-bad-1: fake_loss is nan at update 3." in text
    assert "| bad | 1 |" in text and "| half | 2 |" in text


def test_records_of_a_changed_study_are_refused(filled, study_file, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.replace("updates: 10", "updates: 11"))
    with pytest.raises(UserError, match="the study has changed; choose another --out"):
        commands.report(study_file, filled[2], None)


def test_a_corrupt_record_is_named(filled, study_file):
    path = filled[2] / "trials/small-half-0.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="small-half-0.json is corrupt; remove it"):
        commands.report(study_file, filled[2], None)


def test_folders_that_are_not_the_studys_are_refused(filled, study_file, tmp_path):
    with pytest.raises(UserError, match="no study in .*nowhere; allowed: the folder"):
        commands.status(study_file, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds something that no study wrote"):
        commands._claim(tmp_path, filled[0])
    with pytest.raises(UserError, match="is of study small, not three-factors"):
        commands._claim(filled[2], load_study("three-factors"))


def test_one_seed_decides_nothing(filled, study_file):
    study, trials, out = filled
    for trial in trials:
        if trial.seed != study.seeds[0]:
            (out / TRIALS / f"{trial.name}.json").unlink()
    folder = commands.report(study_file, out, None)
    with (folder / "claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    assert {claim["verdict"] for claim in claims} == {"undecided"}
    assert all(claim["low"] and claim["high"] for claim in claims)  # over cases

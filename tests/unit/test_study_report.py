"""A study's report from records: complete, of a part, with a diverged trial, of a bad folder."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.studies.baselines import Baselines, BaselineScores, digest_of
from flash_ray.studies.findings import compare_arms
from flash_ray.studies.records import (
    PICTURES,
    TRIALS,
    CategoryData,
    Record,
    append_record,
    read_records,
)
from flash_ray.studies.report import LINE, grid, strip, write_report
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.studies.trial import summary
from flash_ray.trainer.metrics import TaskLosses, TeacherStats
from flash_ray.workflows import study as commands
from tests.helpers.metrics import update_metrics

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


def history(iterations=10):
    return [
        replace(
            update_metrics(n + 1),
            num_workers=1,
            images=32,
            teacher_calls=64,
            cpu_seconds=1.5,
            tasks={"t2i": TaskLosses(0.5 + n, 0.4)},
            teachers={
                "base": {1: TeacherStats(0.5)},
                "other": {1: TeacherStats(0.5, *((1.0, -0.25) if n % 2 else ()))},
            },
            scores={"t2i": 3.0 + n / 10, "edit": 3.0} if (n + 1) % 5 == 0 else None,
        )
        for n in range(iterations)
    ]


def record(trial):
    rng = np.random.default_rng([trial.seed, len(trial.arm)])

    def score(case):
        index = int(case.id.rpartition("-")[2])
        value = LEVEL[trial.arm] + index / 10 + float(rng.normal(0, 0.05))
        return CaseScore(score=value, measures={"compliance": 0.5, "quality": 0.5})

    cases = trial.scored_cases()
    return Record(
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        digest=trial.digest,
        iterations=10,
        scores={task: {case.id: score(case) for case in cases[task]} for task in cases},
        diversity={
            "t2i": {"landscape": 0.1, "portrait": 0.2, "text": None},
            "edit": {case.category: 0.1 for case in cases["edit"]},
        },
        data={"t2i": {"text": CategoryData(unique=8, passes=2.5)}},
        published="s3://bucket/students/x",
        **summary(history(), "CPU-seconds"),
    )


def remove_records(out, *names):
    lines = (out / TRIALS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f'"{name}"' in line for name in names)]
    assert len(kept) == len(lines) - len(names)
    (out / TRIALS).write_text("".join(kept))


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
    commands.claim_folder(out, study)
    (out / PICTURES).mkdir()
    cases = trials[0].scored_cases()
    images = {task: [np.full((64, 64, 3), 99, np.uint8)] * len(cases[task]) for task in cases}
    for trial in trials:
        append_record(out, record(trial))
        (out / PICTURES / f"{trial.name}.webp").write_bytes(strip(images, cases))
    return study, trials, out


def test_a_report_has_tables_verdicts_noise_cost_curves_and_pictures(filled, study_file):
    _, _, out = filled
    folder, _ = commands.report(study_file, out, None)
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
    assert len(rows) == 3 * (3 + 1) + 3 * (6 + 1)
    best = [r for r in rows if r["column"] == "average" and r["task"] == "t2i" and r["rank"] == "1"]
    assert [r["arm"] for r in best] == ["good"]
    assert float(best[0]["low"]) < float(best[0]["mean"]) < float(best[0]["high"])
    with (folder / "claims.csv").open() as file:
        assert [r["verdict"] for r in csv.DictReader(file)] == ["replicated", "contradicted"]


def test_a_part_of_a_study_names_what_is_missing(filled, study_file):
    study, trials, out = filled
    remove_records(out, "small-good-1", "small-bad-0", "small-bad-1")
    text = (commands.report(study_file, out, None)[0] / "report.md").read_text()
    assert "**Not finished** (3): small-bad-0, small-good-1, small-bad-1" in text
    assert "no data | **undecided**" in text
    states = {row.trial: row.state for row in commands.status(study_file, out)[0]}
    assert states["small-bad-0"] == "waiting" and states["small-good-0"] == "finished"


def test_a_diverged_trial_is_named_and_does_not_count(filled):
    study, trials, out = filled
    lost = next(t for t in trials if t.name == "small-bad-1")
    fields = {"trial": lost.name, "arm": "bad", "seed": 1, "digest": lost.digest, "iterations": 10}
    append_record(out, Record(**fields, diverged="fake_score_loss is nan at iteration 3"))
    (records, _), cases = read_records(out, trials), lost.scored_cases()
    write_report("small", compare_arms(study, cases, trials, records), cases, out, out / "report")
    text = (out / "report/report.md").read_text()
    assert "**Diverged**: small-bad-1: fake_score_loss is nan at iteration 3." in text
    assert "| bad | 1 |" in text and "| half | 2 |" in text


def test_records_of_a_changed_study_are_refused(filled, study_file, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.replace("iterations: 10", "iterations: 11"))
    with pytest.raises(UserError, match="benchmark has changed; choose another --out"):
        commands.report(study_file, filled[2], None)


def test_a_corrupt_line_or_picture_is_named_and_costs_only_itself(filled, study_file):
    _, trials, out = filled
    file = out / TRIALS
    lines = file.read_text().splitlines()
    lines[2] = lines[2][:-20]
    lines[3] = lines[3].replace(trials[3].digest, "0123456789abcdef")
    file.write_text("\n".join(lines))
    (out / PICTURES / f"{trials[0].name}.webp").write_bytes(b"RIFF")
    folder, faults = commands.report(study_file, out, None)
    said = [str(fault) for fault in faults]
    assert len(said) == 3
    assert re.search(r"trials.jsonl, line 3 is corrupt \(.*\); its trial is run anew", said[0])
    assert f"line 4 is corrupt ({trials[3].name} has digest 0123456789abcdef" in said[1]
    assert f"{trials[0].name}.webp is corrupt" in said[2] and "left out" in said[2]
    text = (folder / "report.md").read_text()
    assert f"**Not finished** (2): {trials[2].name}, {trials[3].name}" in text

    (out / "progress.json").write_text('{"small-good-0": "far"}')
    rows, faults = commands.status(study_file, out)
    assert sum(row.state == "finished" for row in rows) == len(trials) - 2
    assert "progress.json is corrupt" in str(faults[-1])
    for damaged in ("{", "[]", '{"name": 3}'):
        (out / "study.json").write_text(damaged)
        with pytest.raises(UserError, match=r"study.json is corrupt \(.*write {.name.: .small.}"):
            commands.status(study_file, out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-20],
        lambda line: line[:40],
        lambda line: b"\x00\xff" + line[2:],
        lambda line: line.replace(b'"seed":', b'"sead":'),
        lambda line: re.sub(rb'"digest":"[0-9a-f]+"', b'"digest":"0123456789abcdef"', line),
        lambda line: b"\xff" * 100,
        lambda line: b"[]",
    ],
)
@pytest.mark.parametrize("number", [2, -1])
def test_a_corrupt_line_is_replaced_when_its_trial_is_run_again(filled, damage, number):
    _, trials, out = filled
    lines = (out / TRIALS).read_bytes().splitlines()
    trial = trials[number]
    others = [line for line in lines if line != lines[number]]
    lines[number] = damage(lines[number])
    (out / TRIALS).write_bytes(b"\n".join(lines))  # cut off: the last line has no end
    found, (fault,) = read_records(out, trials)
    assert set(found) == {each.name for each in trials} - {trial.name}
    assert str(fault).endswith("is run anew and replaces it")

    append_record(out, record(trial))
    found, faults = read_records(out, trials)
    assert (set(found), faults) == ({each.name for each in trials}, [])
    assert (out / TRIALS).read_bytes().splitlines()[:-1] == others


def test_a_record_replaces_no_damaged_line_of_another_trial(filled):
    _, trials, out = filled
    lines = (out / TRIALS).read_bytes().splitlines()
    lines[1] = lines[1][:-1]
    (out / TRIALS).write_bytes(b"\n".join([*lines[:3], lines[3][:-1]]))
    append_record(out, record(trials[3]))
    found, (fault,) = read_records(out, trials)
    assert set(found) == {trials[n].name for n in (0, 2, 3)}
    assert "line 2 is corrupt" in str(fault)


def test_a_record_is_a_line_that_is_read_back_whole(filled):
    _, trials, out = filled
    assert len((out / TRIALS).read_text().splitlines()) == len(trials)
    assert read_records(out, trials) == ({trial.name: record(trial) for trial in trials}, [])
    assert {path.name for path in out.iterdir()} == {"study.json", TRIALS, PICTURES}


def test_a_history_is_summed_up_by_its_unit_rung_and_task():
    of_cpus, of_gpus = (summary(history(), f"{unit}-seconds") for unit in ("CPU", "GPU"))
    assert (of_cpus["cost"].compute, of_gpus["cost"].compute) == (15.0, 20.0)
    assert of_cpus["curve"] == ((5, {"t2i": 3.4, "edit": 3.0}), (10, {"t2i": 3.9, "edit": 3.0}))
    other = of_cpus["teachers"]["other"][1]
    assert (other.weight, other.norm, other.cosine) == (0.5, 1.0, -0.25)
    assert of_cpus["teachers"]["base"][1].norm is None
    assert of_cpus["losses"]["t2i"].student_loss == 9.5  # of the last of ten


def test_cases_that_some_trial_has_no_score_of_are_left_out_for_all(filled):
    study, trials, out = filled
    (records, _), cases = read_records(out, trials), trials[0].scored_cases()
    name, lost = trials[0].name, {"text-000", "text-001", "text-002", "text-003", "portrait-000"}
    scores = {
        **records[name].scores["t2i"],
        **{case: CaseScore(score=None, failure="unreadable") for case in lost},
    }
    changed = {**records[name].scores, "t2i": scores}
    records[name] = records[name].model_copy(update={"scores": changed})
    findings = compare_arms(study, cases, trials, records)
    assert findings.unscored == {"t2i": 5, "edit": 0}
    of_text = findings.verdicts[1]
    assert (of_text.difference, of_text.verdict) == (None, "undecided")
    table = next(table for table in findings.tables if table.task == "t2i")
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
            iterations=10,
            scores={
                "t2i": {
                    case.id: CaseScore(score=share[trial.arm] + trial.seed / 100 + n / 1000)
                    for n, case in enumerate(cases["t2i"])
                }
            },
            data={"t2i": {"wood": CategoryData(unique=8, passes=2.5)}},
            published="s3://bucket/students/x",
            **summary(history(), "CPU-seconds"),
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
    sheet = grid(
        ["arm"], {"arm": Image.open(io.BytesIO(strip(images, cases)))}, cases, ["t2i", "edit"]
    )
    assert sheet.height == LINE + 2 * tile
    left = sheet.width - 2 * tile
    assert sheet.getpixel((left + tile // 2, LINE + tile + tile // 2)) < (9, 9, 9)  # t2i, 80 wide
    assert min(sheet.getpixel((left + 10, LINE + tile + tile // 2))) > 240  # beside it
    assert sheet.getpixel((left + tile + tile // 2, LINE + tile // 2))[0] > 240  # the input
    assert sheet.getpixel((left + tile + tile // 2, LINE + 2)) == (255, 255, 255)  # above it


def test_folders_that_are_not_the_studys_are_refused(filled, study_file, tmp_path):
    with pytest.raises(UserError, match="no study in .*nowhere; allowed: the folder"):
        commands.status(study_file, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds something that no study wrote"):
        commands.claim_folder(tmp_path, filled[0])
    with pytest.raises(UserError, match="is of study small, not three-factors"):
        commands.claim_folder(filled[2], load_study("three-factors"))


def test_one_seed_decides_nothing(filled, study_file):
    study, trials, out = filled
    remove_records(out, *(trial.name for trial in trials if trial.seed != study.seeds[0]))
    folder, _ = commands.report(study_file, out, None)
    with (folder / "claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    assert {claim["verdict"] for claim in claims} == {"undecided"}
    assert all(claim["low"] and claim["high"] for claim in claims)  # over cases


def base_of(trial, level, nfe):
    """Scores of the base whose mean over a task is `level` at index 0."""
    scores = {
        task: {
            case.id: CaseScore(score=level + int(case.id.rpartition("-")[2]) / 10) for case in cases
        }
        for task, cases in trial.scored_cases().items()
    }
    return BaselineScores(nfe=nfe, scores=scores)


def test_the_base_stands_below_the_arms(filled, study_file):
    study, trials, out = filled
    models = {"teacher": base_of(trials[0], 3.8, 80), "untrained": base_of(trials[0], 2.8, 4)}
    found = Baselines(digest=digest_of(trials[0]), models=models)
    (out / "baselines.json").write_text(found.model_dump_json())
    text = (commands.report(study_file, out, None)[0] / "report.md").read_text()
    assert re.search(r"\| good \| 2 \|.*\| 1 \| [0-9, ]*\| 8\d% \[\d+%, \d+%\] \|\n", text)
    assert re.search(r"\| \*teacher, 80 evaluations\* \| \| 3\.95 \[", text)
    assert re.search(r"\| \*untrained, 4 evaluations\* \| \| 2\.95 \[", text)


@pytest.mark.parametrize("content", ["{", "{}", '{"digest": 1, "models": {}}'])
def test_corrupt_scores_of_the_base_cost_themselves(filled, study_file, content):
    out = filled[2]
    (out / "baselines.json").write_text(content)
    folder, (fault,) = commands.report(study_file, out, None)
    assert "baselines.json" in str(fault)
    assert "evaluations*" not in (folder / "report.md").read_text()


def test_scores_of_another_base_do_not_count(filled, study_file):
    study, trials, out = filled
    models = {"teacher": base_of(trials[0], 3.8, 80), "untrained": base_of(trials[0], 2.8, 4)}
    (out / "baselines.json").write_text(Baselines(digest="0", models=models).model_dump_json())
    folder, faults = commands.report(study_file, out, None)
    assert faults == [] and "evaluations*" not in (folder / "report.md").read_text()

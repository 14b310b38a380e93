"""What a study's folder holds: records line by line, scores of the base, what is damaged."""

import re
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.studies.baselines import Baselines, BaselineScores, digest_of
from flash_ray.studies.code import code_digest
from flash_ray.studies.records import PICTURES, TRIALS, append_record, read_records
from flash_ray.studies.study import load_study
from flash_ray.studies.trial import summary
from flash_ray.workflows import study as commands
from tests.helpers.study_records import STUDY, finished_study, history, record


@pytest.fixture
def study_file(tmp_path):
    return str(tmp_path / "small.yaml")


@pytest.fixture
def filled(study_file):
    """(study, trials, folder) of a study that is finished."""
    return finished_study(Path(study_file))


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
    of_cpus, of_gpus = (summary(history(), f"{unit}-seconds", 99.0) for unit in ("CPU", "GPU"))
    assert (of_cpus["cost"].compute, of_gpus["cost"].compute) == (15.0, 20.0)
    assert of_cpus["curve"] == ((5, {"t2i": 3.4, "edit": 3.0}), (10, {"t2i": 3.9, "edit": 3.0}))
    assert of_cpus["category_curve"] == ((10, {"t2i": {"text": 2.0}, "edit": {"style": 3.0}}),)
    other = of_cpus["teachers"]["other"][1]
    assert (other.weight, other.norm, other.cosine) == (0.5, 1.0, -0.25)
    assert of_cpus["teachers"]["base"][1].norm is None
    assert of_cpus["losses"]["t2i"].student_loss == 9.5  # of the last of ten


def test_folders_that_are_not_the_studys_are_refused(filled, study_file, tmp_path):
    with pytest.raises(UserError, match="no study in .*nowhere; allowed: the folder"):
        commands.status(study_file, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds something that no study wrote"):
        commands.claim_folder(tmp_path, filled[0])
    with pytest.raises(UserError, match="is of study small, not three-factors"):
        commands.claim_folder(filled[2], load_study("three-factors"))


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
    found = Baselines(digest=digest_of(trials[0]), code=code_digest(), models=models)
    (out / "baselines.json").write_text(found.model_dump_json())
    text = (commands.report(study_file, out, None)[0] / "report.md").read_text()
    assert re.search(r"\| good \| 2 \|.*\| 1 \| [0-9, ]*\| 8\d% \[\d+%, \d+%\] \|\n", text)
    assert re.search(r"\| \*teacher, 80 evaluations\* \| \| \d\.\d\d \[", text)
    assert re.search(r"\| \*untrained, 4 evaluations\* \| \| \d\.\d\d \[", text)
    assert re.search(r"`good` is ahead with \d\.\d+, 8\d% of the way from the untrained", text)


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
    (out / "baselines.json").write_text(
        Baselines(digest="0", code=code_digest(), models=models).model_dump_json()
    )
    folder, faults = commands.report(study_file, out, None)
    assert faults == [] and "evaluations*" not in (folder / "report.md").read_text()

"""Records say which code made them, and numbers of two codes stand in no table together."""

import pytest

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.studies import code, records, runner
from flash_ray.studies.code import code_digest
from flash_ray.studies.records import TRIALS, append_record, read_records
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows import study as commands
from tests.helpers.storage import MemoryStore
from tests.helpers.study_records import finished_study, record

OLD = "0123456789abcdef"


@pytest.fixture
def filled(tmp_path):
    """(study file, trials, folder) of a study that is finished."""
    _, trials, out = finished_study(tmp_path / "small.yaml")
    return str(tmp_path / "small.yaml"), trials, out


def aged(trial):
    return record(trial).model_copy(update={"code": OLD})


def test_the_digest_is_of_every_line_that_decides_numbers(tmp_path, monkeypatch):
    for room in code.ROOMS:
        (tmp_path / room / "deep").mkdir(parents=True)
        (tmp_path / room / "deep" / "a.py").write_text("A = 1\n")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    before = code_digest.__wrapped__()
    (tmp_path / "serving.py").write_text("A = 1\n")
    assert code_digest.__wrapped__() == before
    (tmp_path / "trainer" / "deep" / "a.py").write_text("A = 2\n")
    changed = code_digest.__wrapped__()
    (tmp_path / "theirs.py").write_text("A = 1\n")
    monkeypatch.setattr(plugins, "folders", lambda: {"theirs": tmp_path / "theirs.py"})
    plugged = code_digest.__wrapped__()
    monkeypatch.setattr(code, "version", lambda library: "9")
    assert len({before, changed, plugged, code_digest.__wrapped__()}) == 4


def test_nothing_is_added_to_records_of_other_code(filled):
    _, trials, out = filled
    for trial in trials[1:]:
        append_record(out, aged(trial))
    with Steps() as steps, pytest.raises(UserError, match="line 1: .* is of code .*; choose"):
        runner.run_trials(trials, MemoryStore("memory"), out, 1, steps)
    append_record(out, aged(trials[0]))
    said = f"trials.jsonl: the records are of code {OLD}, this is code {code_digest()}: .*another"
    with Steps() as steps, pytest.raises(UserError, match=said):
        runner.run_trials(trials, MemoryStore("memory"), out, 1, steps)


def test_records_of_one_code_are_shown_and_others_are_named(filled):
    file, trials, out = filled
    append_record(out, aged(trials[0]))
    found, (fault,) = read_records(out, trials)
    assert set(found) == {trial.name for trial in trials[1:]}
    assert f"line {len(trials)}: {trials[0].name} is of code {OLD}, most are of" in str(fault)
    assert "corrupt" not in str(fault)

    for trial in trials[1:]:
        append_record(out, aged(trial))
    found, (fault,) = read_records(out, trials)
    assert set(found) == {trial.name for trial in trials}
    assert f"the records are of code {OLD}, this is code {code_digest()}" in str(fault)
    assert fault in commands.report(file, out, None)[1] or len(commands.status(file, out)[1]) == 1


def test_of_as_many_records_the_newer_code_counts(filled):
    _, trials, out = filled
    half = len(trials) // 2
    (out / TRIALS).unlink()
    for trial in trials[:half]:
        append_record(out, record(trial))
    for trial in trials[half : 2 * half]:
        append_record(out, aged(trial))
    assert set(records.read_records(out, trials)[0]) == {t.name for t in trials[half : 2 * half]}

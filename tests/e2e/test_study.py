"""`flash-ray study`: bad input in one line; a study that was killed goes on where it was."""

import csv
import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_bad_input import files, refuses
from tests.helpers.commands import FLASH_RAY, user_environment

HALF, IMAGES = {"tasks": {"t2i": 1, "edit": 1}}, {"tasks": {"t2i": 1, "edit": 0}}
STUDY = {
    "name": "small",
    "recipe": "miniature",
    "seeds": [0],
    "budget": {"iterations": 4},
    "cases": {"t2i": 1, "edit": 1},
    "arms": {"half": HALF, "images": IMAGES},
}


@pytest.fixture
def study(tmp_path, base):
    """Writes study.yaml over the small base."""

    def written(**changes):
        small = {
            "base": str(base),
            "data.num_cases": 8,
            "runtime.num_workers": 1,
            "runtime.micro_batch_size": 4,
            "runtime.checkpoint_every": 2,
        }
        study = {**STUDY, "set": small, **changes}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    return written


def rules(*weights):
    return [{"weight": weight, "progress": progress} for weight, progress in weights]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": {"one": HALF, "two": HALF}}, ("arms.two", "the same recipe as arm one")),
        (
            {"arms": {"one": {}, "two": {"student.steps": 2}}},
            ("arms.two: changes student, which is fixed",),
        ),
        (
            {"arms": {"one": HALF, "two": {"teachers": [{"name": "t", "model": "OTHER"}]}}},
            ("arms.two: teachers.0.model", "encodes prompts or images otherwise"),
        ),
        (
            {
                "arms": {
                    "one": HALF,
                    "two": {"teachers": [{"name": "t", "weight": rules((1.0, [0.0, 0.5]))}]},
                }
            },
            ("arms.two: teachers", "λ"),
        ),
        (
            {"arms": {"one": HALF, "two": {"data.composition.edit": {"stile": 1}}}},
            ("arms.two: data.composition.edit.stile: unknown category 'stile'", "mean style?"),
        ),
        ({"arms": {"one": {}, "two": {"data.num_cases": 2}}}, ("arms.two: data.num_cases",)),
        ({"recipe": "miniatur"}, ("recipe: miniatur", "allowed")),
        ({"benchmark": "miniatur"}, ("benchmark: unknown benchmark 'miniatur'", "miniature")),
    ],
)
def test_a_study_is_refused_in_one_line_before_anything_starts(
    flash_ray_forked, study, tmp_path, changes, says
):
    text = json.dumps(changes)
    study(**json.loads(text.replace("OTHER", "miniature")))
    refuses(flash_ray_forked("study", "run", "study.yaml", "--out", "out"), *says)
    assert files(tmp_path) == {tmp_path / "study.yaml"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--method pbt", ("--method: 'pbt'", "would change nothing", "--method asha")),
        ("--method grid", ("--method: unknown method 'grid'", "asha, optuna")),
        ("--trials 5", ("--trials: 5", "has 2 combinations")),
    ],
)
def test_a_search_is_refused_in_one_line_before_anything_starts(
    flash_ray_forked, study, tmp_path, options, says
):
    study(curve_every=2, space={"teacher_defaults.guidance_scale": [2, 4]})
    refuses(
        flash_ray_forked("study", "search", "study.yaml", "--out", "out", *options.split()), *says
    )
    assert files(tmp_path) == {tmp_path / "study.yaml"}


def test_a_folder_of_another_study_is_left_alone(flash_ray_forked, study, tmp_path):
    study()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    refuses(
        flash_ray_forked("study", "run", "study.yaml", "--out", "out"), "--out", "no study wrote"
    )
    (tmp_path / "out" / "study.json").write_text(json.dumps({"name": "other"}))
    refuses(
        flash_ray_forked("study", "run", "study.yaml", "--out", "out"), "--out", "of study other"
    )
    refuses(
        flash_ray_forked("study", "status", "study.yaml", "--out", "new"), "--out: no study in new"
    )


def test_the_job_is_the_command(tmp_path):
    job = Path(__file__).parents[2] / "jobs" / "study.py"
    words = [sys.executable, str(job), "run", "no-such-study", "--out", "out"]
    refuses(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True), "no-such-study")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_study_that_was_cut_off_goes_on_and_repeats_nothing(
    flash_ray, home, study, tmp_path, how, code
):
    study(curve_every=2)
    words = ("study", "run", "study.yaml", "--out", "out")
    records = tmp_path / "out" / "trials.jsonl"
    environment = user_environment(home)
    command = [FLASH_RAY, *words, "--at-once", "1"]
    # A job that a shell started in the background ignores SIGINT, and so would its children.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=heed) as running:
        while not records.exists():
            assert running.poll() is None, "it ended before a trial did"
            time.sleep(0.5)
        running.send_signal(how)
    assert running.returncode == code
    before = records.read_text().splitlines()
    assert len(before) == 1
    status = flash_ray("study", "status", *words[2:])
    assert "1 of 2 trials finished" in status.stdout, status.stderr

    ended = flash_ray(*words)
    assert ended.returncode == 0, ended.stderr
    assert "2 trials, 1 of them finished" in ended.stderr
    lines = records.read_text().splitlines()
    assert lines[:1] == before and len(lines) == 2
    assert "2 of 2 trials finished" in flash_ray("study", "status", *words[2:]).stdout

    ended = flash_ray("study", "report", *words[2:])
    assert ended.returncode == 0, ended.stderr
    report = tmp_path / "out" / "report"
    assert "half" in (report / "report.md").read_text()
    assert not list(report.rglob("*.html"))
    assert len(list(csv.reader((report / "tables.csv").open()))) > 2


@pytest.mark.slow
def test_a_search_leaves_a_recipe_that_can_be_distilled(flash_ray, study, tmp_path):
    study(
        budget={"iterations": 5},
        curve_every=2,
        development=1,
        cases={"t2i": 1},
        arms={},
        space={"teacher_defaults.guidance_scale": [2, 4]},
    )
    words = ("study", "search", "study.yaml", "--out", "out", "--method", "optuna")
    ended = flash_ray(*words)
    assert ended.returncode == 0, ended.stderr
    assert "best: out/best.yaml" in ended.stdout
    result = json.loads((tmp_path / "out" / "search.json").read_text())
    assert result["method"] == "optuna"
    (best,) = (row for row in result["trials"] if row["trial"] == result["best"])
    assert best["state"] == "finished"
    assert result["held_out"]["best"].keys() == result["held_out"]["own"].keys() == {"t2i"}
    assert "held-out cases, text to image: best " in ended.stdout
    recipe = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert (
        recipe["teacher_defaults"]["guidance_scale"]
        == best["values"]["teacher_defaults.guidance_scale"]
    )
    assert flash_ray("recipe", "check", "out/best.yaml").stdout.startswith("OK small-best ")
    ended = flash_ray("distill", "out/best.yaml", "--set", "training.iterations=2")
    assert ended.stdout == "s3://flash-ray/students/small-best\n", ended.stderr
    refuses(flash_ray(*words), "--out", "holds a finished search")

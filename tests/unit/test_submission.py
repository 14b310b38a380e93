"""What is sent to a cluster: ids, files, refusals, and what an image lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from PIL import Image
from ray.job_submission import JobDetails

from flash_ray import plugins
from flash_ray.cluster.environment import REQUIREMENTS, lacking, pins, requirements
from flash_ray.cluster.jobs.logs import exit_code
from flash_ray.cluster.jobs.submit import free_id
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import load_benchmark, named_benchmark
from flash_ray.recipe import load_recipe
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.serving.settings import load_serving
from flash_ray.studies import validation
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.workflows import submit
from flash_ray.workflows.submit import (
    plan_distill,
    plan_encode,
    plan_evaluate,
    plan_serve,
    plan_study,
)

names = plugins.names
STORED = "runtime.storage.url=s3://bucket/place"
RECIPE = load_recipe("miniature", [STORED])


def write(job, folder):
    for name, text in job.files.items():
        (folder / name).write_text(text)


def test_the_id_is_of_what_runs():
    job = plan_distill(RECIPE, "mine", resume=False)
    assert job.id.startswith("distill-mine-")
    assert plan_distill(RECIPE, "mine", resume=True).id == job.id
    others = [
        plan_distill(RECIPE, "other", resume=False),
        plan_distill(load_recipe("miniature", [STORED, "seed=1"]), "mine", resume=False),
        plan_distill(load_recipe("miniature", [f"{STORED}2"]), "mine", resume=False),
        plan_encode(RECIPE),
    ]
    assert len({job.id, *(other.id for other in others)}) == 5


def test_the_recipe_travels_whole(tmp_path):
    write(plan_encode(RECIPE), tmp_path)
    assert load_recipe(tmp_path / "recipe.yaml") == RECIPE


def test_a_study_travels_with_its_recipe(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("seed: 9\n" + yaml.safe_dump(load_raw_miniature()))
    study = {
        "name": "small",
        "recipe": str(tmp_path / "mine.yaml"),
        "budget": {"iterations": 2},
        "arms": {"a": {"tasks": {"t2i": 1, "edit": 1}}, "b": {"tasks": {"t2i": 1, "edit": 0}}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study))
    job = plan_study(str(tmp_path / "small.yaml"), tmp_path / "out", None, "s3://bucket/place")
    there = tmp_path / "there"
    there.mkdir()
    write(job, there)
    here = plan_trials(load_study(str(tmp_path / "small.yaml")))
    monkeypatch.chdir(there)
    (tmp_path / "mine.yaml").unlink()
    assert plan_trials(load_study("study.yaml")) == here


def with_cases(tmp_path):
    """A benchmark in a file of this machine, with a picture beside it."""
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "yard.png")
    rows = [
        {"prompt": "a lake", "category": "land"},
        {"prompt": "make it snow", "category": "weather", "image": "yard.png"},
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return BenchmarkFiles(t2i=str(file), edit=str(file))


def test_a_benchmark_in_a_file_goes_along_with_its_pictures(tmp_path, monkeypatch):
    choice = with_cases(tmp_path)
    named = ["evaluation.judge=exact", f"evaluation.benchmark={choice.model_dump_json()}"]
    recipe = load_recipe("miniature", [STORED, *named])
    here = load_benchmark(choice, recipe)
    study = {"name": "small", "recipe": "miniature", "budget": {"iterations": 2}}
    arms = {"a": {"tasks": {"t2i": 1, "edit": 1}}, "b": {"tasks": {"t2i": 1, "edit": 0}}}
    study |= {
        "arms": arms,
        "set": {"runtime.storage.url": "s3://bucket"},
    }
    own = {"benchmark": choice.model_dump(), "cases": {"t2i": 1}, "judge": "sees-all"}
    own["development"] = 0
    monkeypatch.setattr(plugins, "names", lambda group: names(group) + ["sees-all"])
    monkeypatch.setattr(validation, "load_judge", lambda name, field: SeesAll())
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**study, **own}))
    trials = plan_trials(load_study(str(tmp_path / "own.yaml")))
    there = tmp_path / "there"
    there.mkdir()
    address = ("127.0.0.1", 8000)
    jobs = [
        plan_study(str(tmp_path / "own.yaml"), tmp_path / "out", None, "s3://bucket/place"),
        plan_distill(recipe, "mine", resume=False),
        plan_serve(recipe, None, [], "s3://bucket/place", None, address),
        plan_evaluate("teacher", RECIPE, "s3://b", "edit", choice.edit, 4, ["exact"]),
    ]
    for job in jobs:
        assert job.files["own.jsonl"] == here.to_jsonl()
    (tmp_path / "yard.png").unlink()
    (tmp_path / "own.jsonl").unlink()
    monkeypatch.chdir(there)
    write(jobs[0], there)
    assert [trial.digest for trial in plan_trials(load_study("study.yaml"))] == [
        trial.digest for trial in trials
    ]
    write(jobs[1], there)
    sent = load_recipe(there / "recipe.yaml")
    assert sent.digest == recipe.digest
    assert load_benchmark(sent.evaluation.benchmark, sent).digest == here.digest
    write(jobs[3], there)
    assert "--benchmark benchmark.yaml" in " ".join(jobs[3].words)
    assert load_benchmark(named_benchmark("benchmark.yaml"), sent).digest == here.digest


def test_a_benchmark_in_s3_stays_there(tmp_path):
    choice = BenchmarkFiles(t2i="s3://bucket/prompts/")
    named = ["evaluation.judge=exact", f"evaluation.benchmark={choice.model_dump_json()}"]
    recipe = load_recipe("miniature", [STORED, *named])
    job = plan_distill(recipe, "mine", resume=False)
    assert list(job.files) == ["recipe.yaml"]
    write(job, tmp_path)
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_benchmark_too_large_for_a_job_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "MOST_BYTES", 100)
    words = ("teacher", RECIPE, "s3://b", "edit", with_cases(tmp_path).edit, 4, ["exact"])
    with pytest.raises(UserError, match="^--benchmark: its 0 MB are too large to be sent"):
        plan_evaluate(*words)


class SeesAll:
    """A judge of any case, as a package would register it."""

    name, scale, runs = "sees-all", "1 to 5", "cpu"

    def can_judge(self, case):
        return True


def load_raw_miniature():
    raw = RECIPE.model_dump(mode="json")
    del raw["seed"]
    return raw


def test_settings_travel_with_their_judges(tmp_path, monkeypatch):
    judge = tmp_path / "vlm.yaml"
    judge.write_text("base_url: https://judge.example/v1\nmodel: m\nmax_requests: 5\n")
    changes = [f"judges={{vlm: {judge}}}", "limits.n=4"]
    job = plan_serve(RECIPE, None, changes, "s3://bucket/place", None, ("127.0.0.1", 8000))
    here = load_serving(None, changes)
    there = tmp_path / "there"
    there.mkdir()
    write(job, there)
    judge.unlink()
    monkeypatch.chdir(there)
    assert load_serving(there / "serving.yaml") == here


def test_settings_travel_with_their_benchmarks(tmp_path, monkeypatch):
    own = tmp_path / "own.csv"
    own.write_text("id,prompt,category,text\n1,a lake,land,\n2,a sign,signs,OPEN\n")
    changes = [f"benchmarks=[miniature, {{t2i: {own}}}, {{t2i: s3://bucket/cases.jsonl}}]"]
    job = plan_serve(RECIPE, None, changes, "s3://bucket/place", None, ("127.0.0.1", 8000))
    here = load_serving(None, changes)
    expected = load_benchmark(here.benchmarks[1], RECIPE).digest
    there = tmp_path / "there"
    there.mkdir()
    write(job, there)
    own.unlink()
    monkeypatch.chdir(there)
    named, carried, fetched = load_serving(there / "serving.yaml").benchmarks
    assert (named, fetched) == ("miniature", here.benchmarks[2])
    found = load_benchmark(carried, RECIPE)
    assert (found.name, found.digest) == ("own", expected)
    assert load_recipe(there / "recipe.yaml").evaluation.benchmark is None  # it is not served


def test_an_evaluation_travels_with_recipe_and_judges(tmp_path):
    judge = tmp_path / "vlm.yaml"
    judge.write_text("base_url: https://judge.example/v1\nmodel: m\nmax_requests: 5\n")
    judges = ["exact", f"vlm:{judge}"]
    job = plan_evaluate("untrained", RECIPE, "s3://b", "edit", "miniature", 4, judges)
    assert job.name == "untrained-edit" and set(job.files) == {"recipe.yaml", "judge-1.yaml"}
    words = "evaluate untrained --task edit --cases 4 --recipe recipe.yaml --benchmark miniature"
    assert " ".join(job.words) == f"{words} --judge exact --judge vlm:judge-1.yaml --store s3://b"


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (lambda: plan_distill(load_recipe("miniature"), None, False), "runtime.storage.url"),
        (lambda: plan_encode(load_recipe("miniature")), "'embedded' in a Ray cluster"),
        (lambda: plan_distill(RECIPE, "Bad/Name", False), "--name"),
        (lambda: plan_evaluate("./mine", RECIPE, "s3://b", "t2i", None, 1, []), "MODEL"),
        (lambda: plan_evaluate("mine", RECIPE, None, "t2i", None, 1, []), "--store"),
        (lambda: plan_evaluate("teacher", RECIPE, None, "t2i", None, 1, []), "--store"),
        (lambda: plan_evaluate("mine", RECIPE, "s3://b", "t2i", "crowd", 1, []), "--benchmark"),
        (lambda: plan_evaluate("mine", RECIPE, "s3://b", "t2i", None, 1, ["crowd"]), "'crowd'"),
        (lambda: plan_study("three-factors", Path("out"), None, "s3://b"), "--out"),
        (lambda: plan_serve(RECIPE, None, [], "folder", None, ("::1", 80)), "--store: folder"),
    ],
)
def test_what_no_cluster_could_run_is_an_error(plan, says):
    with pytest.raises(UserError, match=says):
        plan()


def details(name: str, status: str, **more) -> JobDetails:
    return JobDetails(type="SUBMISSION", submission_id=name, status=status, entrypoint="", **more)


def test_the_same_job_runs_once():
    other = details("encode-a-12345678", "RUNNING")
    assert free_id("encode-b-12345678", [other], again=False) == "encode-b-12345678"
    with pytest.raises(UserError, match="runs already .RUNNING.*jobs logs encode-a-12345678"):
        free_id("encode-a-12345678", [other], again=True)
    ended = [details("encode-a-12345678", "FAILED")]
    with pytest.raises(UserError, match="has ended .FAILED.*--again"):
        free_id("encode-a-12345678", ended, again=False)
    assert free_id("encode-a-12345678", ended, again=True) == "encode-a-12345678-2"
    with pytest.raises(UserError, match="encode-a-12345678-2 runs already"):
        ended.append(details("encode-a-12345678-2", "PENDING"))
        free_id("encode-a-12345678", ended, again=True)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs(status, code, expected):
    assert exit_code(details("a", status, driver_exit_code=code)) == expected


def test_what_an_image_lacks():
    wanted = ["no-such-package<2,>=1", "torch>=2", "pydantic<2"]
    missing = lacking(wanted)
    assert missing[0] == "no-such-package<2,>=1"
    assert missing[1].startswith("pydantic<2 (has ")
    assert len(missing) == 2
    assert lacking(requirements()) == []


def test_pins_are_of_this_machine():
    assert pins(["torch>=2.9,<2.14", "ray[serve]>=2", "no-such-package<2,>=1"]) == [
        f"torch=={torch.__version__.partition('+')[0]}",
        "no-such-package<2,>=1",
    ]


def test_a_job_that_is_tracked_needs_the_trackers_of_its_nodes():
    recipe = load_recipe(
        "miniature", [STORED, "tracking={tensorboard: true, mlflow: {uri: http://x}}"]
    )
    assert plan_distill(recipe, None, False).extras == ("tensorboard", "mlflow")
    assert plan_encode(recipe).extras == ()
    more = set(requirements(("tensorboard", "mlflow"))) - set(requirements())
    assert {Requirement(line).name for line in more} == {"tensorboard", "mlflow-skinny"}


def test_a_lacking_image_is_one_line(tmp_path):
    (tmp_path / REQUIREMENTS).write_text("no-such-package>=1\n")
    words = [
        sys.executable,
        "-m",
        "flash_ray.cluster.jobs.entrypoint",
        "recipe",
        "check",
        "miniature",
    ]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("flash-ray: image: lacks no-such-package>=1;")
    assert ended.stderr.count("\n") == 1
    (tmp_path / REQUIREMENTS).write_text("pydantic>=2\n")
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout[:12]) == (0, "OK miniature")

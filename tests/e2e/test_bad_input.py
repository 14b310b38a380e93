"""Bad input to the installed command: exit code 2, one line that names the field, no files."""

import fcntl
import json
import os
import re
from pathlib import Path

import pytest

from flash_ray.recipe import load_recipe
from flash_ray.storage.embedded import open_store
from flash_ray.storage.manifest import record_run
from flash_ray.storage.students import publish_student

NO_SERVER = "--set runtime.storage.url=s3://nowhere/x --set runtime.storage.endpoint="


def refuses(ended, *says: str) -> None:
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.startswith("flash-ray: ")
    assert ended.stderr.count("\n") == 1 and ended.stderr.endswith("\n")
    for words in says:
        assert words in ended.stderr


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("distill miniature --set student.step=4", "student.steps"),
        ("distill miniature --set tasks.t2i=0 --set tasks.edit=0", "tasks"),
        ("distill miniature --set student.sigmas=[1,0.5,0.7,0.2]", "student.sigmas"),
        ("distill miniature --set runtime.global_batch_size=31", "runtime.global_batch_size"),
        (
            "distill miniature --set runtime.zero_stage=3 --set runtime.num_workers=1",
            "runtime.zero_stage",
        ),
        ("distill miniature --set runtime.num_workers={min:\t2,max:\t1}", "runtime.num_workers"),
        ("distill miniature --set base=/no/such/model", "base"),
        ("distill miniature --set data.num_cases=2", "data.num_cases"),
        (f"distill miniature {NO_SERVER}http://127.0.0.1:9", "s3://nowhere/x"),
        ("distill miniature --store s3://user:word@bucket", "runtime.storage.url"),
        ("distill miniature --set data.source={t2i:\tx.jsonl,edit:\tx.jsonl}", "data.source.t2i"),
        ("distill miniature --set data.source={edit:\tx.jsonl}", "data.source.t2i"),
        ("data encode miniature --set data.source={t2i:\tx.jsonl,edit:\tx.jsonl}", "x.jsonl"),
        ("data describe miniature --set data.filter.subsets=[x]", "data.filter.subsets"),
        ("data describe miniature --set data.composition.t2i.landscap=1", "landscape"),
        ("distill no-such-recipe", "no-such-recipe"),
        ("distill miniature --name Bad/Name", "--name"),
        ("demo --out demo --set base=/no/such/model", "base"),
        ("demo --out demo --cases 0", "--cases"),
        ("demo", "--out"),
        ("demo --out demo --set evaluation.benchmark=null", "evaluation.benchmark"),
        ("distill miniature --set evaluation.benchmark=nature", "evaluation.benchmark"),
        ("distill miniature --set evaluation.judge=crowd", "evaluation.judge"),
        ("distill miniature --set tracking.tensorbord=true", "tracking.tensorboard"),
        ("recipe check miniature --set tracking.wandb=mine", "{project: NAME}"),
        (
            "recipe check miniature --set tracking.mlflow={uri:\thttp://me:secret@host}",
            "MLFLOW_TRACKING_PASSWORD",
        ),
        ("evaluate teacher --task faces", "--task"),
        ("evaluate teacher --task t2i", "--recipe"),
        ("evaluate untrained --task t2i", "--recipe"),
        ("evaluate mine --task t2i", "--store"),
        ("evaluate mine --task t2i --set seed=1", "--set"),
        ("evaluate ./no/such/student --task t2i", "model.json"),
        ("evaluate teacher --task t2i --recipe miniature --out no/such/folder.json", "--out"),
        ("evaluate teacher --task t2i --recipe miniature --judge crowd", "'crowd' is no judge"),
        ("evaluate teacher --task t2i --recipe miniature --judge vlm:none.yaml", "vlm:none.yaml"),
        ("evaluate teacher --task t2i --recipe miniature --benchmark x", "--benchmark: unknown"),
        ("evaluate teacher --task t2i --recipe miniature --benchmark x.csv", "x.csv holds no such"),
        (
            "evaluate teacher --task t2i --recipe qwen-image-2.1-full --benchmark starter",
            "--judge: missing",
        ),
        ("benchmark describe x", "BENCHMARK: unknown benchmark 'x'"),
        ("benchmark describe x.yaml", "BENCHMARK: x.yaml: No such file"),
        ("benchmark describe starter --set seed=1", "--set: given without --recipe"),
        ("benchmark draw --recipe qwen-image-2.1-full", "BENCHMARK: missing, and recipe"),
        ("benchmark draw x --recipe miniature", "BENCHMARK: unknown benchmark 'x'"),
        ("distill miniature --set evaluation.benchmark={}", "evaluation.benchmark: neither t2i"),
        (
            "evaluate teacher --task t2i --recipe miniature --set evaluation.benchmark=null",
            "--benchmark: missing",
        ),
        ("serve miniature --serving benchmarks=[nature]", "benchmarks: unknown benchmark 'nature'"),
        ("serve miniature --serving benchmarks=[starter,starter]", "benchmarks.1: 'starter'"),
        ("rank one.json two.json", "one.json"),
        ("rank one.json", "two or more"),
        ("models --store nowhere", "--store"),
        ("models --store s3://", "runtime.storage.url"),
    ],
)
def test_one_line_and_nothing_written(flash_ray_forked, tmp_path, home, base, command, says):
    words = [word.replace("\t", " ") for word in command.split(" ")]
    if words[0] in ("distill", "data") and "base=/no/such/model" not in words:
        words += ["--set", f"base={base}"]
    before = files(home)
    refuses(flash_ray_forked(*words), says)
    assert files(tmp_path) == set()
    assert files(home) == before


def test_embedded_store_is_refused_in_a_cluster(flash_ray, tmp_path, base):
    ended = flash_ray("distill", "miniature", "--set", f"base={base}", RAY_ADDRESS="127.0.0.1:9")
    refuses(ended, "runtime.storage.url", "s3://")
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "command",
    [
        "distill miniature",
        "demo --out demo",
        "data encode miniature",
        "evaluate teacher --task t2i --recipe miniature",
        "serve miniature",
    ],
)
def test_a_gpu_that_is_not_there_is_named_before_anything_starts(
    flash_ray_forked, tmp_path, base, command
):
    settings = (f"base={base}", "runtime.gpu=true")
    words = [*command.split(), *(word for setting in settings for word in ("--set", setting))]
    ended = flash_ray_forked(*words, CUDA_VISIBLE_DEVICES="")
    refuses(ended, "runtime.gpu: true, and torch finds no GPU", "set runtime.gpu=false")
    assert files(tmp_path) == set()


def test_demo_leaves_a_foreign_folder_alone(flash_ray_forked, tmp_path, base):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "result.json").write_text("{}")
    ended = flash_ray_forked("demo", "--out", "thesis", "--set", f"base={base}")
    refuses(ended, "thesis", "--out")
    assert [path.name for path in files(tmp_path)].count("result.json") == 1
    assert (out / "result.json").read_text() == "{}"


@pytest.fixture
def earlier_demo(tmp_path) -> Path:
    """What a demo left."""
    out = tmp_path / "demo"
    (out / "store").mkdir(parents=True)
    for name in ("store/credentials.json", "store/lock", "report.html"):
        (out / name).write_text("{}")
    return out


@pytest.mark.parametrize(
    ("options", "is_served", "says"),
    [
        ("", False, "demo holds an earlier demo; allowed: .*--force"),
        ("--force", True, "the embedded store in .*demo/store is in use by another run"),
        (f"--force {NO_SERVER}http://127.0.0.1:9", False, "s3://nowhere/x"),
    ],
)
def test_an_earlier_demo_is_kept(
    flash_ray_forked, earlier_demo, tmp_path, base, options, is_served, says
):
    before = files(tmp_path)
    with (earlier_demo / "store" / "lock").open() as lock:
        if is_served:
            fcntl.flock(lock, fcntl.LOCK_EX)
        words = ("demo", "--out", "demo", "--set", f"base={base}", *options.split())
        ended = flash_ray_forked(*words)
    refuses(ended)
    assert re.search(says, ended.stderr), ended.stderr
    assert files(tmp_path) == before


@pytest.fixture
def used_store(tmp_path_factory, base) -> Path:
    """The folder of a store with a run `mine`, and a student `done` of which a byte is flipped."""
    folder = tmp_path_factory.mktemp("used")
    student = tmp_path_factory.mktemp("student")
    (student / "model.safetensors").write_bytes(bytes(64))
    recipe = load_recipe("miniature", [f"base={base}"])
    with open_store(str(folder), create=True) as store:
        record_run(store, "mine", recipe.model_dump(mode="json"), recipe.digest)
        store.put_bytes("runs/mine/train/iteration-000002/manifest-00000.json", b"{}")
        publish_student(store, "done", student, recipe)
        (key,) = [key for key in store.list("students/") if key.endswith(".safetensors")]
        (student / "model.safetensors").write_bytes(bytes(63) + b"\1")
        store.put_file(student / "model.safetensors", key)
    return folder


def test_what_the_store_holds_is_respected(flash_ray_forked, tmp_path, used_store, base):
    for command, says in (
        ("distill miniature --name mine --resume --set seed=5", ("--resume", "seed: 5", "with 0")),
        ("distill miniature --name mine", ("run 'mine' exists", "--resume")),
        ("distill miniature --name other --resume", ("other", "without --resume")),
        ("distill miniature --name done", ("--name", "done-2")),
        ("distill miniature --name mine --resume --publish done", ("--publish", "done-2")),
        ("evaluate unknown --task edit", ("unknown", "flash-ray models")),
    ):
        words = [*command.split(), "--store", str(used_store)]
        if words[0] == "distill":
            words += ["--set", f"base={base}"]
        refuses(flash_ray_forked(*words), *says)
    assert files(tmp_path) == set()
    with open_store(str(used_store)) as store:
        assert len(set(store.list("runs/"))) == 2
        assert json.loads(store.get_bytes("students/done/model.json"))["name"] == "done"


@pytest.mark.slow
def test_a_student_that_is_corrupt_is_not_drawn(flash_ray, used_store):
    ended = flash_ray("evaluate", "done", "--task", "t2i", "--store", str(used_store))
    refuses(ended, "model.safetensors", "corrupt")


def test_a_taken_name_is_known_before_ray_is_asked_for(flash_ray_forked, used_store, base):
    with open_store(str(used_store)) as store:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
        variables = {name: os.environ[name] for name in names}
        words = ("distill", "miniature", "--name", "mine", "--set", f"base={base}")
        # Nobody listens there: whoever asked for Ray first would say so.
        ended = flash_ray_forked(
            *words, "--store", store.url(), RAY_ADDRESS="127.0.0.1:9", **variables
        )
    refuses(ended, "run 'mine' exists", "--resume")

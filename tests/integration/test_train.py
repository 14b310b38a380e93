"""Whole runs on Ray Train: they finish, survive a SIGKILL bit for bit, fail when they diverge."""

import hashlib
import io
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.train
import torch
from diffusers import QwenImage21Transformer2DModel
from PIL import Image
from ray.util.state import list_actors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flash_ray.errors import UserError
from flash_ray.teachers.autoscaler import ScalingPolicy
from flash_ray.teachers.launch import start_teachers
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, distill
from flash_ray.trainer.metrics import Evaluated
from tests.helpers.distilling import KillOnce, build_lora, small_recipe
from tests.helpers.payload import Payload
from tests.helpers.small import build_base

TIMES = {"seconds": 1, "stages": {}, "teacher_wait_share": 0, "memory_mib": 0, "cpu_seconds": 0}
TWO_WORKERS = (
    "runtime.num_workers=2",
    "runtime.micro_batch_size=2",
    "teacher_defaults.placement=actors",
    "runtime.checkpoint_every=2",
    "evaluation.every=3",
)


class MeanWeight:
    """A judge that looks at the student only."""

    def draw(self, model, transformer):
        return float(sum(p.mean() for p in transformer.parameters()))

    def score(self, drawn):
        return Evaluated({"t2i": drawn}, Image.new("RGB", (8, 6)))


class OutOfMemory(MeanWeight):
    """A judge for which the machine's memory does not suffice; it counts its calls."""

    def __init__(self, calls: Path):
        self.calls = calls

    def draw(self, model, transformer):
        with self.calls.open("a") as file:
            file.write("called\n")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class AwaitSecondTeacher(MeanWeight):
    """A judge that lets the run go on once a teacher beyond the minimum is there."""

    def __init__(self, autoscaler):
        self.autoscaler = autoscaler

    def draw(self, model, transformer):
        while not ray.get(self.autoscaler.counts.remote())[0]["ready"]:
            time.sleep(0.2)
        return super().draw(model, transformer)


@pytest.fixture(scope="module")
def recipe(base):
    return small_recipe(base, *TWO_WORKERS)


@pytest.fixture(scope="module")
def whole(base, store, cluster, tmp_path_factory):
    """(result, records seen live) of an uninterrupted run, with events beside the student."""
    seen = []
    recipe = small_recipe(base, *TWO_WORKERS, "tracking.tensorboard=true")
    folder = tmp_path_factory.mktemp("whole") / "student"
    callbacks = Callbacks(MeanWeight(), seen.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        return distill(recipe, store, "whole", folder, callbacks=callbacks), seen


def exact(history):
    """What has to be equal to the last bit."""
    return [replace(metrics, **TIMES) for metrics in history]


def weights(result):
    return QwenImage21Transformer2DModel.from_pretrained(result.folder).state_dict()


def assert_same_student(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_leaves_a_changed_student_and_its_history(whole, base):
    result, seen = whole
    assert [metrics.iteration for metrics in result.history] == [1, 2, 3, 4]
    assert seen == result.history
    assert [metrics.iteration for metrics in result.history if metrics.scores] == [3]
    before = QwenImage21Transformer2DModel.from_pretrained(base / "transformer").state_dict()
    after = weights(result)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_is_measured_and_drawn_goes_to_the_store_and_the_trackers(whole, store):
    result, _ = whole
    with Image.open(io.BytesIO(store.get_bytes("runs/whole/sheets/iteration-000003.png"))) as png:
        assert png.size == (8, 6)
    folder = result.folder.parent / "tensorboard" / "whole"
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()
    (shown,) = events.Images("samples")
    assert (shown.step, shown.width, shown.height) == (3, 8, 6)
    told = [(scalar.step, scalar.value) for scalar in events.Scalars("student_loss")]
    expected = [(each.iteration, each.student_loss) for each in result.history]
    assert told == [(step, pytest.approx(loss)) for step, loss in expected]
    assert [scalar.step for scalar in events.Scalars("scores/t2i")] == [3]
    assert [scalar.step for scalar in events.Scalars("stages/evaluate")] == [3]
    (file,) = folder.iterdir()
    assert [*store.sizes("runs/whole/tensorboard/").values()] == [file.stat().st_size]


def test_a_name_that_is_taken_is_refused(whole, recipe, store, tmp_path):
    with pytest.raises(UserError, match="name: run 'whole' exists"):
        distill(recipe, store, "whole", tmp_path / "student")


def test_resume_with_another_recipe_is_refused_by_the_keys_name(whole, base, store, tmp_path):
    other = small_recipe(base, *TWO_WORKERS, "seed=5")
    with pytest.raises(UserError, match="--resume: seed: 5, but run 'whole' began with 0"):
        distill(other, store, "whole", tmp_path / "student", resume=True)


@pytest.mark.slow
def test_a_run_that_has_ended_goes_on_for_more_iterations(recipe, base, store, cluster, tmp_path):
    short = distill(recipe, store, "short", tmp_path / "short")
    more = small_recipe(base, *TWO_WORKERS, "training.iterations=5", "runtime.checkpoint_every=5")
    result = distill(more, store, "short", tmp_path / "long", resume=True)
    assert exact(result.history)[: len(short.history)] == exact(short.history)
    assert [metrics.iteration for metrics in result.history] == [1, 2, 3, 4, 5]


def test_a_run_that_does_not_fit_the_cluster_is_refused(base, store, cluster, tmp_path):
    large = small_recipe(base, "runtime.num_workers=64")
    with pytest.raises(UserError, match="runtime.num_workers: the run needs 64 trainer"):
        distill(large, store, "large", tmp_path / "student")


def test_a_missing_base_is_refused(store, cluster, tmp_path):
    recipe = small_recipe(tmp_path / "nowhere")
    with pytest.raises(UserError, match="base: no pipeline in .*nowhere"):
        distill(recipe, store, "baseless", tmp_path / "student")


@pytest.mark.slow
def test_teachers_of_two_groups_guide_a_run_and_may_not_be_exchanged(
    base, store, cluster, tmp_path
):
    lora = build_lora(base, tmp_path / "lora")
    other = build_base(tmp_path / "other")
    teachers = [
        {"name": "base", "model": "base", "weight": 0.5},
        {"name": "lora", "model": str(lora), "weight": 0.25},
        {"name": "other", "model": str(other), "weight": 0.25},
    ]
    recipe = small_recipe(
        base,
        "teacher_defaults.placement=actors",
        "training.iterations=2",
        f"teachers={json.dumps(teachers)}",
    )
    by_actors = distill(recipe, store, "three", tmp_path / "student")
    by_teacher = by_actors.history[-1].teachers.values()
    stats = [each for rungs in by_teacher for each in rungs.values()]
    assert [each.weight for each in stats] == [0.5, 0.25, 0.25]
    assert stats[2].norm == 0  # the other pipeline has the base's weights
    local = recipe.model_copy(
        update={
            "teacher_defaults": recipe.teacher_defaults.model_copy(
                update={"placement": "in_process"}
            )
        }
    )
    in_workers = distill(local, store, "three-local", tmp_path / "student-local")
    # A teacher in the process computes its text with the picture, an actor before it: they round
    # differently.
    for ours, theirs in zip(exact(in_workers.history), exact(by_actors.history), strict=True):
        assert ours.scalars() == pytest.approx(theirs.scalars(), rel=1e-3, abs=1e-5)

    build_lora(base, tmp_path / "lora", seed=2)
    with pytest.raises(UserError, match="base, teachers: the run began with weights"):
        distill(recipe, store, "three", tmp_path / "again", resume=True)


@pytest.mark.slow
def test_a_killed_run_continues_bit_by_bit(whole, recipe, store, tmp_path):
    seen = []
    callbacks = Callbacks(KillOnce(MeanWeight(), tmp_path / "marker", store, "killed"), seen.append)
    with pytest.raises(ray.train.TrainingFailedError):
        distill(recipe, store, "killed", tmp_path / "student", callbacks=callbacks)
    assert not (tmp_path / "student").exists()
    assert [metrics.iteration for metrics in seen] == [1, 2]
    seen.clear()
    result = distill(
        recipe, store, "killed", tmp_path / "student", resume=True, callbacks=callbacks
    )
    assert [metrics.iteration for metrics in seen] == [3, 4]
    assert exact(result.history) == exact(whole[0].history)
    assert_same_student(result, whole[0])


@pytest.mark.slow
def test_a_run_goes_on_when_its_teacher_is_killed(base, store, cluster, tmp_path):
    recipe = small_recipe(base, *TWO_WORKERS, "runtime.max_failures=1", "training.iterations=8")
    plain = distill(recipe, store, "teacher-lives", tmp_path / "plain")

    killed = []

    def kill_teacher(metrics):
        if metrics.iteration == 1:
            alive = [("class_name", "=", "TeacherActor"), ("state", "=", "ALIVE")]
            here = ray.get_runtime_context().gcs_address  # another Ray may run beside it
            (teacher,) = list_actors(here, filters=alive, detail=True)
            os.kill(teacher.pid, signal.SIGKILL)
            killed.append(teacher.pid)

    callbacks = Callbacks(live=kill_teacher)
    result = distill(recipe, store, "teacher-dies", tmp_path / "student", callbacks=callbacks)
    assert len(killed) == 1
    assert exact(result.history) == exact(plain.history)
    assert_same_student(result, plain)


@pytest.mark.slow
def test_a_run_whose_teachers_become_more_has_the_same_numbers(base, store, cluster, tmp_path):
    recipe = small_recipe(base, *TWO_WORKERS, "training.iterations=8")
    plain = distill(
        recipe, store, "one-teacher", tmp_path / "plain", callbacks=Callbacks(MeanWeight())
    )

    growing = small_recipe(
        base, *TWO_WORKERS, "training.iterations=8", "teacher_defaults.replicas={min: 1, max: 2}"
    )
    teacher_set = start_teachers(
        growing, ScalingPolicy(scale_up_load=0.01, scale_up_after_s=0)
    )  # at the first question
    try:
        callbacks = Callbacks(AwaitSecondTeacher(teacher_set.autoscaler))
        result = distill(
            growing, store, "growing", tmp_path / "student", False, callbacks, teacher_set
        )
    finally:
        teacher_set.stop()
    assert exact(result.history) == exact(plain.history)
    assert_same_student(result, plain)


@pytest.mark.slow
def test_a_run_that_diverges_fails(base, store, cluster, tmp_path):
    wild = ("training.optimizer.lr=1.0", "training.max_grad_norm=null", "training.iterations=40")
    recipe = small_recipe(base, *wild)
    with pytest.raises(Diverged, match="since iteration|at iteration"):
        distill(recipe, store, "wild", tmp_path / "student")
    assert not (tmp_path / "student").exists()
    assert not list(store.list("runs/wild/student"))


@pytest.mark.slow
def test_the_only_checkpoint_is_refused_by_name_if_it_is_damaged(recipe, store, cluster, tmp_path):
    callbacks = Callbacks(KillOnce(MeanWeight(), tmp_path / "marker", store, "damaged"))
    with pytest.raises(ray.train.TrainingFailedError):
        distill(recipe, store, "damaged", tmp_path / "student", callbacks=callbacks)
    (key,) = [key for key in store.list("runs/damaged/") if key.endswith("ema-00001.safetensors")]
    store.get_file(key, tmp_path / "part")
    data = bytearray((tmp_path / "part").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "part").write_bytes(data)
    store.put_file(tmp_path / "part", key)
    with pytest.raises(UserError, match="ema-00001.safetensors is corrupt"):
        distill(recipe, store, "damaged", tmp_path / "student", resume=True, callbacks=callbacks)
    plant(store, key, tmp_path)
    with pytest.raises(UserError, match="ema-00001.safetensors is no file of tensors") as refusal:
        distill(recipe, store, "damaged", tmp_path / "student", resume=True, callbacks=callbacks)
    assert "\n" not in str(refusal.value) and not (tmp_path / "made").exists()


def plant(store, key, folder):
    """Puts a payload in place of an object of a checkpoint, and what its manifest says of it."""
    torch.save(Payload(folder / "made"), folder / "part")
    store.put_file(folder / "part", key)
    home, _, name = key.rpartition("/")
    manifest = json.loads(store.get_bytes(f"{home}/manifest-00001.json"))
    data = (folder / "part").read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    store.put_bytes(f"{home}/manifest-00001.json", json.dumps(manifest).encode())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "missing", "unlisted"])
def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(
    base, store, cluster, tmp_path, how, caplog
):
    recipe = small_recipe(base, "runtime.checkpoint_every=1")
    before = distill(recipe, store, f"worn-{how}", tmp_path / "before")
    home = f"runs/worn-{how}/train/"
    key = next(key for key in store.list(f"{home}iteration-000004/") if "ema-" in key)
    if how == "flipped":
        data = bytearray(store.get_bytes(key))
        data[len(data) // 2] ^= 1
        store.put_bytes(key, bytes(data))
    elif how == "missing":
        store.delete(key)
    else:
        store.delete_all(f"{home}iteration-000004/")
        store.put_bytes(f"{home}checkpoint_manager_snapshot.json", b"{")
    seen = []
    after = distill(
        recipe, store, f"worn-{how}", tmp_path / "after", True, Callbacks(live=seen.append)
    )
    assert [metrics.iteration for metrics in seen] == [4]
    assert exact(after.history) == exact(before.history)
    assert_same_student(after, before)
    if how != "unlisted":
        assert "goes on without its checkpoint iteration-000004: " in caplog.text
        assert key.rpartition("/")[2] in caplog.text


@pytest.mark.slow
def test_a_run_that_does_not_fit_the_memory_ends_there(base, store, cluster, tmp_path):
    recipe = small_recipe(base, "evaluation.every=1", "runtime.max_failures=5")
    callbacks = Callbacks(OutOfMemory(tmp_path / "calls"))
    with pytest.raises(UserError, match=r"out of memory .*runtime\.gradient_checkpointing=true"):
        distill(recipe, store, "too-large", tmp_path / "student", callbacks=callbacks)
    assert (tmp_path / "calls").read_text() == "called\n"
    callbacks = Callbacks(MeanWeight())  # on a larger machine
    distill(recipe, store, "too-large", tmp_path / "student", callbacks=callbacks)

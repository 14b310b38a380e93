"""A run goes on with another number of workers as if nothing had happened."""

from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from flash_ray.recipe import Recipe
from flash_ray.trainer import checkpoint
from tests.helpers.distilling import (
    encode_locally,
    in_processes,
    make_step,
    read_history,
    run_iterations,
    small_recipe,
    write_history,
)
from tests.helpers.small import build_base

TOLERANCE = 1e-4  # of a loss: sums over workers round in another order
SAVED_AT = 2
LEARN_FAST = (
    "training.optimizer.lr=1e-3",
    "training.fake_score.optimizer.lr=1e-3",
    "training.ema_decay=0.5",
)
MIXED = ("tasks.t2i=1", "tasks.edit=1", "runtime.gradient_accumulation_steps=2")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(base, folder)"""
    folder = tmp_path_factory.mktemp("elastic")
    return build_base(folder / "base"), folder


def recipes(base, most: int, stage: int, fewest: int = 1) -> tuple[Recipe, Recipe]:
    """(of `most` workers, of a range up to them), else alike."""
    same = (*LEARN_FAST, *MIXED, "runtime.micro_batch_size=1", f"runtime.zero_stage={stage}")
    ranged = f"runtime.num_workers={{min: {fewest}, max: {most}}}"
    return (
        small_recipe(base, *same, f"runtime.num_workers={most}"),
        small_recipe(base, *same, ranged, "runtime.checkpoint_every=1"),
    )


# Two divide four in two passes; three do not divide four, and repeat two rows with no weight.
@pytest.mark.parametrize(
    ("most", "stage", "sizes"),
    [
        pytest.param(4, 2, (2, 3), marks=pytest.mark.slow),
        (2, 1, (2, 1)),
        pytest.param(3, 3, (3, 2), marks=pytest.mark.slow),
    ],
)
def test_a_resized_run_is_the_fixed_one(world, most, stage, sizes):
    base, folder = world
    fixed, ranged = recipes(base, most, stage, fewest=min(sizes))
    cache = encode_locally(fixed, folder)
    name = f"zero-{stage}"
    expected = run_iterations(fixed, cache, folder / name)
    before, after = sizes
    in_processes(before, folder / f"{name}-before", _start, ranged, cache)
    saved = folder / f"{name}-before" / "saved"
    in_processes(after, folder / f"{name}-after", _go_on, ranged, cache, saved)

    resized_history = [
        *read_history(folder / f"{name}-before"),
        *read_history(folder / f"{name}-after"),
    ]
    assert len(resized_history) == len(expected)
    for ours, theirs in zip(resized_history, expected, strict=True):
        assert ours.iteration == theirs.iteration
        for metric in ("student_loss", "student_grad_norm", "fake_score_loss", "spread"):
            value = getattr(theirs, metric)
            assert getattr(ours, metric) == pytest.approx(value, rel=TOLERANCE), metric
        gap = theirs.diagnostics["real_gap"]
        assert ours.diagnostics["real_gap"] == pytest.approx(gap, rel=TOLERANCE)
        assert ours.images == theirs.images
        for task, losses in theirs.tasks.items():
            assert asdict(ours.tasks[task]) == pytest.approx(asdict(losses), rel=TOLERANCE), task
        assert ours.teachers == theirs.teachers
    weights = load_file(folder / name / "student/diffusion_pytorch_model.safetensors")
    resized = load_file(folder / f"{name}-after/student/diffusion_pytorch_model.safetensors")
    for key, weight in weights.items():
        torch.testing.assert_close(resized[key], weight, rtol=0, atol=1e-4)


def _start(rank, world, out, recipe, cache):
    step = make_step(recipe, cache, rank, world)
    history = [step(iteration) for iteration in range(1, SAVED_AT + 1)]
    _state(step).save(out / "saved", recipe, "weights", rank, world)
    if rank == 0:
        write_history(out, history)


def _go_on(rank, world, out, recipe, cache, saved):
    step = make_step(recipe, cache, rank, world)
    _state(step).load(saved)
    history = [step(n) for n in range(SAVED_AT + 1, recipe.training.iterations + 1)]
    with step.ema.averaged() as student:
        if rank == 0:
            step.model.save_student(student, out / "student")
            write_history(out, history)


def _state(step):
    return checkpoint.ResumeState(step.student, step.fake_score, step.ema, checkpoint.Progress())

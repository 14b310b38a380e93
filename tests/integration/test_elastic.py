"""A run goes on with another number of workers as if nothing had happened."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flash_ray.recipe import Recipe
from flash_ray.trainer import checkpoint as state
from tests.helpers.distilling import encode_locally, in_processes, make_distiller, run_updates
from tests.helpers.distilling import small_recipe as recipe_of
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
        recipe_of(base, *same, f"runtime.num_workers={most}"),
        recipe_of(base, *same, ranged, "runtime.checkpoint_every=1"),
    )


# Two divide four in two passes; three do not divide four, and repeat two rows with no weight.
@pytest.mark.parametrize(
    ("most", "stage", "sizes"),
    [
        (4, 2, (2, 3)),
        pytest.param(2, 1, (2, 1), marks=pytest.mark.slow),
        pytest.param(3, 3, (3, 2), marks=pytest.mark.slow),
    ],
)
def test_a_resized_run_is_the_fixed_one(world, most, stage, sizes):
    base, folder = world
    fixed, ranged = recipes(base, most, stage, fewest=min(sizes))
    cache = encode_locally(fixed, folder)
    name = f"zero-{stage}"
    expected = run_updates(fixed, cache, folder / name)
    before, after = sizes
    in_processes(before, folder / f"{name}-before", _start, ranged, cache)
    saved = folder / f"{name}-before" / "saved"
    in_processes(1, folder / f"{name}-reshard", _reshard, saved)
    in_processes(after, folder / f"{name}-after", _go_on, ranged, cache, saved, before)

    lines = [
        *json.loads((folder / f"{name}-before/lines.json").read_text()),
        *json.loads((folder / f"{name}-after/lines.json").read_text()),
    ]
    assert len(lines) == len(expected)
    for update, (ours, theirs) in enumerate(zip(lines, expected, strict=True)):
        for measure in ("student_loss", "real_gap", "student_norm", "fake_loss", "spread"):
            mine, other = ours["measures"][measure], theirs["measures"][measure]
            assert mine == pytest.approx(other, rel=TOLERANCE), (update, measure)
        assert ours["measures"]["images"] == theirs["measures"]["images"]
        for task, losses in theirs["tasks"].items():
            assert ours["tasks"][task] == pytest.approx(losses, rel=TOLERANCE), (update, task)
        assert ours["teachers"] == theirs["teachers"]
    weights = load_file(folder / name / "student/diffusion_pytorch_model.safetensors")
    resized = load_file(folder / f"{name}-after/student/diffusion_pytorch_model.safetensors")
    for key, weight in weights.items():
        torch.testing.assert_close(resized[key], weight, rtol=0, atol=1e-4)


def _start(rank, world, out, recipe, cache):
    distiller = make_distiller(recipe, cache, rank, world)
    lines = [distiller.update(number) for number in range(SAVED_AT)]
    _state(distiller).save(out / "saved", recipe.digest, "weights", rank, world)
    if rank == 0:
        (out / "lines.json").write_text(json.dumps(lines))


def _reshard(rank, world, out, saved):
    state.reshard_all(saved)


def _go_on(rank, world, out, recipe, cache, saved, before):
    distiller = make_distiller(recipe, cache, rank, world, resharded=True)
    _state(distiller).load(saved, rank, world, before)
    updates = range(SAVED_AT, recipe.training.iterations)
    lines = [distiller.update(number) for number in updates]
    student = distiller.ema.gather()
    if rank == 0:
        student.save_pretrained(out / "student")
        (out / "lines.json").write_text(json.dumps(lines))


def _state(distiller):
    return state.ResumeState(distiller.student, distiller.fake, distiller.ema, state.Progress())

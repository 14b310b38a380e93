"""The engines give the same run whatever the number of workers and the ZeRO stage are."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from flash_ray.models.loading import dtype_of
from flash_ray.models.sampling import velocity_under
from flash_ray.trainer.learners import build_engine, ready_deepspeed
from flash_ray.trainer.metrics import IterationRecorder
from flash_ray.trainer.shares import load_engine, local_shares, save_engine
from tests.helpers.distilling import (
    build_lora,
    encode_locally,
    in_processes,
    make_step,
    run_iterations,
    small_recipe,
)
from tests.helpers.small import build_base

# Largest relative difference of a loss over 4 iterations at learning rate 1e-3: sums over workers
# round in another order.
TOLERANCE = 1e-4
COMPARED = ("student_loss", "student_grad_norm", "fake_score_loss")
LEARN_FAST = (
    "training.optimizer.lr=1e-3",
    "training.fake_score.optimizer.lr=1e-3",
    "training.ema_decay=0.5",
)
ONE = ("runtime.micro_batch_size=4",)
TWO = ("runtime.num_workers=2", "runtime.micro_batch_size=2")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(base, folder)"""
    folder = tmp_path_factory.mktemp("engines")
    return build_base(folder / "base"), folder


@pytest.fixture(scope="module")
def run(world):
    """run(name, overrides) -> (the run's history, student's weights), each once."""
    base, folder = world
    done = {}

    def run_once(name, *overrides):
        if name not in done:
            recipe = small_recipe(base, *LEARN_FAST, *overrides)
            history = run_iterations(recipe, encode_locally(recipe, folder), folder / name)
            weights = load_file(folder / name / "student/diffusion_pytorch_model.safetensors")
            done[name] = history, weights
        return done[name]

    return run_once


def assert_close(got, expected, tolerance):
    """The losses, the gradient norm and the teacher's distance are equal but for rounding."""
    for name in COMPARED:
        value = getattr(expected, name)
        assert getattr(got, name) == pytest.approx(value, rel=tolerance), (got.iteration, name)
    gap = expected.diagnostics["real_gap"]
    assert got.diagnostics["real_gap"] == pytest.approx(gap, rel=tolerance), got.iteration


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_workers_at_each_zero_stage_agree_with_one_worker(run, stage):
    one, one_weights = run("one", *ONE)
    two, two_weights = run(f"two-zero-{stage}", *TWO, f"runtime.zero_stage={stage}")
    for expected, got in zip(one, two, strict=True):
        assert_close(got, expected, TOLERANCE)
        assert got.tasks.keys() == expected.tasks.keys()
        for task, losses in expected.tasks.items():
            close = pytest.approx(asdict(losses), rel=TOLERANCE)
            assert asdict(got.tasks[task]) == close, (got.iteration, task)
    for name, weight in one_weights.items():
        torch.testing.assert_close(two_weights[name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_computed_again_changes_no_number(run, stage):
    how = (*TWO, f"runtime.zero_stage={stage}")
    history, weights = run(f"two-zero-{stage}", *how)
    again, again_weights = run(f"recompute-{stage}", *how, "runtime.gradient_checkpointing=true")
    for expected, got in zip(history, again, strict=True):
        assert_close(got, expected, 1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(again_weights[name], weight, rtol=0, atol=1e-5)


def test_bf16_follows_fp32(run):
    expected, weights = run("two-zero-2", *TWO, "runtime.zero_stage=2")
    got, got_weights = run("bf16", *TWO, "training.precision=bf16")
    for a, b in zip(expected, got, strict=True):
        assert b.fake_score_loss == pytest.approx(a.fake_score_loss, rel=0.02), a.iteration
        gap = a.diagnostics["real_gap"]
        assert b.diagnostics["real_gap"] == pytest.approx(gap, rel=0.02), a.iteration
    assert {weight.dtype for weight in got_weights.values()} == {torch.bfloat16}
    for name, weight in weights.items():
        torch.testing.assert_close(got_weights[name].float(), weight, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("recompute", ["false", "true"])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_text_that_two_passes_share_changes_no_number(world, stage, recompute):
    base, folder = world
    how = (f"runtime.zero_stage={stage}", f"runtime.gradient_checkpointing={recompute}")
    recipe = small_recipe(base, *LEARN_FAST, *TWO, *how)
    cache = encode_locally(recipe, folder)
    in_processes(2, folder / f"shared-{stage}-{recompute}", _shares, recipe, cache)


def _shares(rank, world, out, recipe, cache):
    shared, alone = (make_step(recipe, cache, rank, world) for _ in range(2))

    def velocity(learner, batch, again=False):
        return velocity_under(alone.model, learner, batch.conditions.positive, None)

    alone._velocity = velocity
    for iteration in (1, 2, 3):
        expected, got = alone(iteration), shared(iteration)
        assert_close(got, expected, 1e-5)
        assert got.fake_score_grad_norm == pytest.approx(expected.fake_score_grad_norm, rel=1e-5)


def test_accumulated_passes_make_one_iteration(world):
    base, folder = world
    recipe = small_recipe(
        base, "runtime.micro_batch_size=2", "runtime.gradient_accumulation_steps=2"
    )
    in_processes(1, folder / "accumulated", _accumulates, recipe, encode_locally(recipe, folder))


def _accumulates(rank, world, out, recipe, cache):
    step, record = make_step(recipe, cache, rank, world), IterationRecorder(recipe)
    samples = step.student_step(1, record)
    assert [batch.number for batch, _ in samples] == [0, 1]
    assert {batch.task for batch, _ in samples} == {"t2i", "edit"}
    assert step.student.engine.global_steps == 1 and step.fake_score.engine.global_steps == 1
    step.fake_score_step(samples, 1, record)
    assert step.fake_score.engine.global_steps == 2
    metrics = record.result(1, 4, step.student, step.fake_score)
    assert set(metrics.tasks) == {"t2i", "edit"}
    for name in ("student_loss", "fake_score_loss"):
        losses = [getattr(task, name) for task in metrics.tasks.values()]
        assert getattr(metrics, name) == pytest.approx(sum(losses) / 2)


def test_two_teachers_are_asked_where_they_count_on_any_number_of_workers(run, world):
    base, folder = world
    lora = build_lora(base, folder / "lora")
    late = [{"weight": 0.5, "rungs": [3, 4], "category": "text"}, {"weight": 0.0}]
    rest = [{"weight": 0.5, "rungs": [3, 4], "category": "text"}, {"weight": 1.0}]
    teachers = [
        {"name": "base", "model": "base", "weight": rest},
        {"name": "lora", "model": str(lora), "weight": late},
    ]
    two_teachers = (
        f"teachers={json.dumps(teachers)}",
        "data.composition={t2i: {text: 1}, edit: {style: 1, text: 1}}",
        "teacher_defaults.diagnose_every=3",
        "training.iterations=8",
    )
    one, _ = run("teachers-one", *ONE, *two_teachers)
    two, _ = run("teachers-two", *TWO, *two_teachers)
    rungs = set()
    for update, (expected, got) in enumerate(zip(one, two, strict=True)):
        assert_close(got, expected, TOLERANCE)
        ((rung, stats),) = expected.teachers["lora"].items()
        assert got.teachers["base"][rung] == expected.teachers["base"][rung]
        (task,) = expected.tasks
        assert (stats.weight > 0) == (rung > 2)
        if task == "t2i" and rung > 2:
            assert stats.weight == 0.5
            assert expected.teachers["base"][rung].weight == 0.5
        asked = stats.weight > 0 or update % 3 == 0
        assert (stats.norm is not None) == asked
        assert expected.teacher_calls == 4 * 2 * (1 + asked)
        if asked:
            assert stats.norm > 0.01 and -1 <= stats.cosine <= 1
            # Two workers may not have asked it on the same samples: the whole group's are compared.
            if task == "t2i" or update % 3 == 0:
                close = pytest.approx(asdict(stats), rel=1e-3)
                assert asdict(got.teachers["lora"][rung]) == close
        rungs.add(rung)
    assert rungs & {1, 2} and rungs & {3, 4}


@pytest.mark.parametrize("stage", [2, 3])
def test_the_average_is_of_the_fp32_weights(world, stage):
    base, folder = world
    recipe = small_recipe(base, *LEARN_FAST, *TWO, f"runtime.zero_stage={stage}")
    cache = encode_locally(recipe, folder)
    in_processes(2, folder / f"ema-{stage}", _averages, recipe, cache)


def _averages(rank, world, out, recipe, cache):
    from deepspeed.utils import safe_get_full_fp32_param

    step = make_step(recipe, cache, rank, world)

    def weights():
        parameters = step.student.module.named_parameters()
        return {name: safe_get_full_fp32_param(value).clone() for name, value in parameters}

    expected = weights()
    for iteration in (1, 2):
        step(iteration)
        now = weights()
        expected = {name: 0.5 * value + 0.5 * now[name] for name, value in expected.items()}
    average = step.ema.gather()
    assert (average is None) == (rank > 0)
    if rank == 0:
        for name, value in average.named_parameters():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("offload", ["none", "optimizer"])
@pytest.mark.parametrize("stage", [2, 3])
def test_passes_accumulate_in_fp32(world, stage, offload):
    base, folder = world
    how = (f"runtime.zero_stage={stage}", "training.precision=bf16", *TWO)
    recipe = with_offload(
        small_recipe(base, *how, "runtime.gradient_accumulation_steps=4"), offload
    )
    in_processes(2, folder / f"passes-{stage}-{offload}", _accumulates_in_fp32, recipe)


def with_offload(recipe, offload):
    """The recipe as it would be for GPUs: without them it is refused."""
    runtime = recipe.runtime.model_copy(update={"offload": offload})
    return recipe.model_copy(update={"runtime": runtime})


def _accumulates_in_fp32(rank, world, out, recipe):
    ready_deepspeed(gpu=False)
    engine = build_engine(torch.nn.Linear(8, 4).bfloat16(), recipe.training.optimizer, recipe)
    for value in (256.0, 1.0, 1.0, 1.0):  # the mean of a bf16 sum would be 64
        engine.backward(engine(torch.full((1, 8), value).bfloat16()).sum())
        engine.step()
    assert engine.global_steps == 1
    _, beta2 = recipe.training.optimizer.betas
    for share in local_shares(engine):
        squares = share.of(engine.optimizer.optimizer.state_of(share.flat)["exp_avg_sq"])
        clip = recipe.training.max_grad_norm / engine.get_global_grad_norm()
        gradient = (squares / (1 - beta2)).sqrt() / clip
        expected = 64.75 if share.name == "weight" else 1.0
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("stage", "precision", "offload"),
    [
        *[(stage, precision, "none") for stage in (1, 2, 3) for precision in ("fp32", "bf16")],
        *[(stage, "bf16", "optimizer") for stage in (2, 3)],
    ],
)
def test_a_saved_engine_goes_on_bit_by_bit(world, stage, precision, offload):
    base, folder = world
    how = (f"runtime.zero_stage={stage}", f"training.precision={precision}")
    # Two, because a recipe may not ask for stage 3 of one; the engine here has one all the same.
    recipe = with_offload(small_recipe(base, *LEARN_FAST, *how, "runtime.num_workers=2"), offload)
    in_processes(1, folder / f"saved-{stage}-{precision}-{offload}", _goes_on, recipe)


def _goes_on(rank, world, out, recipe):
    ready_deepspeed(gpu=False)

    def engine(seed):
        torch.manual_seed(seed)
        module = torch.nn.Linear(400, 300).to(dtype_of(recipe))  # ZeRO 3 keeps the bias whole
        return build_engine(module, recipe.training.optimizer, recipe)

    def losses(engine):
        x = torch.linspace(0, 1, 400).view(1, 400).to(dtype_of(recipe))
        return [_descend(engine, x) for _ in range(3)]

    saved = engine(0)
    losses(saved)
    save_engine(saved, out / "engine")
    expected = losses(saved)
    assert len(set(expected)) == 3
    again = engine(1)
    load_engine(again, out / "engine")
    assert losses(again) == expected


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_a_saved_engine_goes_on_under_another_zero_stage(world, before, after):
    base, folder = world
    recipes = [
        small_recipe(base, *LEARN_FAST, "runtime.num_workers=2", f"runtime.zero_stage={stage}")
        for stage in (before, after)
    ]
    in_processes(2, folder / f"saved-{before}-{after}", _goes_on_elsewhere, *recipes)


def _goes_on_elsewhere(rank, world, out, before, after):
    ready_deepspeed(gpu=False)
    x = torch.linspace(-1, 1, 400).view(1, 400)

    def engine(recipe, seed):
        torch.manual_seed(seed)
        return build_engine(torch.nn.Linear(400, 301), recipe.training.optimizer, recipe)

    saved = engine(before, 0)
    for _ in range(3):
        _descend(saved, x)
    save_engine(saved, out / "engine")
    torch.distributed.barrier()
    again = engine(after, 1)
    load_engine(again, out / "engine")
    for _ in range(3):
        assert _descend(again, x) == pytest.approx(_descend(saved, x), rel=1e-5)


def _descend(engine, x):
    loss = engine(x).float().square().mean()
    engine.backward(loss)
    engine.step()
    return loss.item()

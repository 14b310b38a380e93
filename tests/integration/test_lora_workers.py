"""A LoRA student trains like any other, on any number of workers, and goes on bit by bit."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from flash_ray.models.lora_source import LORA
from flash_ray.trainer import checkpoint
from tests.helpers.distilling import (
    build_lora,
    encode_locally,
    in_processes,
    make_step,
    read_history,
    run_iterations,
    small_recipe,
    write_history,
)
from tests.helpers.small import build_base

LEARN_FAST = (
    "student.weights=lora",
    "student.lora={rank: 4, alpha: 8}",
    "training.fake_score.lora={rank: 2}",
    "training.optimizer.lr=1e-2",
    "training.fake_score.optimizer.lr=1e-2",
    "training.ema_decay=0.5",
    "runtime.gradient_accumulation_steps=2",
    "runtime.micro_batch_size=4",
)
TIMES = {"seconds": 1, "stages": {}, "teacher_wait_share": 0, "memory_mib": 0, "cpu_seconds": 0}
COMPARED = ("student_loss", "student_grad_norm", "fake_score_loss", "fake_score_grad_norm")
SAVED_AT = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(base, folder, cache, teachers: the base and a LoRA of it)"""
    folder = tmp_path_factory.mktemp("lora")
    base = build_base(folder / "base")
    lora = build_lora(base, folder / "teacher")
    teachers = [
        {"name": "a", "model": "base", "weight": 0.5},
        {"name": "b.c", "model": str(lora), "weight": 0.5},
    ]
    return (
        base,
        folder,
        encode_locally(small_recipe(base), folder),
        f"teachers={json.dumps(teachers)}",
    )


@pytest.fixture(scope="module")
def one(world):
    """The history of one worker, which also saved what it resumes from, and its student."""
    base, folder, cache, teachers = world
    in_processes(1, folder / "one", _saves, small_recipe(base, *LEARN_FAST, teachers), cache)
    return read_history(folder / "one"), load_file(folder / "one" / "student" / LORA)


def _saves(rank, world, out, recipe, cache):
    step = make_step(recipe, cache, rank, world)
    progress = checkpoint.Progress()
    state = checkpoint.ResumeState(step.student, step.fake_score, step.ema, progress)
    for iteration in range(1, recipe.training.iterations + 1):
        progress.history.append(step(iteration))
        progress.iterations = iteration
        if iteration == SAVED_AT:
            state.save(out / "saved", recipe, "weights", rank, world)
    _leave(step, rank, out, progress.history)


def _goes_on(rank, world, out, recipe, cache, saved):
    step = make_step(recipe, cache, rank, world)
    # Of another recipe where the workers are two.
    digest = json.loads((saved / "manifest-00000.json").read_text())["recipe_digest"]
    reader = checkpoint.Reader(checkpoint.layout_of(recipe), rank, world, rank, world)
    checkpoint.check(saved, digest, "weights", reader)
    progress = checkpoint.Progress()
    checkpoint.ResumeState(step.student, step.fake_score, step.ema, progress).load(saved)
    for iteration in range(SAVED_AT + 1, recipe.training.iterations + 1):
        progress.history.append(step(iteration))
    _leave(step, rank, out, progress.history)


def _leave(step, rank, out, history):
    with step.ema.averaged() as student:
        assert (student is None) == (rank > 0)
        if rank == 0:
            step.model.save_student(student, out / "student")
            write_history(out, history)


def exact(history):
    return [replace(metrics, **TIMES) for metrics in history]


def test_it_learns_beside_a_lora_teacher(one):
    history, student = one
    assert all(metrics.student_grad_norm > 0 for metrics in history)
    assert all(metrics.fake_score_grad_norm > 0 for metrics in history)
    assert all({*metrics.teachers} == {"a", "b.c"} for metrics in history)
    b = [value for name, value in student.items() if ".lora_B." in name]
    assert b and all(value.abs().max() > 1e-3 for value in b)
    layers = {name.partition(".lora_")[0] for name in student}
    assert all(name.startswith("transformer.transformer_blocks.") for name in layers)
    assert {value.shape[1] for value in b} == {4}


def test_a_resumed_run_is_equal_to_the_last_bit(world, one):
    base, folder, cache, teachers = world
    recipe = small_recipe(base, *LEARN_FAST, teachers)
    in_processes(1, folder / "resumed", _goes_on, recipe, cache, folder / "one" / "saved")
    history, student = one
    assert exact(read_history(folder / "resumed")) == exact(history)
    resumed = load_file(folder / "resumed" / "student" / LORA)
    assert all(torch.equal(resumed[name], value) for name, value in student.items())


def test_two_workers_are_one_also_where_they_take_up_its_run(world, one):
    base, folder, cache, teachers = world
    two = (*LEARN_FAST, teachers, "runtime.num_workers=2", "runtime.micro_batch_size=2")
    recipe = small_recipe(base, *two, "runtime.gradient_checkpointing=true")
    history, student = one
    run_iterations(recipe, cache, folder / "two")
    in_processes(2, folder / "taken-up", _goes_on, recipe, cache, folder / "one" / "saved")
    for name in ("two", "taken-up"):
        for ours, metrics in zip(read_history(folder / name), history, strict=True):
            for field in COMPARED:
                value = getattr(metrics, field)
                assert getattr(ours, field) == pytest.approx(value, rel=1e-4), (name, field)
        weights = load_file(folder / name / "student" / LORA)
        for key, value in student.items():
            # A tenth of one step: Adam divides a tiny gradient's rounding by that gradient.
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-3)


def test_a_base_that_workers_share_out_gives_the_same_numbers(world):
    base, folder, cache, _ = world
    # Workers whose samples are of other categories would ask other teachers.
    text = [{"category": "text", "weight": 0}, {"weight": 1}]
    others = [{"category": "text", "weight": 1}, {"weight": 0}]
    teachers = [
        {"name": "a", "model": "base", "weight": text},
        {"name": "b", "model": str(folder / "teacher"), "weight": others},
    ]
    settings = (
        *LEARN_FAST,
        f"teachers={json.dumps(teachers)}",
        "runtime.num_workers=2",
        "runtime.micro_batch_size=1",
        "runtime.gradient_checkpointing=true",
    )
    run_iterations(small_recipe(base, *settings), cache, folder / "replicated")
    sharded = small_recipe(base, *settings, "runtime.base=sharded")
    in_processes(2, folder / "sharded", _shares_out, sharded, cache)
    histories = [read_history(folder / name) for name in ("sharded", "replicated")]
    for ours, metrics in zip(*histories, strict=True):
        for field in COMPARED:
            assert getattr(ours, field) == pytest.approx(getattr(metrics, field), rel=1e-6), field
    students = [load_file(folder / name / "student" / LORA) for name in ("sharded", "replicated")]
    for name, value in students[1].items():
        torch.testing.assert_close(students[0][name], value, rtol=0, atol=1e-6)


def _shares_out(rank, world, out, recipe, cache):
    step = make_step(recipe, cache, rank, world)
    weights = [w for w in step.model.transformer.parameters() if hasattr(w, "ds_id")]
    large = [w for w in weights if not w.ds_persist]
    assert large and all(w.numel() == 0 for w in large)
    assert all(2 * w.ds_tensor.numel() <= w.ds_numel + 1 for w in large)
    history = [step(iteration) for iteration in range(1, recipe.training.iterations + 1)]
    with step.ema.averaged() as student:
        conditions = step.stream[0].conditions.positive  # a pass on all workers, as evaluations do
        x_BNC = torch.zeros(1, 16, step.model.latent_channels)
        with torch.no_grad():
            drawn = step.model.velocity(student, x_BNC, torch.ones(1), conditions)
        assert drawn.abs().max() > 0
        if rank == 0:
            step.model.save_student(student, out / "student")
            write_history(out, history)

"""What DeepSpeed's engines and quantized bases hold on each worker is what is planned."""

from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch

from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import PACKINGS, pipeline_of
from flash_ray.capacity.workload import Assumptions
from flash_ray.models.base import Condition, Layout
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.models.quantized import quantize
from flash_ray.recipe import Recipe
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.learners import build_engine, ready_deepspeed
from tests.benchmarks.gpu.networks import Size, as_model, build_transformer
from tests.benchmarks.memory import CONFIG, CPU, Case, planned
from tests.helpers.distilling import in_processes, small_recipe
from tests.helpers.held import held_by_engine, held_by_weights
from tests.helpers.small import build_base


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_workers_under_zero_2(tmp_path, precision):
    base = build_base(tmp_path / "base")
    recipe = small_recipe(base, "runtime.num_workers=2", f"training.precision={precision}")
    in_processes(2, tmp_path / precision, _holds_what_is_planned, recipe)


def _holds_what_is_planned(rank: int, world: int, out: Path, recipe: Recipe) -> None:
    model = load_model(recipe.base, dtype_of(recipe), "cpu", encoders=False)
    ready_deepspeed(gpu=False)
    engine = build_engine(model.copy_transformer(), recipe.training.optimizer, recipe)
    ema = EMA(engine, recipe.training.ema_decay)
    width = model.transformer.config.context_in_dim
    mask = torch.ones(1, 8, dtype=torch.bool)
    condition = Condition(Layout("t2i", 64, 64), torch.randn(1, 8, width), mask, ~mask)
    x_BNC = torch.randn(1, 16, model.latent_channels)
    for step in (True, False):  # the first step makes the moments
        v_BNC = model.velocity(engine, x_BNC, torch.full((1,), 0.5), condition)
        engine.backward(v_BNC.square().mean())
        if step:
            engine.step()
    planner = MemoryModel(recipe, pipeline_of(recipe.base), Assumptions(), 2, world)
    held = held_by_engine(engine, ema)
    planned = planner.trainer(teachers_inside=True).held["student"]
    # Shares are rounded up to what can be sent well. The gradient is there until the step.
    assert held.gradients == pytest.approx(4 * planner.parameters / world, rel=1e-3)
    assert astuple(replace(held, gradients=0.0)) == pytest.approx(astuple(planned), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, *PACKINGS])
def test_a_base_of_220_million_weights_in_each_precision(form):
    size = Size()
    model = as_model(build_transformer(CONFIG, size.dtype, CPU))
    if form:
        quantize(model, form, CPU)
    held = held_by_weights(model.transformer)
    assert held == pytest.approx(planned(Case("lora", base=form), size).held["base"].total, 1e-2)

"""Networks are made of the base's weights one by one: no worker has a copy under ZeRO 3."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from flash_ray.models.base import Model
from flash_ray.models.loading import load_model
from flash_ray.recipe import Recipe
from flash_ray.trainer.blueprint import Blueprint
from flash_ray.trainer.learners import build_engine, engine_config, ready_deepspeed
from tests.helpers.distilling import in_processes, small_recipe
from tests.helpers.small import build_base

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_weight_is_sharded_as_soon_as_it_is_copied(tmp_path, precision):
    base = build_base(tmp_path / "base")
    how = ("runtime.zero_stage=3", "runtime.num_workers=2", f"training.precision={precision}")
    in_processes(2, tmp_path / "out", _shards, small_recipe(base, *how))


def _shards(rank: int, world: int, out: Path, recipe: Recipe) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[recipe.training.precision]
    model: Model = load_model(recipe.base, dtype, "cpu", encoders=False)
    ready_deepspeed(gpu=False)
    if rank:  # what rank 0 has is what counts
        with torch.no_grad():
            model.transformer.proj_out.weight.add_(1.0)
    blueprint = Blueprint(model.transformer, CPU)
    config = engine_config(blueprint.weights, recipe)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        network = blueprint.build(config)
    sizes = [weight.nbytes for weight in model.transformer.parameters()]
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    most = max(accumulate(change for _, change in changes))
    assert sum(sizes) / world <= most < sum(sizes) / world + 2.5 * max(sizes) < sum(sizes)

    import deepspeed

    engine = build_engine(network, recipe.training.optimizer, recipe)
    for name, weight in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([weight]):
            expected = model.transformer.get_parameter(name)
            if rank and name == "proj_out.weight":
                expected = expected - 1.0
            torch.testing.assert_close(weight.detach(), expected.detach(), rtol=0, atol=1e-2)

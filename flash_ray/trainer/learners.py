"""DeepSpeed engines for the two networks that learn: the student and the fake score.

The losses of DMD are pseudo-losses through one network only, so the engines never meet.
"""

import os
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Adam
from flash_ray.trainer.optimizer import AdamW

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from diffusers.models.modeling_utils import ModelMixin

SUB_GROUP = 100_000_000  # weights that ZeRO 3 steps at once, with copies of their gradients


def ready_deepspeed(gpu: bool) -> None:
    """Call once in a process, after its process group exists and before the first engine."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    ZERO_SUPPORTED_OPTIMIZERS.append(AdamW)  # else every run is warned of it
    if not gpu:
        # The shared-memory op takes a compiler and a minute, and serves inference only. DeepSpeed
        # looks here whether it can be built.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}


def build_engine(
    module: nn.Module, adam: Adam, recipe: Recipe, passes: int = 1
) -> "DeepSpeedEngine":
    """An engine around `module` with its own AdamW, as the recipe's runtime says; a collective.

    Args:
        passes: over a micro-batch; more than one where there are fewer workers than at most.
    """
    import deepspeed

    if recipe.runtime.gradient_checkpointing:
        cast("ModelMixin", module).enable_gradient_checkpointing()  # as every diffusers model
    # Fused, a step needs no copies of the gradients; on a CPU the plain one's numbers stay.
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=list(module.parameters()),
        optimizer=lambda weights: AdamW(weights, adam),
        config=engine_config(sum(s.numel() for s in shapes(module).values()), recipe, passes),
    )
    return engine


def engine_config(weights: int, recipe: Recipe, passes: int = 1) -> dict[str, Any]:
    """The DeepSpeed configuration of an engine; its `weights` bound the communication buffers."""
    runtime, training = recipe.runtime, recipe.training
    bucket = min(weights + weights % 2, 500_000_000)  # DeepSpeed wants an even number
    zero: dict[str, Any] = {
        "stage": runtime.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "sub_group_size": SUB_GROUP,
    }
    if runtime.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": runtime.gpu}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": runtime.micro_batch_size,
        "gradient_accumulation_steps": runtime.gradient_accumulation_steps * passes,
        "gradient_clipping": training.max_grad_norm or 0.0,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # theirs takes a compiler
        "steps_per_print": 2**31,
    }
    if runtime.zero_stage > 1:  # DeepSpeed has another optimizer for that with stage 1
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The parameters' full shapes by name, also where ZeRO 3 shards them."""
    parameters = module.named_parameters()
    return {name: getattr(value, "ds_shape", value.shape) for name, value in parameters}

"""DeepSpeed engines for the two networks that learn: the student and the fake score.

The losses of DMD are pseudo-losses through one network only, so the engines never meet.
"""

import os
import pickle
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Adam

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from diffusers.models.modeling_utils import ModelMixin

TAG = "state"
SUB_GROUP = 100_000_000  # weights that ZeRO 3 steps at once, with copies of their gradients
UNIVERSAL = "universal"  # the tag of what `reshard` makes
# Classes of DeepSpeed's in its state besides tensors and plain values: records that run nothing.
RECORDS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def ready_deepspeed(gpu: bool) -> None:
    """Call once in a process, after its process group exists and before the first engine."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    if not gpu:
        # The shared-memory op takes a compiler and a minute, and serves inference only. DeepSpeed
        # looks here whether it can be built.
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}


def build_engine(
    module: nn.Module, adam: Adam, recipe: Recipe, passes: int = 1, resharded: bool = False
) -> "DeepSpeedEngine":
    """An engine around `module` with its own AdamW, as the recipe's runtime says.

    Args:
        passes: over a micro-batch; more than one where there are fewer workers than at most.
        resharded: it will load what `reshard` made.
    """
    import deepspeed

    if recipe.runtime.gradient_checkpointing:
        cast("ModelMixin", module).enable_gradient_checkpointing()  # as every diffusers model
    parameters = sum(p.numel() for p in module.parameters())
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=list(module.parameters()),
        config={
            **engine_config(adam, recipe, parameters, passes),
            "checkpoint": {"load_universal": resharded},
        },
    )
    return engine


def engine_config(adam: Adam, recipe: Recipe, parameters: int, passes: int = 1) -> dict[str, Any]:
    """The DeepSpeed configuration; `parameters` bounds its communication buffers."""
    runtime, training = recipe.runtime, recipe.training
    bucket = min(parameters, 500_000_000)
    return {
        "train_micro_batch_size_per_gpu": runtime.micro_batch_size,
        "gradient_accumulation_steps": runtime.gradient_accumulation_steps * passes,
        "gradient_clipping": training.max_grad_norm or 0.0,
        # Fused, a step needs no copies of the gradients; on a CPU the plain one's numbers stay.
        "optimizer": {
            "type": "AdamW",
            "params": {**adam.model_dump(), "torch_adam": True, "fused": runtime.gpu},
        },
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {
            "stage": runtime.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "sub_group_size": SUB_GROUP,
        },
        "steps_per_print": 2**31,
    }


def local_fp32(engine: "DeepSpeedEngine") -> Iterator[tuple[str, int, Tensor]]:
    """This rank's share of the fp32 weights: (parameter's name, first element, values).

    The values are the optimizer's own flat storage and change with every step.
    """
    from deepspeed.utils import safe_get_local_fp32_param

    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 3:
            share = parameter.ds_tensor.ds_numel
            start = share * engine.global_rank
            real = max(0, min(share, parameter.ds_numel - start))  # the last share is padded
            yield name, start, safe_get_local_fp32_param(parameter)[:real]
        elif parameter._hp_mapping is not None:
            address = parameter._hp_mapping.lp_fragment_address
            yield name, address.start, parameter._hp_mapping.get_hp_fragment()


def shapes(engine: "DeepSpeedEngine") -> dict[str, torch.Size]:
    """The parameters' full shapes by name, also where they are sharded."""
    parameters = engine.module.named_parameters()
    return {name: getattr(value, "ds_shape", value.shape) for name, value in parameters}


def save_engine(engine: "DeepSpeedEngine", folder: Path) -> None:
    """Writes this rank's part; a collective. Every rank may have a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)


def validate_state(folder: Path) -> None:
    """Checks that the state saved under `folder` is tensors and values, without loading any of it.

    Raises:
        UserError: a file would run code, or is none of torch's.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for path in sorted(folder.rglob("*.pt")):
        name = path.relative_to(folder)
        try:
            strange = sorted({*get_unsafe_globals_in_checkpoint(path)} - {*RECORDS})
        except (pickle.UnpicklingError, ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"checkpoint {folder}: {name} is no file of tensors ({type(error).__name__}), so "
                "it is not loaded; resume from an earlier checkpoint"
            ) from error
        if strange:
            raise UserError(
                f"checkpoint {folder}: {name} would run {', '.join(strange)}, which flash_ray "
                "does not write, so it is not loaded; find out who writes to this bucket, and "
                "start a run with another name"
            )


@contextmanager
def only_tensors() -> Iterator[None]:
    """Has torch.load read tensors, values and `RECORDS` alone, also where DeepSpeed asks for all.

    A pickle of anything else raises pickle.UnpicklingError before it runs.
    """
    names = [name.rpartition(".") for name in RECORDS]
    records = [getattr(import_module(module), name) for module, _, name in names]
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals(records):
            yield
    finally:
        del os.environ[FORCE_WEIGHTS_ONLY]
        if before is not None:
            os.environ[FORCE_WEIGHTS_ONLY] = before


def reshard(folder: Path) -> None:
    """Turns what all ranks saved into a universal checkpoint beside it, for any number of workers.

    Call it once for a folder, before engines are built.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    with only_tensors():
        main(
            Namespace(
                input_folder=str(folder / TAG),
                output_folder=str(folder / UNIVERSAL),
                num_extract_workers=1,  # in this process: Ray's workers must not fork
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # stages 1 and 2 save no list of their patterns
            )
        )


def load_engine(engine: "DeepSpeedEngine", folder: Path) -> None:
    """Takes up weights and optimizer from what all ranks saved."""
    tag = UNIVERSAL if engine.load_universal_checkpoint() else TAG
    with only_tensors():
        path, _ = engine.load_checkpoint(str(folder), tag=tag)
    if path is None:
        raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")

"""The noise levels of diffusers' flow-matching pipelines: which ones a checkpoint is sampled at.

A pipeline hands the `sigmas` of a call to its scheduler, which shifts them as its configuration
says, some by the number of latent tokens. So a checkpoint's levels are known only with its
scheduler, and a student that is to be sampled at levels of its own needs one that leaves them.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray.models.loading import read_config

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

# What the pipelines take where a configuration does not say.
SHIFTS = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
UNSHIFTED: dict[str, Any] = {
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


def validate_scheduler(source: str | Path) -> None:
    """Checks that a pipeline is sampled by Euler's method, from its configuration alone.

    Raises:
        ValueError: it is not: its scheduler is another, adds noise or runs from data to noise.
    """
    config = read_config(source, "scheduler/scheduler_config.json")
    name = config.get("_class_name")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(f"its scheduler is a {name}")
    for key in ("stochastic_sampling", "invert_sigmas"):
        if config.get(key):
            raise ValueError(f"its scheduler has {key}")


def scheduled(
    scheduler: "FlowMatchEulerDiscreteScheduler", sigmas: Sequence[float], tokens: int
) -> list[float]:
    """The noise levels at which a pipeline takes the steps of a call with these `sigmas`.

    Args:
        tokens: latent tokens of the picture.
    """
    own = copy.deepcopy(scheduler)
    fewest, most, base, highest = (own.config.get(key, value) for key, value in SHIFTS.items())
    mu = base + (highest - base) * (tokens - fewest) / (most - fewest)
    own.set_timesteps(sigmas=list(sigmas), mu=mu)
    return own.sigmas[:-1].tolist()


def save_unshifted(scheduler: "FlowMatchEulerDiscreteScheduler", folder: Path) -> None:
    """Saves the scheduler's config but for its shifts: `sigmas` are taken as they are."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, **UNSHIFTED).save_pretrained(
        folder
    )

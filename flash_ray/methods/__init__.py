"""The mathematics of distillation, in torch alone: read `dmd.py` first.

A second objective is a new file here, its line in `METHODS` and its name in the recipe's schema.
"""

from collections.abc import Callable, Mapping

from flash_ray.methods.base import Method
from flash_ray.methods.dmd import DMD

# By `objective.name`: (sigmas, t_min, t_max, shift) -> the method.
METHODS: Mapping[str, Callable[[tuple[float, ...], float, float, float], Method]] = {"dmd": DMD}

__all__ = ["DMD", "METHODS", "Method"]

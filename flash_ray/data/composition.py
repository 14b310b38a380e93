"""How many cases of each category, and in which order they are taken."""

import hashlib
from collections.abc import Mapping

import numpy as np

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe


def category_counts(weights: Mapping[str, float], total: int, field: str) -> dict[str, int]:
    """Divides `total` cases by weight (largest remainder); every positive weight gets one or more.

    Raises:
        UserError: `total` is too small for that; `field` names the weights in the message.
    """
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, weight in weights.items() if weight and not counts[name]]:
        raise UserError(
            f"data.prompts: {total} cases leave none for {field}.{empty[0]}; allowed: enough for "
            f"every category of positive weight; raise data.prompts or set {field}.{empty[0]}=0"
        )
    return counts


def epoch_counts(recipe: Recipe, task: str) -> dict[str, int]:
    """How often each category of a task comes in one epoch of `data.prompts` cases.

    Raises:
        UserError: `data.prompts` is too small.
    """
    weights = getattr(recipe.data.composition, task)
    return category_counts(weights, recipe.data.prompts, f"data.composition.{task}")


def unique_counts(recipe: Recipe, task: str) -> dict[str, int]:
    """How many different cases of each category the recipe asks for: `data.cap` at most."""
    counts = epoch_counts(recipe, task)
    return {name: min(count, recipe.data.cap or count) for name, count in counts.items()}


def unique_cases(recipe: Recipe) -> dict[str, int]:
    """How many different cases the recipe asks for, by task."""
    return {task: sum(unique_counts(recipe, task).values()) for task in tasks_of(recipe)}


def tasks_of(recipe: Recipe) -> list[str]:
    """The tasks that a recipe has a share for."""
    return [task for task, share in recipe.tasks.model_dump().items() if share]


def take(position: int, count: int, total: int, seed: int, task: str) -> list[int]:
    """Cases `position` to `position + count` of an endless stream over `total` cases.

    Every epoch holds each case once, in an order of its own that seed, task and epoch decide: the
    composition is exact over an epoch, and the position is all there is to resume.
    """
    out: list[int] = []
    while len(out) < count:
        epoch, start = divmod(position + len(out), total)
        order = np.random.default_rng(_entropy(seed, task, epoch)).permutation(total)
        out += order[start : start + count - len(out)].tolist()
    return out


def _entropy(*labels: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(labels).encode()).digest()[:16])

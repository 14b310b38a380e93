"""How well pictures cover what their prompts leave free: a distance to the truth per factor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import wasserstein_distance

from flash_ray.miniature.edits import Edit
from flash_ray.miniature.fit import observable_numbers
from flash_ray.miniature.scenes import Scene, levels, unstated

_SIMULATIONS = 400


def diversity(
    category: str, fitted: Sequence[Scene], edits: Sequence[Edit] | None = None
) -> dict[str, dict[str, float]]:
    """Distance of each unstated factor's values from its true distribution: equally likely levels.

    Args:
        category: of scenes; those of other categories are left out.
        fitted: scenes found in pictures; a factor that a picture does not show is left out of it.
        edits: the edit each picture answers, if any; then only the factors it leaves free count.

    Returns:
        By factor: `distance`, the 1-Wasserstein distance to the factor's levels, and `floor`, the
        mean distance of as many true samples. A factor seen in fewer than two pictures is absent.
    """
    table = {}
    for name in unstated(category):
        values = [
            scene.factors[name]
            for index, scene in enumerate(fitted)
            if scene.category == category
            and name in observable_numbers(scene)
            and (edits is None or _free(edits[index], name))
        ]
        if len(values) > 1:
            true = tuple(levels(category, name))
            table[name] = {
                "distance": float(wasserstein_distance(values, true)),
                "floor": floor(len(values), true),
            }
    return table


def diversity_gap(table: dict[str, dict[str, float]]) -> float | None:
    """Mean over factors of distance minus floor: 0 for true samples, up to about 0.5.

    None if there is no factor, as in edits that leave nothing free.
    """
    return (
        None
        if not table
        else float(np.mean([row["distance"] - row["floor"] for row in table.values()]))
    )


@cache
def floor(count: int, true: tuple[float, ...]) -> float:
    """Mean 1-Wasserstein distance of `count` samples of equally likely values, by simulation."""
    rng = np.random.default_rng(count)
    samples = rng.choice(true, size=(_SIMULATIONS, count))
    return float(np.mean([wasserstein_distance(sample, true) for sample in samples]))


def _free(edit: Edit, name: str) -> bool:
    return name not in edit.kept and name not in edit.changed

"""How long the arms of a study train."""

import math

from flash_ray.data.composition import unique_cases
from flash_ray.recipe import Recipe
from flash_ray.studies.schema import Budget


def with_budget(recipe: Recipe, budget: Budget) -> Recipe:
    """The recipe with as many updates as the budget allows: the fewest that reach it."""
    if budget.updates is not None:
        updates = budget.updates
    else:
        images = budget.images
        if images is None:
            images = budget.passes * sum(unique_cases(recipe).values())
        updates = math.ceil(images / images_per_update(recipe))
    optimisation = recipe.optimisation.model_copy(update={"updates": updates})
    return recipe.model_copy(update={"optimisation": optimisation})


def images_per_update(recipe: Recipe) -> int:
    """Samples of the student in one update, over all workers."""
    runtime = recipe.runtime
    return runtime.most_workers * runtime.micro_batch * runtime.accumulation

"""What a run will see: how many cases of each category, and how often."""

from dataclasses import dataclass

from flash_ray.data.composition import epoch_counts, unique_counts
from flash_ray.data.mixture import Mixture
from flash_ray.recipe import Recipe


@dataclass(frozen=True)
class CategoryUse:
    """One category in a run.

    Args:
        share: of all samples of both tasks, 0 to 1.
        samples: that the student draws for it; exact over whole epochs.
        unique: different cases.
    """

    share: float
    samples: float
    unique: int

    @property
    def passes(self) -> float:
        """How often each case is taken."""
        return self.samples / self.unique


def category_uses(recipe: Recipe) -> dict[str, dict[str, CategoryUse]]:
    """By task and category, of those that have a share.

    Raises:
        UserError: `data.prompts` is too small for the composition.
    """
    runtime, tasks = recipe.runtime, recipe.tasks
    batches = recipe.optimisation.updates * runtime.accumulation
    size = runtime.workers * runtime.micro_batch
    mixture = Mixture(tasks.t2i, tasks.edit)
    table: dict[str, dict[str, CategoryUse]] = {}
    for task, share in tasks.model_dump().items():
        if not share:
            continue
        unique, part = unique_counts(recipe, task), mixture.count(task, batches) / batches
        table[task] = {
            name: CategoryUse(
                part * count / recipe.data.prompts,
                part * batches * size * count / recipe.data.prompts,
                unique[name],
            )
            for name, count in epoch_counts(recipe, task).items()
            if count
        }
    return table

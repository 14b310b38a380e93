"""What can be refused of a recipe's data before torch and ray take their seconds."""

from flash_ray.backbones.load import resolve_base
from flash_ray.data.composition import tasks_of, unique_counts
from flash_ray.recipe import Recipe


def refuse_data(recipe: Recipe) -> None:
    """Raises UserError for what can be known without reading more than the files' first rows: too
    few cases, files that are not there, columns that they lack."""
    resolve_base(recipe.base)
    source = recipe.data.source
    for task in tasks_of(recipe):
        unique_counts(recipe, task)
        if source != "miniature":
            from flash_ray.data.files import find_files, refuse_columns

            found = find_files(source, task, recipe.runtime.storage.endpoint)
            refuse_columns(found, source.columns, task)

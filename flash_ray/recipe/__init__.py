"""What a run is: one small typed file. Imports neither torch nor ray."""

from flash_ray.recipe.load import dump_yaml, load_recipe, parse_recipe, presets
from flash_ray.recipe.schema import Recipe

__all__ = ["Recipe", "dump_yaml", "load_recipe", "parse_recipe", "presets"]

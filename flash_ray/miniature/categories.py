"""The categories of the small world, by task, in the order of tables."""

from flash_ray.recipe.schema import Task

T2I_CATEGORIES = ("landscape", "portrait", "text")
EDIT_CATEGORIES = ("scene", "enhancement", "object", "text", "identity", "style")
CATEGORIES: dict[Task, tuple[str, ...]] = {"t2i": T2I_CATEGORIES, "edit": EDIT_CATEGORIES}

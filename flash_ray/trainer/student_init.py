"""Where the student starts: the base's weights, or another transformer of the base's shape."""

import re
from pathlib import Path

from torch import nn

from flash_ray.errors import UserError
from flash_ray.models.base import Model
from flash_ray.recipe import Recipe
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student

BASE, PUBLISHED = "base", "students/"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
ALLOWED = (
    "allowed: base, students/NAME of the run's store, a folder of a transformer or a pipeline in "
    "diffusers format, a hub id"
)


def validate_init(recipe: Recipe, store: Store) -> None:
    """Checks without loading anything that there is something to start from.

    Raises:
        UserError: `student.init` names no student of the store and no folder with a config.json,
            and is no hub id either.
    """
    init = recipe.student.init
    if init == BASE:
        return
    if init.startswith(PUBLISHED):
        read_student(store, init.removeprefix(PUBLISHED))
    elif Path(init).is_dir():
        if not any((Path(init) / part / "config.json").is_file() for part in (".", "transformer")):
            raise UserError(f"student.init: {init} holds no config.json; {ALLOWED}; correct it")
    elif not HUB_ID.fullmatch(init):
        raise UserError(f"student.init: there is no {init!r}; {ALLOWED}; correct it")


def initial_student(model: Model, recipe: Recipe, store: Store) -> nn.Module:
    """The transformer that the run trains, before its first update.

    Raises:
        UserError: there is none, it cannot be loaded, or it has another shape than the base's.
    """
    validate_init(recipe, store)
    init = recipe.student.init
    if init == BASE:
        return model.copy_transformer()
    if not init.startswith(PUBLISHED):
        return model.load_transformer(init).requires_grad_(True).train()
    name = init.removeprefix(PUBLISHED)
    # Whoever comes first downloads it for all workers of the node.
    folder = cache_home() / "students" / read_student(store, name).folder / name
    return model.load_transformer(load_student(store, name, folder)).requires_grad_(True).train()

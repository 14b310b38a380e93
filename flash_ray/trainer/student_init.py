"""Where the student starts: the base's weights, another transformer of its shape, or a LoRA."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from flash_ray.errors import UserError
from flash_ray.models.base import Model
from flash_ray.models.loading import family_of, resolve_base
from flash_ray.models.lora_source import LORA, lora_digest, lora_file
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Lora
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student

BASE, PUBLISHED = "base", "students/"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
ALLOWED = {
    "full": "allowed: base, students/NAME of the run's store, a folder of a transformer or a "
    "pipeline in diffusers format, a hub id",
    "lora": "allowed: base, students/NAME of the run's store, a LoRA's .safetensors file or the "
    "folder of one",
}
OTHER = {"full": "lora", "lora": "full"}


def validate_init(recipe: Recipe, store: Store) -> None:
    """Checks without loading anything that there is something to start from.

    Raises:
        UserError: `student.init` names nothing that is there, or a LoRA for a student whose
            weights are all trained, or a transformer for one that is a LoRA.
    """
    init, weights = recipe.student.init, recipe.student.weights
    if init == BASE:
        return
    if init.startswith(PUBLISHED):
        kind = read_student(store, init.removeprefix(PUBLISHED)).kind
        _validate_kind(recipe, "lora" if kind == "lora" else "full")
    elif weights == "lora":
        _validate_lora_init(recipe)
    elif Path(init).is_dir():
        if (Path(init) / LORA).is_file():
            _validate_kind(recipe, "lora")
        if not any((Path(init) / part / "config.json").is_file() for part in (".", "transformer")):
            raise UserError(
                f"student.init: {init} holds no config.json; {ALLOWED[weights]}; correct it"
            )
    elif not HUB_ID.fullmatch(init):
        raise UserError(f"student.init: there is no {init!r}; {ALLOWED[weights]}; correct it")


def initial_student(model: Model, recipe: Recipe, store: Store) -> nn.Module | None:
    """The transformer that the run starts from, in the host's memory; None: the base's.

    Raises:
        UserError: there is none, it cannot be loaded, or it has another shape than the base's.
    """
    validate_init(recipe, store)
    init = recipe.student.init
    if init == BASE:
        return None
    source = _published(recipe, store) if init.startswith(PUBLISHED) else init
    return model.load_transformer(source, torch.device("cpu"))


def initial_lora(model: Model, recipe: Recipe, store: Store, name: str) -> list[str]:
    """Gives an adapter of the base the LoRA that the run starts from; from the base: nothing.

    Returns:
        what tells that LoRA from others.

    Raises:
        UserError: there is none, it cannot be loaded, or it has another shape than the adapter's.
    """
    validate_init(recipe, store)
    init = recipe.student.init
    if init == BASE:
        return []
    source = str(_published(recipe, store) / LORA) if init.startswith(PUBLISHED) else init
    try:
        model.add_lora(lora_file(source), "init")
        model.adapters.copy("init", name)
    except (UserError, ValueError) as error:
        raise UserError(f"student.init: {error}") from error
    model.adapters.remove("init")
    return [lora_digest(source)]


def validate_targets(recipe: Recipe) -> None:
    """Checks that the layers which the recipe's LoRAs name are there, without loading any.

    Raises:
        UserError: a target is no linear layer of the base's transformer, nor the end of one's name.
    """
    given: Mapping[str, Lora | None] = {
        "student.lora": recipe.student.lora,
        "training.fake_score.lora": recipe.training.fake_score.lora,
    }
    targets = [
        (field, name) for field, lora in given.items() if lora for name in lora.targets or ()
    ]
    if not targets:
        return
    shapes = family_of(recipe.base).transformer_shapes(resolve_base(recipe.base))
    layers = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
    for field, target in targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            ends = sorted({layer.rpartition(".")[2] for layer in layers} - {*"0123456789"})
            raise UserError(
                f"{field}.targets: {target!r} is no linear layer of {recipe.base}; allowed: names, "
                f"or ends of names, such as {', '.join(ends)}; correct it"
            )


def _validate_kind(recipe: Recipe, kind: str) -> None:
    """Raises UserError if what the student would start from is of the other kind."""
    weights, init = recipe.student.weights, recipe.student.init
    if kind != weights:
        what = "a LoRA" if kind == "lora" else "a whole transformer"
        raise UserError(
            f"student.init: {init} is {what}, with student.weights {weights}; {ALLOWED[weights]} "
            f"of that kind; choose another, or set student.weights={OTHER[weights]}"
        )


def _validate_lora_init(recipe: Recipe) -> None:
    init = recipe.student.init
    found = Path(init)
    if found.is_dir() and not (found / LORA).is_file() and any(found.rglob("config.json")):
        _validate_kind(recipe, "full")
    if not found.exists():
        raise UserError(f"student.init: there is no {init!r}; {ALLOWED['lora']}; correct it")
    try:
        file = lora_file(init)
        family_of(recipe.base).check_lora(file, resolve_base(recipe.base))
    except (UserError, ValueError) as error:
        reason = str(error).removeprefix("teachers: ")
        raise UserError(f"student.init: {init}: {reason}; {ALLOWED['lora']}") from error


def _published(recipe: Recipe, store: Store) -> Path:
    """The folder of the published student; whoever comes first downloads it for all workers of the
    node."""
    name = recipe.student.init.removeprefix(PUBLISHED)
    folder = cache_home() / "students" / read_student(store, name).folder / name
    return load_student(store, name, folder)

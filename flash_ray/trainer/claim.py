"""Whose a run's name is: taken while it works, and as long as it keeps a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager

from flash_ray.recipe import Recipe
from flash_ray.recipe.identity import validate_resume
from flash_ray.storage.manifest import (
    forget_run,
    open_run,
    record_run,
    run_exists,
    run_keeps,
    taken,
)
from flash_ray.storage.s3 import Store


@contextmanager
def claimed_run(recipe: Recipe, store: Store, name: str, resume: bool) -> Iterator[None]:
    """Holds the run's name for the block, and for good once there is a checkpoint to keep.

    Raises:
        UserError: the name is taken, there is no run to resume, or it cannot go on with the recipe.
    """
    fields = recipe.model_dump(mode="json")
    if resume:
        validate_resumable(recipe, store, name)
    goes_on = resume and run_keeps(store, name)
    if resume and not goes_on:
        forget_run(store, name)
    record_run(store, name, fields, recipe.digest, replace=goes_on)
    try:
        yield
    finally:
        if not run_keeps(store, name):  # it failed, on its data for example
            forget_run(store, name)


def validate_claim(recipe: Recipe, store: Store, name: str, resume: bool) -> None:
    """Finds out before anything is started what `claimed_run` would reject.

    Raises:
        UserError: the name is taken, there is no run to resume, or it cannot go on with the recipe.
    """
    if resume:
        validate_resumable(recipe, store, name)
    elif run_exists(store, name):
        raise taken(store, name)


def validate_resumable(recipe: Recipe, store: Store, name: str) -> None:
    """Raises UserError if there is no such run, or it cannot go on with the recipe."""
    run = open_run(store, name)
    if run_keeps(store, name):  # else there is nothing that another recipe would contradict
        validate_resume(name, run.recipe, recipe.model_dump(mode="json"))

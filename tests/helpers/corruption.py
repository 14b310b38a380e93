"""Shared by the tests of corrupt records: what is damaged, how often, and what has to be said."""

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st

from flash_ray.recipe import load_recipe
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.students import publish_student, set_alias
from tests.helpers.mutation import mutations
from tests.helpers.storage import MemoryStore

RECIPE = load_recipe("miniature")
NAMES = ("one", "three", "two")
QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
Draw = st.DataObject
ONE_OF_THREE = st.sampled_from(NAMES)
EXAMPLES = pytest.mark.parametrize(
    "examples", [60, pytest.param(2_000, marks=pytest.mark.slow)], ids=["some", "many"]
)


class Tried:
    """Counts the objects that were mutated, and those of them that were named as corrupt."""

    def __init__(self) -> None:
        self.mutated = self.named = 0

    def count(self, is_named: bool) -> None:
        self.mutated += 1
        self.named += is_named


@contextmanager
def counted() -> Iterator[Tried]:
    """Counts for the block, and prints what was counted."""
    tried = Tried()
    yield tried
    print(
        f"\n{tried.mutated} objects mutated: {tried.named} named as corrupt and left out, "
        f"{tried.mutated - tried.named} still sound; all others as they were"
    )


def store_of_students(folder: Path) -> MemoryStore:
    """One with the students of `NAMES`, and aliases of theirs."""
    store = MemoryStore("bucket")
    for name in NAMES:
        weights = folder / name
        (weights / "transformer").mkdir(parents=True)
        (weights / "transformer" / "config.json").write_text(json.dumps(name))
        publish_student(store, name, weights, RECIPE)
        set_alias(store, f"alias-{name}", name)
    return store


def damaged(store: MemoryStore, key: str, data: Draw, check: Callable[[], None]) -> None:
    """Replaces an object while it is checked that only that one is affected."""
    whole = store.objects[key]
    store.objects[key] = data.draw(mutations(whole))
    try:
        check()
    finally:
        store.objects[key] = whole


def is_one_line(fault: CorruptRecord) -> bool:
    """Whether it can be shown as it is, and stays so on its way from a worker."""
    again = pickle.loads(pickle.dumps(fault))
    return str(again) == str(fault) and str(fault).isprintable() and len(str(fault)) < 1000

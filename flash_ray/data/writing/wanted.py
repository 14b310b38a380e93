"""Which rows a spec wants: of each category how many, on what, in which language, how long."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flash_ray.data.select import divide
from flash_ray.data.writing.spec import Category, EditCategory, Language, WritingSpec
from flash_ray.recipe.schema import Task

# Of the prompts of pictures to edit, which any base is drawn from.
PICTURE_LANGUAGES = {"English": Language(length=(40, 400))}
MARGIN = 0.1  # of a range of lengths at either end, that no model is asked to come so near to


@dataclass(frozen=True)
class Wanted:
    """A row that is to be written.

    Args:
        has_text: whether the picture that is asked for contains text; None: either.
        length: (fewest, most) characters that are allowed.
        aim: characters that the writer is asked for.
        picture: the id of the picture to edit.
    """

    category: str
    language: str
    theme: str
    has_text: bool | None
    length: tuple[int, int]
    aim: int
    picture: str | None = None


def wanted_prompts(spec: WritingSpec, task: Task) -> list[Wanted]:
    """The rows of a task, by category; those of edits without their pictures."""
    rows = []
    for name, category in spec.categories(task).items():
        texts = round(category.rows * category.rendered_text)
        order = random.Random(f"{spec.seed} {task} {name}")
        has_text: list[bool | None] = [n < texts for n in range(category.rows)]
        order.shuffle(has_text)
        rows += _rows(name, category.themes, spec.languages(task, name), has_text, order)
    return rows


def wanted_pictures(spec: WritingSpec) -> list[Wanted]:
    """The prompts of the pictures to edit, by category."""
    rows = []
    for name, category in spec.categories("edit").items():
        assert spec.edit and isinstance(category, EditCategory)
        count = pictures_of(category, spec.edit.per_picture)
        order = random.Random(f"{spec.seed} pictures {name}")
        rows += _rows(name, category.pictures, PICTURE_LANGUAGES, [None] * count, order)
    return rows


def wanted_edits(spec: WritingSpec, pictures: Iterable[Mapping[str, Any]]) -> list[Wanted]:
    """The instructions for the pictures that there are.

    Args:
        pictures: rows with `id` and `category`, in the order in which they were written.
    """
    assert spec.edit
    of_category: dict[str, list[str]] = {}
    for picture in pictures:
        of_category.setdefault(picture["category"], []).append(picture["id"])
    rows, taken = [], Counter[str]()
    for row in wanted_prompts(spec, "edit"):
        number = taken[row.category] // spec.edit.per_picture
        taken[row.category] += 1
        if number < len(ids := of_category.get(row.category, [])):
            rows.append(replace(row, picture=ids[number]))
    return rows


def pictures_of(category: Category, per_picture: int) -> int:
    """How many pictures a category of edits has."""
    return -(-category.rows // per_picture)


def lacking(wanted: Sequence[Wanted], rows: Iterable[Mapping[str, Any]]) -> list[Wanted]:
    """The wanted rows that none of the rows is, each of which is one at most."""
    fields = ("category", "language", "theme", "rendered_text", "picture")
    there = Counter(tuple(row.get(field) for field in fields) for row in rows)
    left = []
    for row in wanted:
        place = row.category, row.language, row.theme, row.has_text, row.picture
        if there[place]:
            there[place] -= 1
        else:
            left.append(row)
    return left


def _rows(
    category: str,
    themes: Sequence[str],
    languages: Mapping[str, Language],
    has_text: Sequence[bool | None],
    order: random.Random,
) -> list[Wanted]:
    count = len(has_text)
    # Sorted: which of a spec's keys comes first decides nothing.
    shares = divide(count, {name: languages[name].share for name in sorted(languages)})
    spoken = [name for name, share in shares.items() for _ in range(share)]
    order.shuffle(spoken)
    rows = []
    for number, (name, text) in enumerate(zip(spoken, has_text, strict=True)):
        fewest, most = length = languages[name].length
        aim = fewest + (most - fewest) * (MARGIN + (1 - 2 * MARGIN) * order.random())
        theme = themes[number % len(themes)]
        rows.append(Wanted(category, name, theme, text, length, round(aim)))
    return rows

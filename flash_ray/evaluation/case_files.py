"""A benchmark from files, read by the reader of training data; every row of them counts."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from flash_ray.data.files import FoundFiles, find_files, validate_columns
from flash_ray.data.readers import read_rows
from flash_ray.data.rows import OtherTask
from flash_ray.data.samples import natural
from flash_ray.data.values import BadRow
from flash_ray.errors import UserError, one_line
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.case_rows import StatedCase, cases_of
from flash_ray.evaluation.pictures import PictureStore, picture_home
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import TASKS, Columns, Files, Task
from flash_ray.recipe.sections import BenchmarkFiles, RowColumns
from flash_ray.recipe.sizes import Size
from flash_ray.storage.s3 import Store

STARTER = resources.files("flash_ray.evaluation") / "starter.jsonl"
STARTER_EDITS = resources.files("flash_ray.evaluation") / "starter_edits.jsonl"
_CURE = "every row of a benchmark counts; mend or remove it"


@dataclass(frozen=True)
class FileBenchmark:
    """The cases of files, for a recipe of one resolution; categories and ids are in natural order.

    It holds what its cases need, and is pickled with it: pictures of files, and of pictures that a
    base draws, where they are.

    Args:
        stated: of both tasks, in the order of `cases`.
        resolution: (height, width) in pixels of what states no size.
        recipe: its base draws the pictures to edit of cases that state prompts for them; None: it
            is not known, and then there is no digest if there are such cases.
        store: where they are kept; None: they cannot be looked at.
    """

    name: str
    stated: tuple[StatedCase, ...]
    resolution: Size
    recipe: Recipe | None = None
    store: Store | None = None

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with any case, not with the order or format of rows.

        Where a base draws pictures to edit, all that decides them counts: prompt, seed and size of
        each, and of the base its files, precision, sigmas and guidance. So models are compared on
        edits of the same pictures only, and the digest is known before any is drawn. The pixels do
        not count: another GPU may round one differently, and all that share a store share those
        that were drawn first.

        Raises:
            UserError: the base that draws cannot be read.
        """
        content = sorted(json.dumps(case.content_at(self.resolution)) for case in self.stated)
        if self.is_drawn:
            content.append(self._home)
        return sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def is_drawn(self) -> bool:
        """Whether a base draws pictures to edit."""
        return any(case.drawn for case in self.stated)

    @cached_property
    def categories(self) -> Mapping[Task, tuple[str, ...]]:
        """The categories of each task that there are cases of."""
        found = {t: tuple(dict.fromkeys(self._categories(t))) for t in TASKS}
        return {task: names for task, names in found.items() if names}

    def cases(self, task: Task, per_category: int) -> list[Case]:
        """The first cases of each category of a task."""
        taken: dict[str, int] = {}
        cases = []
        for stated in self.stated:
            count = taken.get(stated.category, 0)
            if stated.task == task and count < per_category:
                taken[stated.category] = count + 1
                cases.append(stated.case_at(self.resolution, self._kept))
        return cases

    def kept_in(self, store: Store) -> "FileBenchmark":
        """The same cases, with the pictures to edit that a base has drawn in that store."""
        return replace(self, store=store)

    def of_task(self, task: Task) -> "FileBenchmark":
        """The cases of one task alone."""
        return replace(self, stated=tuple(case for case in self.stated if case.task == task))

    def to_jsonl(self) -> str:
        """The cases as one file that is read as an equal benchmark, its pictures in it."""
        return "".join(f"{json.dumps(_row(case))}\n" for case in self.stated)

    @cached_property
    def _kept(self) -> PictureStore | None:
        if self.store is None or not self.is_drawn:
            return None
        return PictureStore(self.store, self._home)

    @cached_property
    def _home(self) -> str:
        """Where the base's pictures are in a store, which says what decides them beside the case:
        as teacher it draws them, so they are found by whoever evaluates it."""
        assert self.recipe, "a base is known to whoever asks for its pictures"
        from flash_ray.evaluation.sample import teacher_sampler  # takes seconds

        return picture_home(self.recipe, teacher_sampler(self.recipe))

    def _categories(self, task: Task) -> Iterator[str]:
        return (case.category for case in self.stated if case.task == task)


def starter() -> BenchmarkFiles:
    """The shipped benchmark for any model, in English and Chinese: 40 prompts each of landscapes,
    portraits and text, and 20 edits each of six categories, whose pictures the base draws.

    Every edit has a picture of its own, 120 in all: intervals take cases for independent, and two
    edits of one picture are not.
    """
    return BenchmarkFiles(t2i=str(STARTER), edit=str(STARTER_EDITS))


def name_of(files: BenchmarkFiles) -> str:
    """What a benchmark from files is called: as its files are, without folders and endings."""
    addresses = [address for address in (files.t2i, files.edit) if address]
    names = [PurePosixPath(address.rstrip("/")).name.partition(".")[0] for address in addresses]
    joined = "-".join(dict.fromkeys(filter(None, names)))
    return re.sub(r"[^\w.-]+", "-", joined).strip("-.")[:100] or "files"


def read_cases(
    files: BenchmarkFiles, endpoint: str | None, prefix: str
) -> tuple[tuple[StatedCase, ...], tuple[str, ...]]:
    """(the cases of both tasks, lines about files that are not read).

    Args:
        endpoint: of an S3 service that is not AWS's; None means AWS_ENDPOINT_URL_S3.
        prefix: of the keys of what names the files, for messages, as "evaluation.benchmark.".

    Raises:
        UserError: there are no such files, or a row of them cannot be used.
    """
    found = _find(files, endpoint, prefix)
    for of_task in found:
        validate_columns(of_task, files.columns.stated, files.columns.read.get("picture_prompt"))
    listing = tuple(of_task.digest for of_task in found)
    cases = _read(files, endpoint, prefix, listing)
    return cases, tuple(line for of_task in found for line in of_task.left_aside)


@lru_cache(maxsize=2)  # a study asks for its benchmark once a trial
def _read(
    files: BenchmarkFiles, endpoint: str | None, prefix: str, listing: tuple[str, ...]
) -> tuple[StatedCase, ...]:
    """The cases in natural order; `listing` changes when a file does."""
    cases: dict[tuple[Task, str], tuple[str, StatedCase]] = {}
    problems = []
    for found in _find(files, endpoint, prefix):
        for place, case in _rows(found, files.columns.read):
            if isinstance(case, BadRow):
                detail = f" ({case.detail})" if case.detail else ""
                problems.append(f"{found.field}: {place}: {case}{detail}; {_CURE}")
            elif (key := (case.task, case.id)) in cases:
                problems.append(
                    f"{found.field}: {place}: id {case.id!r} is that of {cases[key][0]} too; "
                    "allowed: each id once; rename or remove one"
                )
            else:
                cases[key] = place, case
    if problems:
        raise UserError(one_line(problems))
    if not cases:
        raise UserError(f"{prefix}{_given(files)[0]}: no rows; allowed: one or more; add some")
    return tuple(sorted((case for _, case in cases.values()), key=_position))


def _find(files: BenchmarkFiles, endpoint: str | None, prefix: str) -> list[FoundFiles]:
    columns = Columns(**files.columns.model_dump(include=set(RowColumns.model_fields)))
    source = Files(t2i=files.t2i, edit=files.edit, category=files.category, columns=columns)
    return [find_files(source, task, endpoint, prefix) for task in _given(files)]


def _given(files: BenchmarkFiles) -> list[Task]:
    return [task for task in TASKS if getattr(files, task)]


def _rows(
    found: FoundFiles, columns: Mapping[str, str]
) -> Iterator[tuple[str, StatedCase | BadRow]]:
    """The place of each row, with each of its cases, or why there is none."""
    for path in found.paths:
        for place, raw in read_rows(found, path):
            try:
                if isinstance(raw, BadRow):
                    raise raw
                for case in cases_of(raw, found.form, columns, found.picture):
                    yield place, case
            except OtherTask:
                continue
            except BadRow as bad:
                yield place, bad


def _position(case: StatedCase) -> tuple[int, list[tuple[int, str]], list[tuple[int, str]]]:
    return TASKS.index(case.task), natural(case.category), natural(case.id)


def _row(case: StatedCase) -> dict[str, Any]:
    pictures = [f"data:;base64,{base64.b64encode(data).decode()}" for data in case.pictures]
    return {
        "id": case.id,
        "category": case.category,
        "prompt": case.prompt,
        "text": case.text,
        "seed": case.seed,
        "size": case.size,
        "image": pictures,
        "picture_prompt": [picture.prompt for picture in case.drawn],
        "picture_seed": case.drawn[0].seed if case.drawn else None,
        "picture_size": case.drawn[0].size if case.drawn else None,
    }

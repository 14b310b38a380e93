"""A benchmark from files, read by the reader of training data; every row of them counts."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from flash_ray.recipe.schema import TASKS, Columns, Files, Task
from flash_ray.recipe.sections import BenchmarkFiles, RowColumns
from flash_ray.recipe.sizes import Size

STARTER = resources.files("flash_ray.evaluation") / "starter.jsonl"
_CURE = "every row of a benchmark counts; mend or remove it"


@dataclass(frozen=True)
class FileBenchmark:
    """The cases of files, for a recipe of one resolution; categories and ids are in natural order.

    It holds what its cases need, pictures included, and is pickled with them.

    Args:
        stated: of both tasks, in the order of `cases`.
        resolution: (height, width) in pixels of what states no size.
    """

    name: str
    stated: tuple[StatedCase, ...]
    resolution: Size

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with any case, not with the order or format of rows."""
        content = sorted(json.dumps(case.content_at(self.resolution)) for case in self.stated)
        return sha256(json.dumps(content).encode()).hexdigest()[:16]

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
                cases.append(stated.case_at(self.resolution))
        return cases

    def to_jsonl(self) -> str:
        """The cases as one file that is read as an equal benchmark, its pictures in it."""
        return "".join(f"{json.dumps(_row(case))}\n" for case in self.stated)

    def _categories(self, task: Task) -> Iterator[str]:
        return (case.category for case in self.stated if case.task == task)


def starter() -> BenchmarkFiles:
    """The shipped benchmark for any model: 40 prompts each of landscapes, portraits, text."""
    return BenchmarkFiles(t2i=str(STARTER))


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
        validate_columns(of_task, files.columns.stated)
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
    }

"""What a benchmark is: named cases that models answer, the same ones for all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from flash_ray import plugins
from flash_ray.errors import UserError, unknown
from flash_ray.recipe import Recipe
from flash_ray.recipe.messages import problem
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.recipe.validation import NO_FILES

if TYPE_CHECKING:
    from PIL import Image

OPTION, ARGUMENT = "--benchmark", "BENCHMARK"  # of commands; recipes and studies have keys
MOST = 16  # cases of a category that are listed of a benchmark that draws them without end
TASK_TITLES: Mapping[Task, str] = {"t2i": "text to image", "edit": "editing"}  # for people


@dataclass(frozen=True)
class Case:
    """One prompt or edit that models answer, with all that decides the answer.

    Args:
        id: unique within the benchmark and task; a name for files and URLs.
        size: (height, width) of the answer in pixels, as `recipe/sizes.py` allows; an edit's has
            the aspect ratio of its first reference (`follow_aspect`).
        seed: fixes the initial noise, so that every model answers from the same one.
        references: the pictures to edit, opened or drawn when they are indexed; none for
            text to image.
        text: what is to be rendered; None if the case asks for no text.
        target: what only a judge that knows the benchmark understands.
    """

    id: str
    task: Task
    category: str
    prompt: str
    size: tuple[int, int]
    seed: int
    references: "Sequence[Image.Image]" = ()
    text: str | None = None
    target: Any = None


class Benchmark(Protocol):
    """Cases by task and category. A plug-in registers a function that returns one, or the
    `BenchmarkFiles` that its package ships. It is pickled where a server sends it to replicas.
    """

    @property
    def name(self) -> str:
        """What results call it, and, of a registered one, recipes and commands."""
        ...

    @property
    def digest(self) -> str:
        """16 hex digits that change with any case."""
        ...

    @property
    def categories(self) -> Mapping[Task, tuple[str, ...]]:
        """The categories of each task that it has cases of, in the order of tables."""
        ...

    def cases(self, task: Task, per_category: int) -> list[Case]:
        """The first cases of each category of a task, in the order of its categories; always the
        same ones, fewer where there are fewer."""
        ...


def named_benchmark(word: str, field: str = OPTION) -> str | BenchmarkFiles:
    """What a word of the command line names: a registered benchmark, the YAML file of one from
    files, or a file of cases itself.

    Args:
        field: what the word was given as, for the message.

    Raises:
        UserError: it is none of these, or the YAML file is not as it should be.
    """
    known = plugins.names(plugins.BENCHMARKS)
    if word in known:
        return word
    if not any(sign in word for sign in "/."):
        raise UserError(f"{unknown(field, word, known, 'benchmark')}, or give a file of cases")
    if not word.lower().endswith((".yaml", ".yml")):
        return BenchmarkFiles(t2i=word, edit=word)
    try:
        raw = parse_yaml(read_text(word), f"{field}: {word}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{field}: {word}: {reason}; check the name") from None
    if not isinstance(raw, dict):
        raise UserError(f"{field}: {word}: not a mapping; allowed: the keys t2i, edit, columns")
    try:
        files = BenchmarkFiles.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(f"{field}: {word}: {problem(error, BenchmarkFiles)}") from None
    if files.t2i is None and files.edit is None:
        raise UserError(f"{field}: {word}: {NO_FILES}")
    return files


def load_benchmark(choice: str | BenchmarkFiles, recipe: Recipe, field: str = OPTION) -> Benchmark:
    """Makes the benchmark that an installed package registers under a name, or that files hold.

    Args:
        recipe: whose resolution cases have that state no size, whose base draws their pictures to
            edit where they say so, and whose endpoint S3 has.
        field: what named it, for the message.

    Raises:
        UserError: there is none, or a row of its files cannot be used.
    """
    made = registered(choice, field) if isinstance(choice, str) else choice
    if not isinstance(made, BenchmarkFiles):
        return made
    from flash_ray.evaluation.case_files import FileBenchmark, name_of, read_cases

    name = choice if isinstance(choice, str) else name_of(choice)
    cases, _ = read_cases(made, recipe.runtime.storage.endpoint, key_prefix(field))
    return FileBenchmark(name, cases, recipe.data.resolution, recipe)


def registered(name: str, field: str) -> "Benchmark | BenchmarkFiles":
    """What an installed package registers under a name.

    Raises:
        UserError: there is none.
    """
    made: Benchmark | BenchmarkFiles = plugins.load(plugins.BENCHMARKS, name, field)()
    return made


def key_prefix(field: str) -> str:
    """What stands before a key of what a field names, in messages."""
    return f"{field}: " if field in (OPTION, ARGUMENT) else f"{field}."


def listed_cases(benchmark: Benchmark, task: Task, drawn: int = MOST) -> list[Case]:
    """All cases of a task of a benchmark from files; of one that draws its cases and may have no
    end, the first `drawn` of each category."""
    from flash_ray.evaluation.case_files import FileBenchmark

    most = len(benchmark.stated) if isinstance(benchmark, FileBenchmark) else drawn
    return benchmark.cases(task, most)


def task_digest(benchmark: Benchmark, task: Task) -> str:
    """The digest of a task's cases: of a benchmark from files theirs alone, so that who answers
    the same prompts is comparable, whatever else the benchmark has.

    Raises:
        UserError: a base draws pictures to edit, and cannot be read.
    """
    from flash_ray.evaluation.case_files import FileBenchmark

    if isinstance(benchmark, FileBenchmark):
        return benchmark.of_task(task).digest
    return benchmark.digest


def first_cases(benchmark: Benchmark, per_category: Mapping[Task, int]) -> dict[Task, list[Case]]:
    """The first cases of each category, as many as `per_category` says by task.

    Tasks that the benchmark does not have, or of which no case is wanted, are left out.
    """
    return {
        task: benchmark.cases(task, count)
        for task, count in per_category.items()
        if count and task in benchmark.categories
    }


def first_of_each(cases: Sequence[Case], count: int) -> list[int]:
    """Indices of the first `count` cases of each category: nobody picks the pictures."""
    seen: dict[str, int] = {}
    chosen = []
    for index, case in enumerate(cases):
        seen[case.category] = seen.get(case.category, 0) + 1
        if seen[case.category] <= count:
            chosen.append(index)
    return chosen

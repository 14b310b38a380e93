"""What is in a benchmark: how many cases of each category, of which sizes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import (
    ARGUMENT,
    MOST,
    Benchmark,
    key_prefix,
    listed_cases,
    named_benchmark,
    registered,
)
from flash_ray.evaluation.case_files import FileBenchmark, name_of, read_cases
from flash_ray.evaluation.case_rows import PicturePrompt
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.recipe.sizes import Size

Listed = tuple[Task, str, Size | None]  # task, category, size of one case


@dataclass(frozen=True)
class BenchmarkDescription:
    """What is in a benchmark.

    Args:
        digest: None where it depends on a recipe, and none was given or its base cannot be read.
        counts: cases by task and category, as many as `listed_cases` lists.
        sizes: cases by task and (height, width) of the answers; None: as a recipe says.
        notes: lines about cases that are not listed and files that are not read.
    """

    name: str
    digest: str | None
    counts: Mapping[Task, Mapping[str, int]]
    sizes: Mapping[Task, Mapping[Size | None, int]]
    notes: tuple[str, ...] = ()


def describe_benchmark(choice: str | BenchmarkFiles, recipe: Recipe | None) -> BenchmarkDescription:
    """Describes what a name or files stand for.

    Args:
        recipe: whose resolution cases have that state no size; None: those have none.

    Raises:
        UserError: there is no such benchmark, or a row of its files cannot be used.
    """
    made = registered(choice, ARGUMENT) if isinstance(choice, str) else choice
    if not isinstance(made, BenchmarkFiles):
        note = f"of each category the first {MOST} cases are listed: they are drawn when asked for"
        return _described(made.name, made.digest, list(_listed(made)), (note,))
    endpoint = recipe.runtime.storage.endpoint if recipe else None
    cases, left_aside = read_cases(made, endpoint, key_prefix(ARGUMENT))
    name = choice if isinstance(choice, str) else name_of(choice)
    drawn = [case.drawn for case in cases if case.drawn]
    notes = [*left_aside, *([_drawn_note(drawn)] if drawn else [])]
    if recipe is None and (drawn or not all(case.size for case in cases)):
        unsized: list[Listed] = [(case.task, case.category, case.size) for case in cases]
        return _described(name, None, unsized, notes)
    benchmark = FileBenchmark(name, cases, recipe.data.resolution if recipe else (0, 0), recipe)
    digest = None
    try:
        digest = benchmark.digest
    except UserError as error:  # all else is known without the base that draws
        notes.append(f"no digest: {error}")
    return _described(name, digest, list(_listed(benchmark)), notes)


def listed_prompts(word: str, recipe: Recipe | None, field: str) -> Iterator[tuple[Task, str]]:
    """The task and the prompt of each case that is listed of a benchmark.

    Args:
        word: a registered one's name, a file of cases, or the YAML file of a benchmark.
        recipe: whose endpoint S3 has; None: AWS_ENDPOINT_URL_S3.
        field: what named it, for messages.

    Raises:
        UserError: there is no such benchmark, or a row of its files cannot be used.
    """
    choice = named_benchmark(word, field)
    made = registered(choice, field) if isinstance(choice, str) else choice
    if isinstance(made, BenchmarkFiles):
        endpoint = recipe.runtime.storage.endpoint if recipe else None
        yield from (
            (case.task, case.prompt) for case in read_cases(made, endpoint, f"{field}: ")[0]
        )
        return
    for task in made.categories:
        yield from ((task, case.prompt) for case in listed_cases(made, task))


def _listed(benchmark: Benchmark) -> Iterator[Listed]:
    for task in benchmark.categories:
        for case in listed_cases(benchmark, task):
            yield task, case.category, case.size


def _drawn_note(drawn: Sequence[Sequence[PicturePrompt]]) -> str:
    pictures = len({picture for of_case in drawn for picture in of_case})
    return (
        f"the {pictures:,} pictures that {len(drawn):,} edits begin with are drawn by a recipe's "
        "base, once, from prompts of the cases; `flash-ray benchmark draw` draws them ahead"
    )


def _described(
    name: str, digest: str | None, listed: list[Listed], notes: Sequence[str] = ()
) -> BenchmarkDescription:
    counts: dict[Task, Counter[str]] = {}
    sizes: dict[Task, Counter[Size | None]] = {}
    for task, category, size in listed:
        counts.setdefault(task, Counter())[category] += 1
        sizes.setdefault(task, Counter())[size] += 1
    return BenchmarkDescription(name, digest, counts, sizes, tuple(notes))

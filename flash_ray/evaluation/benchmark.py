"""What a benchmark is: named cases that models answer, the same ones for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flash_ray import plugins
from flash_ray.recipe.schema import Task

if TYPE_CHECKING:
    from PIL import Image

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
    """Cases by task and category. A plug-in registers a function that returns one.

    Attributes:
        name: what recipes and commands call it.
    """

    name: str

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


def load_benchmark(name: str, field: str = "--benchmark") -> Benchmark:
    """Makes the benchmark that an installed package registers under a name.

    Args:
        field: what named it, for the message.

    Raises:
        UserError: there is none.
    """
    benchmark: Benchmark = plugins.load(plugins.BENCHMARKS, name, field)()
    return benchmark


def first_of_each(cases: Sequence[Case], count: int) -> list[int]:
    """Indices of the first `count` cases of each category: nobody picks the pictures."""
    seen: dict[str, int] = {}
    chosen = []
    for index, case in enumerate(cases):
        seen[case.category] = seen.get(case.category, 0) + 1
        if seen[case.category] <= count:
            chosen.append(index)
    return chosen

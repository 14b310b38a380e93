"""From the words of --judge to judges; what is wrong is found before models are loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, load_benchmark
from flash_ray.evaluation.judges.base import Judge, require
from flash_ray.evaluation.judges.endpoint import VlmSettings, read_settings
from flash_ray.recipe import Recipe
from flash_ray.storage.open import open_store

JudgeChoice = Judge | VlmSettings


@dataclass(frozen=True)
class Scoring:
    """What a recipe's students are scored on, and by whom."""

    benchmark: Benchmark
    judge: Judge


def load_scoring(recipe: Recipe) -> Scoring | None:
    """Makes the benchmark and the judge that `recipe.evaluation` names; None without a benchmark.

    Raises:
        UserError: there is no such benchmark or judge, or the judge has nothing to say of the
            benchmark's cases.
    """
    evaluation = recipe.evaluation
    if evaluation.benchmark is None:
        return None
    benchmark = load_benchmark(evaluation.benchmark, "evaluation.benchmark")
    judge = load_judge(evaluation.judge, "evaluation.judge")
    cases = [case for task in benchmark.categories for case in benchmark.cases(task, 1)]
    validate_judge(judge, cases, benchmark.name, "evaluation.judge")
    return Scoring(benchmark, judge)


def load_judge(name: str, field: str = "--judge") -> Judge:
    """Makes a registered judge; what it computes with is loaded when it is first used.

    Args:
        field: what named it, for the message.

    Raises:
        UserError: there is none of that name, or something that it needs is not installed.
    """
    judge: Judge = plugins.load(plugins.JUDGES, name, field)()
    return judge


def read_judges(words: Sequence[str]) -> list[JudgeChoice]:
    """Reads what the names of registered judges and `vlm:FILE.yaml` stand for.

    Raises:
        UserError: there is no such judge, one is named twice, its extra is not installed, its file
            is wrong, or its key is not in the environment.
    """
    choices = [_read(word) for word in words]
    names = [name_of(choice) for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--judge: {name} is given twice; allowed: once; remove one")
    return choices


@contextmanager
def open_judges(choices: Sequence[JudgeChoice], place: str | None) -> Iterator[list[Judge]]:
    """Makes judges ready to be asked, in order.

    VLMs keep their answers in the store at `place`, which `open_store` opens for the block if there
    is one of them.
    """
    if not any(isinstance(choice, VlmSettings) for choice in choices):
        yield [choice for choice in choices if not isinstance(choice, VlmSettings)]
        return
    from flash_ray.evaluation.judges.vlm import VlmJudge

    with open_store(place, create=True) as store:
        yield [
            VlmJudge(choice, store) if isinstance(choice, VlmSettings) else choice
            for choice in choices
        ]


def name_of(choice: JudgeChoice) -> str:
    """What results call the judge."""
    return f"vlm:{choice.model}" if isinstance(choice, VlmSettings) else choice.name


def validate_judge(choice: JudgeChoice, cases: Sequence[Case], benchmark: str, field: str) -> None:
    """Raises UserError if a judge has nothing to say of any of the cases; a VLM always has.

    Args:
        field: what named the judge, for the message.
    """
    if isinstance(choice, VlmSettings) or any(choice.can_judge(case) for case in cases):
        return
    raise UserError(
        f"{field}: {choice.name} can judge none of the {len(cases)} cases of benchmark "
        f"{benchmark!r}; allowed: a judge of such cases; choose another judge or benchmark"
    )


def unknown_judge(word: str) -> str:
    """The problem with a word that names no judge."""
    known = ", ".join([*plugins.names(plugins.JUDGES), "vlm:FILE.yaml"])
    return f"--judge: {word!r} is no judge; allowed: {known}; choose one"


def _read(word: str) -> JudgeChoice:
    if word in plugins.names(plugins.JUDGES):
        return load_judge(word)
    kind, _, file = word.partition(":")
    if kind != "vlm" or not file:
        raise UserError(unknown_judge(word))
    require("openai", "vlm")
    settings = read_settings(file)
    settings.key()
    return settings

"""What a judge is, how it is made from its name, and the means of its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, listed_cases, load_benchmark
from flash_ray.evaluation.judges.endpoint import VlmSettings, read_settings
from flash_ray.evaluation.statistics import interval
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Section
from flash_ray.storage.s3 import Store


class CaseScore(Section):
    """What a judge says of one picture.

    Args:
        score: 1 to 5, or None where it has none.
        measures: parts of the score, each 0 to 1, by name, such as compliance and quality.
        failure: why a score that the judge should have had is missing, in a word.
        details: what the score comes from, as plain data. Reports show of it `attributes` (credit
            from 0 to 1 by name) where they do not hold, and `cap` and `reason`.
    """

    score: float | None = Field(ge=1, le=5)
    measures: dict[str, float] = {}
    failure: str | None = None
    details: dict[str, Any] = {}


class CategoryScore(Section):
    """Means over the cases of a category.

    Args:
        cases, counted: all of them, and those that have a score.
        score, measures: means over those that have one; None and {} if none has.
        details: what else the judge says of the category, as plain data, such as diversity.
    """

    cases: int
    counted: int
    score: float | None
    measures: dict[str, float] = {}
    details: dict[str, Any] = {}


class JudgeResult(Section):
    """What one judge says of one model's answers to one task of a benchmark.

    Args:
        score: the mean over the cases with a score, None if there is none.
        interval: 95 % bootstrap interval of that mean over the cases.
        measures: means of the parts of the score, over the cases that have them.
        cases: by case id.
    """

    judge: str
    score: float | None
    interval: tuple[float, float] | None
    measures: dict[str, float] = {}
    categories: dict[str, CategoryScore] = {}
    cases: dict[str, CaseScore]

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the cases."""
        return [case.score for case in self.cases.values() if case.score is not None]

    @property
    def scored(self) -> set[str]:
        """The ids of the cases that have a score."""
        return {name for name, case in self.cases.items() if case.score is not None}

    @property
    def failures(self) -> list[str]:
        """Why scores are missing, in the order of the cases."""
        return [case.failure for case in self.cases.values() if case.failure is not None]


class Judge(Protocol):
    """Says how good pictures are.

    Attributes:
        name: what commands and results call it.
        in_tasks: whether it computes on CPUs alone, so that Ray tasks may share the pictures; it is
            then pickled.
    """

    name: str
    in_tasks: bool

    def can_judge(self, case: Case) -> bool:
        """Whether the judge has something to say of answers to this case."""
        ...

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3), the answers to `cases` in order; of a case
        that it cannot judge a score of None.

        Raises:
            UserError: the judge cannot be used.
        """
        ...

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """What it says of a category as a whole, beyond means, given all its cases and their
        scores; {} for nothing. Tables show the numbers among it; reports show `diversity`, by
        factor a `distance` and the `floor` that true samples have."""
        ...


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
    benchmark = load_benchmark(evaluation.benchmark, recipe, "evaluation.benchmark")
    judge = load_judge(evaluation.judge_name, "evaluation.judge")
    cases = [case for task in benchmark.categories for case in listed_cases(benchmark, task, 1)]
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
    choices = [_read_judge(word) for word in words]
    names = [name_of(choice) for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--judge: {name} is given twice; allowed: once; remove one")
    return choices


def open_judges(choices: Sequence[JudgeChoice], store: Store) -> list[Judge]:
    """Makes judges ready to be asked, in order; VLMs keep their answers in the store."""
    if not any(isinstance(choice, VlmSettings) for choice in choices):
        return [choice for choice in choices if not isinstance(choice, VlmSettings)]
    from flash_ray.evaluation.judges.vlm import VlmJudge

    return [
        VlmJudge(choice, store) if isinstance(choice, VlmSettings) else choice for choice in choices
    ]


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


def name_of(choice: JudgeChoice) -> str:
    """What results call the judge."""
    return f"vlm:{choice.model}" if isinstance(choice, VlmSettings) else choice.name


def unknown_judge(word: str) -> str:
    """The problem with a word that names no judge."""
    known = ", ".join([*plugins.names(plugins.JUDGES), "vlm:FILE.yaml"])
    return f"--judge: {word!r} is no judge; allowed: {known}; choose one"


def require(module: str, extra: str) -> None:
    """Raises UserError if a judge's optional module is not installed, with what to install."""
    plugins.require(module, extra, "--judge")


def summarize(judge: Judge, cases: Sequence[Case], scores: Sequence[CaseScore]) -> JudgeResult:
    """Means, intervals and categories of the scores of all cases.

    Raises:
        ValueError: there are more or fewer scores than cases.
    """
    categories: dict[str, list[tuple[Case, CaseScore]]] = {}
    for case, score in zip(cases, scores, strict=True):
        categories.setdefault(case.category, []).append((case, score))
    known = [score.score for score in scores if score.score is not None]
    return JudgeResult(
        judge=judge.name,
        score=_mean(known),
        interval=interval(known) if known else None,
        measures=_measures(scores),
        categories={
            name: _category(judge, *zip(*pairs, strict=True)) for name, pairs in categories.items()
        },
        cases={case.id: score for case, score in zip(cases, scores, strict=True)},
    )


def _read_judge(word: str) -> JudgeChoice:
    if word in plugins.names(plugins.JUDGES):
        return load_judge(word)
    kind, _, file = word.partition(":")
    if kind != "vlm" or not file:
        raise UserError(unknown_judge(word))
    require("openai", "vlm")
    settings = read_settings(file)
    settings.key()
    return settings


def _category(judge: Judge, cases: Sequence[Case], scores: Sequence[CaseScore]) -> CategoryScore:
    known = [score.score for score in scores if score.score is not None]
    return CategoryScore(
        cases=len(cases),
        counted=len(known),
        score=_mean(known),
        measures=_measures(scores),
        details=dict(judge.describe(cases, scores)),
    )


def _measures(scores: Sequence[CaseScore]) -> dict[str, float]:
    names = dict.fromkeys(name for score in scores for name in score.measures)
    return {
        name: float(np.mean([s.measures[name] for s in scores if name in s.measures]))
        for name in names
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

"""From the names of judges to judges: registered ones, those that take an argument, and VLMs."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flash_ray import plugins
from flash_ray.errors import UserError, unknown
from flash_ray.evaluation.benchmark import Benchmark, Case, listed_cases, load_benchmark
from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.judges.endpoint import PairSettings, VlmSettings, read_settings
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store

# What follows the name of a VLM as a judge is a file of its settings.
VLMS: Mapping[str, type[VlmSettings]] = {"vlm": VlmSettings, "vlm-pair": PairSettings}
JudgeChoice = Judge | VlmSettings


@dataclass(frozen=True)
class Scoring:
    """The cases that a recipe's students draw, and who scores them; None: nobody."""

    benchmark: Benchmark
    judge: Judge | None


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
    if evaluation.judge is None:
        return Scoring(benchmark, None)
    judge = load_judge(evaluation.judge, "evaluation.judge")
    validate_for_base(judge, recipe.base)
    cases = [case for task in benchmark.categories for case in listed_cases(benchmark, task, 1)]
    validate_judge(judge, cases, benchmark.name, "evaluation.judge")
    return Scoring(benchmark, judge)


def load_judge(word: str, field: str = "--judge") -> Judge:
    """Makes a registered judge; what it computes with is loaded when it is first used.

    Args:
        word: its name, or, of a judge that is made with an argument, NAME:ARGUMENT.
        field: what named it, for the message.

    Raises:
        UserError: there is none of that name, the argument is missing, cannot be used or is one
            too many, or something that the judge needs is not installed.
    """
    name, _, argument = word.partition(":")
    validate_word(word, field)
    make = plugins.load(plugins.JUDGES, name, field)
    judge: Judge = make(argument) if argument else make()
    return judge


def validate_word(word: str, field: str = "--judge") -> None:
    """Raises UserError unless a word names a registered judge, with an argument if that takes one;
    whether the argument can be used is not looked at.

    Args:
        field: what gave the word, for the message.
    """
    name, colon, argument = word.partition(":")
    if name in VLMS:
        raise UserError(
            f"{field}: {word!r} asks an endpoint; allowed: {', '.join(usages()[: -len(VLMS)])}; "
            f"choose one, and give {usage(name)} to `flash-ray evaluate`"
        )
    if name not in (known := plugins.names(plugins.JUDGES)):
        raise UserError(unknown(field, name, known, "judge"))
    if bool(argument) != bool(_parameter(name)) or (colon and not argument):
        raise UserError(f"{field}: {word!r} is no judge; allowed: {usage(name)}; write that")


def read_judges(words: Sequence[str]) -> list[JudgeChoice]:
    """Reads what the names of judges stand for: those of `load_judge`, and VLMs by their files.

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


def references(choices: Sequence[JudgeChoice]) -> list[str]:
    """The models that answers are to be compared with, each once."""
    pairs = [choice.reference for choice in choices if isinstance(choice, PairSettings)]
    return list(dict.fromkeys(pairs))


def open_judge(
    choice: JudgeChoice, store: Store, drawn: Mapping[str, Mapping[str, np.ndarray]]
) -> Judge:
    """Makes a judge ready to be asked; VLMs keep their answers in the store.

    Args:
        drawn: the pictures of `references`, uint8 (H, W, 3), by model and case id.
    """
    if not isinstance(choice, VlmSettings):
        return choice
    from flash_ray.evaluation.judges.vlm import VlmJudge
    from flash_ray.evaluation.judges.vlm_pair import VlmPairJudge

    if isinstance(choice, PairSettings):
        return VlmPairJudge(choice, store, drawn[choice.reference])
    return VlmJudge(choice, store)


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


def validate_for_base(judge: Judge, base: str) -> None:
    """Raises UserError if a recipe's judge has a `validate_base`, and it rejects the base."""
    validate = getattr(judge, "validate_base", None)
    if validate is not None:
        validate(base, "evaluation.judge")


def name_of(choice: JudgeChoice) -> str:
    """What results call the judge."""
    return choice.judge_name if isinstance(choice, VlmSettings) else choice.name


def usages() -> list[str]:
    """How each judge is named: those that are registered, then VLMs."""
    return [usage(name) for name in [*plugins.names(plugins.JUDGES), *VLMS]]


def usage(name: str) -> str:
    """How that judge is named, e.g. "ocr" or "clip:MODEL"."""
    argument = "FILE.yaml" if name in VLMS else _parameter(name)
    return f"{name}:{argument}" if argument else name


def require(module: str, extra: str) -> None:
    """Raises UserError if a judge's optional module is not installed, with what to install."""
    plugins.require(module, extra, "--judge")


def _read_judge(word: str) -> JudgeChoice:
    name, _, argument = word.partition(":")
    if name in plugins.names(plugins.JUDGES):
        return load_judge(word)
    if name not in VLMS or not argument:
        raise UserError(
            f"--judge: {word!r} is no judge; allowed: {', '.join(usages())}; choose one"
        )
    require("openai", "vlm")
    settings = read_settings(argument, VLMS[name], f"--judge {name}")
    settings.key()
    return settings


def _parameter(name: str) -> str | None:
    """What a registered judge is made with, in capitals; None if it takes nothing."""
    made = plugins.load(plugins.JUDGES, name, "--judge")
    return next((parameter.upper() for parameter in inspect.signature(made).parameters), None)

"""Lets models answer the same cases of a benchmark and says how they compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from flash_ray.evaluation.benchmark import Benchmark, Case
from flash_ray.evaluation.judges.base import Judge, JudgeResult
from flash_ray.evaluation.sample import encode_cases, sample_cases
from flash_ray.evaluation.scores import difference, score_answers
from flash_ray.models.base import Model
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe.schema import Task

Progress = Callable[[str, int, int], None]  # what is done, evaluations so far, of how many


@dataclass(frozen=True)
class Sampled:
    """A transformer and the samplers to try with it; the one that scores best counts."""

    transformer: nn.Module
    samplers: Sequence[SamplerConfig]


@dataclass(frozen=True)
class Answers:
    """One model's pictures for the cases, each uint8 (H, W, 3), and what the judge says of them."""

    sampler: SamplerConfig
    images: Sequence[np.ndarray]
    result: JudgeResult

    def to_json(self) -> dict[str, Any]:
        """The sampler in words, `nfe`, and the fields of `JudgeResult`."""
        return {
            "sampler": self.sampler.title,
            "nfe": self.sampler.nfe,
            **self.result.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Comparison:
    """Cases of one task and the answers to them by model name, e.g. teacher, untrained, student."""

    task: Task
    cases: Sequence[Case]
    answers: dict[str, Answers]


def compare(
    model: Model,
    models: Mapping[str, Sampled],
    cases: Sequence[Case],
    judge: Judge,
    progress: Progress | None = None,
) -> Comparison:
    """Has every model answer the cases of one task, and the judge score the pictures.

    Args:
        model: encodes the cases and decodes the pictures.
        models: by name; one with several samplers is known by the best-scored one.
    """
    task = cases[0].task
    batches = encode_cases(model, cases)
    total = len(cases) * sum(s.nfe for sampled in models.values() for s in sampled.samplers)
    done = 0

    def attempt(name: str, transformer: nn.Module, sampler: SamplerConfig) -> Answers:
        def evaluated(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(f"{task}: {name}, {sampler.title}", done, total)

        images = sample_cases(model, batches, transformer, sampler, evaluated)
        return Answers(sampler, images, score_answers(judge, cases, images))

    answers = {}
    for name, sampled in models.items():
        attempts = [attempt(name, sampled.transformer, sampler) for sampler in sampled.samplers]
        answers[name] = max(attempts, key=lambda attempt: attempt.result.score or 0.0)
    return Comparison(task, cases, answers)


def compare_tasks(
    model: Model,
    models: Mapping[str, Sampled],
    benchmark: Benchmark,
    judge: Judge,
    per_category: int,
    progress: Progress | None = None,
) -> dict[Task, Comparison]:
    """Compares the models on the first `per_category` cases of each category, by task."""
    return {
        task: compare(model, models, benchmark.cases(task, per_category), judge, progress)
        for task in benchmark.categories
    }


def differences(comparison: Comparison, ours: str, theirs: str) -> dict[str, Any] | None:
    """The `ratio` of two models' mean scores, and their mean `difference` case by case with its
    95 % `interval`; None if no case has a score of both."""
    left, right = comparison.answers[ours].result, comparison.answers[theirs].result
    if left.score is None or right.score is None or not left.scored & right.scored:
        return None
    mean, interval = difference(left, right)
    return {"ratio": left.score / right.score, "difference": mean, "interval": interval}

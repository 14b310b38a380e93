"""Lets models answer the same bench and says how they compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flash_ray.evaluation.sample import Way, answer, encode_cases
from flash_ray.evaluation.scores import BenchScore, difference, judge_bench
from flash_ray.miniature.benchmark import Case
from flash_ray.models.base import Model

Progress = Callable[[str, int, int], None]  # what is done, evaluations so far, of how many


@dataclass(frozen=True)
class Answers:
    """One model's pictures for a bench, uint8 (cases, H, W, 3), and their score."""

    way: Way
    pictures_BHW3: np.ndarray
    score: BenchScore


@dataclass(frozen=True)
class Comparison:
    """One bench and the answers to it by model name, e.g. teacher, teacher_at_4, student."""

    cases: Sequence[Case]
    answers: dict[str, Answers]


def compare(
    backbone: Model,
    models: Mapping[str, Sequence[Way]],
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> Comparison:
    """Has every contender answer `cases`; one with several ways is known by its best-scored one."""
    batches = encode_cases(backbone, cases)
    total = len(cases) * sum(way.nfe for ways in models.values() for way in ways)
    done = 0

    def attempt(name: str, way: Way) -> Answers:
        def evaluated(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(f"{cases[0].bench}: {name}, {way.title}", done, total)

        pictures = answer(backbone, batches, way, evaluated)
        return Answers(way, pictures, judge_bench(cases, pictures))

    answers = {}
    for name, ways in models.items():
        attempts = [attempt(name, way) for way in ways]
        answers[name] = max(attempts, key=lambda attempt: attempt.score.score)
    return Comparison(cases, answers)


def model_result(comparisons: Mapping[str, Comparison], name: str) -> dict[str, Any]:
    """One model's part of result.json: its evaluations, and per bench the scores."""
    answers = {bench: comparison.answers[name] for bench, comparison in comparisons.items()}
    scores = {bench: answer.score.to_json() for bench, answer in answers.items()}
    return {
        "nfe": max(answer.way.nfe for answer in answers.values()),
        "ways": {bench: answer.way.title for bench, answer in answers.items()},
        **{bench: score["score"] for bench, score in scores.items()},
        "intervals": {bench: score["interval"] for bench, score in scores.items()},
        "compliance": {bench: score["compliance"] for bench, score in scores.items()},
        "quality": {bench: score["quality"] for bench, score in scores.items()},
        "categories": {bench: score["categories"] for bench, score in scores.items()},
        "verdicts": {bench: score["verdicts"] for bench, score in scores.items()},
    }


def differences(comparisons: Mapping[str, Comparison], ours: str, theirs: str) -> dict[str, Any]:
    """By bench: the ratio of mean scores, and their difference case by case with its interval."""
    out = {}
    for bench, comparison in comparisons.items():
        mine, other = comparison.answers[ours].score, comparison.answers[theirs].score
        mean, interval = difference(mine, other)
        out[bench] = {
            "ratio": mine.score / other.score,
            "difference": mean,
            "interval": interval,
        }
    return out

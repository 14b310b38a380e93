"""Lets models answer the same bench and says how they compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flash_ray.backbones.base import Backbone
from flash_ray.evaluation.generate import answer, encode_cases
from flash_ray.evaluation.score import BenchScore, difference, judge_bench
from flash_ray.evaluation.ways import Way
from flash_ray.miniature.bench import Case

Progress = Callable[[str, int, int], None]  # what is done, evaluations so far, of how many


@dataclass(frozen=True)
class Answers:
    """One model's pictures for a bench, uint8 (cases, H, W, 3), and their score."""

    way: Way
    pictures_BHW3: np.ndarray
    score: BenchScore


@dataclass(frozen=True)
class Contest:
    """One bench and the answers to it by model name, e.g. teacher, teacher_at_4, student."""

    cases: Sequence[Case]
    answers: dict[str, Answers]


def hold_contest(
    backbone: Backbone,
    contenders: Mapping[str, Sequence[Way]],
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> Contest:
    """Has every contender answer `cases`; one with several ways is known by its best-scored one."""
    batches = encode_cases(backbone, cases)
    total = len(cases) * sum(way.nfe for ways in contenders.values() for way in ways)
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
    for name, ways in contenders.items():
        attempts = [attempt(name, way) for way in ways]
        answers[name] = max(attempts, key=lambda attempt: attempt.score.score)
    return Contest(cases, answers)


def model_result(contests: Mapping[str, Contest], name: str) -> dict[str, Any]:
    """One model's part of result.json: its evaluations, and per bench the scores."""
    answers = {bench: contest.answers[name] for bench, contest in contests.items()}
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


def comparison(contests: Mapping[str, Contest], ours: str, theirs: str) -> dict[str, Any]:
    """By bench: the ratio of mean scores, and their difference case by case with its interval."""
    out = {}
    for bench, contest in contests.items():
        mine, other = contest.answers[ours].score, contest.answers[theirs].score
        mean, interval = difference(mine, other)
        out[bench] = {
            "ratio": mine.score / other.score,
            "difference": mean,
            "interval": interval,
        }
    return out

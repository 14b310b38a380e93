"""Scores models' answers to a benchmark, during a run too, and compares them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from flash_ray.cluster.resources import worker_options
from flash_ray.evaluation.benchmark import Benchmark, Case
from flash_ray.evaluation.contact_sheet import contact_sheet
from flash_ray.evaluation.judges.base import CaseScore, Judge, JudgeResult, summarize
from flash_ray.evaluation.sample import (
    EncodedBatch,
    EncodedBenchmark,
    encode_cases,
    sample_cases,
)
from flash_ray.evaluation.statistics import interval, share
from flash_ray.models.base import Model
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.trainer.metrics import Evaluated

CHUNK = 8  # pictures of one Ray task
GAP = ("student", "teacher", "untrained")
Progress = Callable[[str, int, int], None]  # what is done, evaluations so far, of how many
# (model's name, sampler, cases, what counts evaluations) -> a uint8 picture (H, W, 3) of each case.
Draw = Callable[[str, SamplerConfig, Sequence[Case], Callable[[int], None]], Sequence[np.ndarray]]


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


@dataclass(frozen=True)
class Drawn:
    """Pictures that nobody has judged yet: of each model, by each sampler that it was tried with,
    one for each case, uint8 (H, W, 3)."""

    cases: Sequence[Case]
    attempts: Mapping[str, Sequence[tuple[SamplerConfig, Sequence[np.ndarray]]]]


@dataclass(frozen=True)
class TrainingEval:
    """A `trainer.setup.Evaluate` on a benchmark.

    Args:
        judge: None: nobody scores.
    """

    encoded: EncodedBenchmark
    judge: Judge | None
    sampler: SamplerConfig

    def draw(self, model: Model, transformer: nn.Module) -> dict[Task, list[np.ndarray]]:
        """The pictures of each task, uint8 (H, W, 3)."""
        return self.encoded.images(model, transformer, self.sampler)

    def score(self, drawn: Mapping[Task, Sequence[np.ndarray]]) -> Evaluated:
        """Mean scores, on the judge's scale, of the tasks that it scored, and the pictures."""
        scores: dict[Task, float] = {}
        categories: dict[Task, dict[str, float]] = {}
        cases: list[Case] = []
        shown: list[np.ndarray] = []
        for task, images in drawn.items():
            of_task = self.encoded.cases(task)
            if self.judge is not None:
                # Judged in this process: the cluster's cores belong to the run.
                result = score_answers(self.judge, of_task, images)
                if result.score is not None:
                    scores[task] = result.score
                    categories[task] = {
                        name: category.score
                        for name, category in result.categories.items()
                        if category.score is not None
                    }
            cases, shown = [*cases, *of_task], [*shown, *images]
        return Evaluated(scores, contact_sheet(cases, shown) if cases else None, categories)


def draw_here(model: Model, transformers: Mapping[str, nn.Module]) -> Draw:
    """Draws in this process, with transformers by name."""
    encoded: dict[tuple[int, ...], list[EncodedBatch]] = {}

    def draw(
        name: str, sampler: SamplerConfig, cases: Sequence[Case], progress: Callable[[int], None]
    ) -> list[np.ndarray]:
        asked = tuple(map(id, cases))
        if asked not in encoded:
            encoded[asked] = encode_cases(model, cases)
        return sample_cases(model, encoded[asked], transformers[name], sampler, progress)

    return draw


def draw_tasks(
    draw: Draw,
    models: Mapping[str, Sequence[SamplerConfig]],
    benchmark: Benchmark,
    per_category: int,
    progress: Progress | None = None,
) -> dict[Task, Drawn]:
    """Has every model answer the first `per_category` cases of each category, by task."""
    return {
        task: draw_cases(draw, models, benchmark.cases(task, per_category), progress)
        for task in benchmark.categories
    }


def draw_cases(
    draw: Draw,
    models: Mapping[str, Sequence[SamplerConfig]],
    cases: Sequence[Case],
    progress: Progress | None = None,
) -> Drawn:
    """Has every model answer the cases of one task.

    Args:
        models: by name the samplers to try.
    """
    task = cases[0].task
    total = len(cases) * sum(sampler.nfe for samplers in models.values() for sampler in samplers)
    done = 0

    def answered(name: str, sampler: SamplerConfig) -> Sequence[np.ndarray]:
        def evaluated(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(f"{task}: {name}, {sampler.title}", done, total)

        return draw(name, sampler, cases, evaluated)

    attempts = {
        name: [(sampler, answered(name, sampler)) for sampler in samplers]
        for name, samplers in models.items()
    }
    return Drawn(cases, attempts)


def compare(drawn: Drawn, judge: Judge, workers: Recipe | None = None) -> Comparison:
    """Has the judge score what was drawn; a model with several samplers is known by the one that
    scores best.

    Args:
        workers: as `score_answers` takes it.
    """
    answers = {}
    for name, attempts in drawn.attempts.items():
        judged = [
            Answers(sampler, images, score_answers(judge, drawn.cases, images, workers))
            for sampler, images in attempts
        ]
        answers[name] = max(judged, key=_score)
    return Comparison(drawn.cases[0].task, drawn.cases, answers)


def differences(comparison: Comparison, ours: str, theirs: str) -> dict[str, Any] | None:
    """The mean `difference` of two models' scores, ours - theirs, case by case, with its 95 %
    `interval`; None if no case has a score of both."""
    left, right = comparison.answers[ours].result, comparison.answers[theirs].result
    if not left.scored & right.scored:
        return None
    mean, bounds = difference(left, right)
    return {"difference": mean, "interval": bounds}


def difference(ours: JudgeResult, theirs: JudgeResult) -> tuple[float, tuple[float, float]]:
    """Subtracts scores case by case, ours - theirs: the mean difference and its 95 % interval.

    Raises:
        ValueError: the two are of different cases, or no case has a score in both.
    """
    if ours.cases.keys() != theirs.cases.keys():
        raise ValueError("the two results are of different cases")
    pairs = [(ours.cases[name].score, theirs.cases[name].score) for name in ours.cases]
    paired = [left - right for left, right in pairs if left is not None and right is not None]
    if not paired:
        raise ValueError("no case has a score in both results")
    return float(np.mean(paired)), interval(paired)


def gap_closed(comparison: Comparison) -> dict[str, Any] | None:
    """What `share` of the gap between the untrained base and the teacher the student closes, with
    its 95 % `interval`; None if the teacher is not better than the base beyond chance."""
    results = {name: comparison.answers[name].result.cases for name in GAP}
    scores = [[results[name][case].score for name in GAP] for case in results["student"]]
    scored = [[s for s in row if s is not None] for row in scores]
    rows = [(s - u, t - u) for s, t, u in (row for row in scored if len(row) == len(GAP))]
    if not rows or (found := share(*zip(*rows, strict=True))) is None:
        return None
    return {"share": found.mean, "interval": (found.low, found.high)}


def score_answers(
    judge: Judge,
    cases: Sequence[Case],
    images_BHW3: Sequence[np.ndarray],
    workers: Recipe | None = None,
) -> JudgeResult:
    """Judges uint8 pictures (H, W, 3), one for each case.

    Args:
        workers: the judge computes in Ray tasks if it can, and what loads a model has the resources
            of this recipe's workers, which must be free; None: everything in this process.

    Raises:
        UserError: the judge cannot be used.
    """
    if workers is None or judge.runs == "driver":
        scores = judge.judge(cases, images_BHW3)
    elif judge.runs == "cpu":
        # Anywhere in the cluster, also where the caller is a trial that holds few CPUs.
        options = {"num_cpus": 1, "scheduling_strategy": "DEFAULT"}
        scores = _score_in_tasks(judge, cases, images_BHW3, CHUNK, options)
    else:
        scores = _score_in_tasks(judge, cases, images_BHW3, len(cases), worker_options(workers))
    return summarize(judge, cases, scores)


def _score(answers: Answers) -> float:
    score = answers.result.score
    return -math.inf if score is None else score


def _score_in_tasks(
    judge: Judge,
    cases: Sequence[Case],
    images_BHW3: Sequence[np.ndarray],
    chunk: int,
    options: Mapping[str, Any],
) -> list[CaseScore]:
    import ray  # takes a second; who only wants a difference needs none

    task = ray.remote(_judge).options(**options)
    parts = [
        task.remote(judge, cases[i : i + chunk], images_BHW3[i : i + chunk])
        for i in range(0, len(cases), chunk)
    ]
    return [score for part in ray.get(parts) for score in part]


def _judge(
    judge: Judge, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]
) -> list[CaseScore]:
    return judge.judge(cases, list(images_BHW3))

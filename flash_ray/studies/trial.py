"""One trial: distill, judge, publish, record. It can be cut off anywhere and begun again."""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from flash_ray.data.describe import category_uses
from flash_ray.evaluation.compare import TrainingEval, score_answers
from flash_ray.evaluation.judges.base import CaseScore, JudgeResult
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import EncodedBenchmark, student_sampler
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import run_exists, run_keeps
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import MANIFEST, publish_student, read_student
from flash_ray.studies.code import code_digest
from flash_ray.studies.diversity import diversity
from flash_ray.studies.early import EarlyPictures
from flash_ray.studies.pictures import strip
from flash_ray.studies.records import CategoryData, Cost, Losses, Record, TeacherMeans, Unit
from flash_ray.studies.study import Trial
from flash_ray.teachers.launch import TeacherSet
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, DistillResult, distill
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.trainer.setup import Once


@dataclass(frozen=True)
class EncodedCases:
    """What the students of all trials answer.

    Args:
        scored: by which students are compared, at the early horizon too.
        curve: for the curves, if the study wants them.
        varied: from several noises, if it wants diversity.
    """

    scored: EncodedBenchmark
    curve: EncodedBenchmark | None = None
    varied: EncodedBenchmark | None = None


def run_trial(
    trial: Trial,
    store: Store,
    encoded: EncodedCases,
    teacher_set: TeacherSet | None,
    live: Callable[[UpdateMetrics], None],
) -> tuple[Record, bytes | None]:
    """Makes the trial's record and strip of pictures; a diverged student has no pictures.

    Args:
        teacher_set: the teachers that the trials share.
        live: called with the metrics of every update.

    Raises:
        what `distill` raises, but for Diverged.
    """
    clock = _Clock(live)
    sampler = student_sampler(trial.recipe.student.rungs)
    judge = load_judge(trial.recipe.evaluation.judge_name, "judge")
    early = EarlyPictures(encoded.scored, sampler, store, trial.name)
    callbacks = Callbacks(
        evaluate=TrainingEval(encoded.curve, judge, sampler) if encoded.curve else None,
        once=Once(trial.early, early) if trial.early else None,
        live=clock,
        final=lambda base, student: (
            encoded.scored.images(base, student, sampler),
            encoded.varied.images(base, student, sampler) if encoded.varied else {},
        ),
    )
    record = partial(
        Record,
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        digest=trial.digest,
        code=code_digest(),
        iterations=trial.recipe.training.iterations,
        data=_data(trial),
    )

    def scored(images: Mapping[Task, Sequence[np.ndarray]]) -> dict[Task, JudgeResult]:
        return {
            task: score_answers(judge, encoded.scored.cases(task), of_task, trial.recipe)
            for task, of_task in images.items()
        }

    with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
        resume = _goes_on(store, trial.name)
        folder = Path(name) / "student"
        try:
            result = distill(
                trial.recipe, store, trial.name, folder, resume, callbacks, teacher_set
            )
        except Diverged as error:
            return record(diverged=str(error)), None
        images, varied = result.final
        scores = scored(images)
        horizon = scored(early.images()) if trial.early else {}
        url = _publish(trial, store, result, scores)
    unit: Unit = "GPU-seconds" if trial.recipe.runtime.gpu else "CPU-seconds"
    finished = record(
        **summary(result.history, unit, clock.total(result.history)),
        scores={task: by_case(score) for task, score in scores.items()},
        early={task: by_case(score) for task, score in horizon.items()},
        diversity=_diversity(encoded.varied, varied),
        published=url,
    )
    return finished, strip(images, {task: encoded.scored.cases(task) for task in images})


def forget_run(store: Store, name: str) -> None:
    """Removes a finished run's checkpoints, the largest part of it, and what was published."""
    for part in ("train", "student", "early"):
        store.delete_all(f"runs/{name}/{part}/")


class _Clock:
    """Takes a trial's time; it goes on where the trial was cut off.

    Args:
        live: called with the metrics of every update.
    """

    def __init__(self, live: Callable[[UpdateMetrics], None]):
        self._live, self._started = live, time.monotonic()
        self._first: float = math.inf  # iteration since then

    def __call__(self, metrics: UpdateMetrics) -> None:
        self._first = min(self._first, metrics.iteration)
        self._live(metrics)

    def total(self, history: Sequence[UpdateMetrics]) -> float:
        """Seconds since the start, and those of the updates that were made before it."""
        before = sum(update.seconds for update in history if update.iteration < self._first)
        return before + time.monotonic() - self._started


def _goes_on(store: Store, name: str) -> bool:
    """Whether the trial was begun by this code and has a checkpoint; otherwise what there is of it
    is removed, so that no record is of two codes."""
    key, code = f"runs/{name}/code", code_digest().encode()
    if run_exists(store, name) and run_keeps(store, name) and store.get_bytes(key) == code:
        return True
    store.delete_all(f"runs/{name}/")
    store.put_bytes(key, code)
    return False


def _diversity(
    encoded: EncodedBenchmark | None, images: Mapping[Task, Sequence[np.ndarray]]
) -> dict[Task, dict[str, float]]:
    return diversity({task: encoded.cases(task) for task in images}, images) if encoded else {}


class Summary(TypedDict):
    """Those fields of a record that come from a run's history."""

    curve: tuple[tuple[int, dict[Task, float]], ...]
    category_curve: tuple[tuple[int, dict[Task, dict[str, float]]], ...]
    cost: Cost
    teachers: dict[str, dict[int, TeacherMeans]]
    losses: dict[Task, Losses]


def summary(
    history: Sequence[UpdateMetrics],
    unit: Unit,
    total_seconds: float,
) -> Summary:
    """A record's curve, cost, teachers and losses, from the metrics of all updates."""
    seconds = {
        "CPU-seconds": sum(update.cpu_seconds for update in history),
        "GPU-seconds": sum(update.seconds * update.num_workers for update in history),
    }
    cost = Cost(
        images=sum(update.images for update in history),
        teacher_calls=sum(update.teacher_calls for update in history),
        seconds=sum(update.seconds for update in history),
        total_seconds=total_seconds,
        compute=seconds[unit],
        unit=unit,
    )
    return Summary(
        curve=tuple((u.iteration, u.scores) for u in history if u.scores is not None),
        category_curve=tuple(
            (u.iteration, u.categories) for u in history if u.categories is not None
        ),
        cost=cost,
        teachers=_teachers(history),
        losses=_losses(history[-max(1, len(history) // 10) :]),
    )


def _teachers(history: Sequence[UpdateMetrics]) -> dict[str, dict[int, TeacherMeans]]:
    names = dict.fromkeys(name for update in history for name in update.teachers)
    table: dict[str, dict[int, TeacherMeans]] = {}
    for name in names:
        tables = [update.teachers.get(name, {}) for update in history]
        table[name] = {}
        for rung in sorted({rung for rows in tables for rung in rows}):
            stats = [rows[rung] for rows in tables if rung in rows]
            table[name][rung] = TeacherMeans(
                weight=sum(s.weight for s in stats) / len(stats),
                norm=_mean(s.norm for s in stats),
                cosine=_mean(s.cosine for s in stats),
            )
    return table


def _losses(history: Sequence[UpdateMetrics]) -> dict[Task, Losses]:
    means: dict[Task, Losses] = {}
    for task in dict.fromkeys(task for update in history for task in update.tasks):
        losses = [update.tasks[task] for update in history if task in update.tasks]
        means[task] = Losses(
            student_loss=sum(of.student_loss for of in losses) / len(losses),
            fake_score_loss=sum(of.fake_score_loss for of in losses) / len(losses),
        )
    return means


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _data(trial: Trial) -> dict[Task, dict[str, CategoryData]]:
    return {
        task: {
            name: CategoryData(unique=use.unique, passes=use.passes) for name, use in uses.items()
        }
        for task, uses in category_uses(trial.recipe).items()
    }


def _publish(
    trial: Trial, store: Store, result: DistillResult, scores: Mapping[Task, JudgeResult]
) -> str:
    """Publishes the student, unless an earlier attempt of this trial did."""
    if store.get_bytes(f"students/{trial.name}/{MANIFEST}") is not None:
        if read_student(store, trial.name).recipe_digest == trial.recipe.digest:
            return store.url(f"students/{trial.name}")
    benchmark, digest = trial.benchmark
    if trial.development:  # other cases of it than its first
        digest = hashlib.sha256(f"{digest} {trial.development}".encode()).hexdigest()[:16]
    published = PublishedScores(
        benchmark=benchmark,
        digest=digest,
        judge=trial.recipe.evaluation.judge_name,
        scale=load_judge(trial.recipe.evaluation.judge_name, "judge").scale,
        cases_per_category=min(trial.cases.values()),
        tasks={task: of.score for task, of in scores.items() if of.score is not None},
        intervals={task: of.interval for task, of in scores.items() if of.interval},
    )
    return publish_student(store, trial.name, result.folder, trial.recipe, published)


def by_case(result: JudgeResult) -> dict[str, CaseScore]:
    """The scores without what they come from, to four digits."""
    return {
        case: CaseScore(
            score=None if score.score is None else round(score.score, 4),
            measures={name: round(value, 4) for name, value in score.measures.items()},
            failure=score.failure,
        )
        for case, score in result.cases.items()
    }

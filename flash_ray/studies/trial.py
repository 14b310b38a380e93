"""One trial: distill, judge, publish, record. It can be cut off anywhere and begun again."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from flash_ray.data.describe import category_uses
from flash_ray.evaluation.compare import TrainingEval, score_answers
from flash_ray.evaluation.judges.base import CaseScore, JudgeResult
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import (
    EncodedBenchmark,
    student_sampler,
)
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import run_exists
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import MANIFEST, publish_student, read_student
from flash_ray.studies.pictures import strip
from flash_ray.studies.records import CategoryData, Cost, Losses, Record, TeacherMeans
from flash_ray.studies.study import Trial
from flash_ray.teachers.launch import TeacherSet
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, DistillResult, distill
from flash_ray.trainer.metrics import UpdateMetrics

GAP = "diversity_gap"  # what a judge may say of a category


def run_trial(
    trial: Trial,
    store: Store,
    encoded: EncodedBenchmark,
    curve: EncodedBenchmark | None,
    teacher_set: TeacherSet | None,
    live: Callable[[UpdateMetrics], None],
) -> tuple[Record, bytes | None]:
    """Makes the trial's record and strip of pictures; a diverged student has no pictures.

    Args:
        encoded: the cases that the finished student is scored on.
        curve: cases for the curve, if the study wants one.
        teacher_set: the teachers that the trials share.
        live: called with the metrics of every update.

    Raises:
        what `distill` raises, but for Diverged.
    """
    sampler = student_sampler(trial.recipe.student.rungs)
    judge = load_judge(trial.recipe.evaluation.judge_name, "judge")
    callbacks = Callbacks(
        evaluate=TrainingEval(curve, judge, sampler) if curve else None,
        live=live,
        final=lambda base, student: encoded.images(base, student, sampler),
    )
    record = partial(
        Record,
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        digest=trial.digest,
        iterations=trial.recipe.training.iterations,
        data=_data(trial),
    )
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
        resume = run_exists(store, trial.name)
        folder = Path(name) / "student"
        try:
            result = distill(
                trial.recipe, store, trial.name, folder, resume, callbacks, teacher_set
            )
        except Diverged as error:
            return record(diverged=str(error)), None
        images: dict[Task, list[np.ndarray]] = result.final
        cases = {task: encoded.cases(task) for task in images}
        scores = {
            task: score_answers(judge, cases[task], images[task], trial.recipe) for task in images
        }
        url = _publish(trial, store, result, scores)
    finished = record(
        **summary(result.history, "GPU-seconds" if trial.recipe.runtime.gpu else "CPU-seconds"),
        scores={task: _by_case(score) for task, score in scores.items()},
        diversity={task: gaps for task in scores if (gaps := _gaps(scores[task]))},
        published=url,
    )
    return finished, strip(images, cases)


def forget_run(store: Store, name: str) -> None:
    """Removes a finished run's checkpoints, the largest part of it, and what was published."""
    for part in ("train", "student"):
        store.delete_all(f"runs/{name}/{part}/")


class Summary(TypedDict):
    """Those fields of a record that come from a run's history."""

    curve: tuple[tuple[int, dict[Task, float]], ...]
    cost: Cost
    teachers: dict[str, dict[int, TeacherMeans]]
    losses: dict[Task, Losses]


def summary(
    history: Sequence[UpdateMetrics], unit: Literal["CPU-seconds", "GPU-seconds"]
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
        compute=seconds[unit],
        unit=unit,
    )
    return Summary(
        curve=tuple((u.iteration, u.scores) for u in history if u.scores is not None),
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


def _by_case(result: JudgeResult) -> dict[str, CaseScore]:
    """The scores without what they come from, to four digits."""
    return {
        case: CaseScore(
            score=None if score.score is None else round(score.score, 4),
            measures={name: round(value, 4) for name, value in score.measures.items()},
            failure=score.failure,
        )
        for case, score in result.cases.items()
    }


def _gaps(result: JudgeResult) -> dict[str, float | None]:
    return {
        name: category.details[GAP]
        for name, category in result.categories.items()
        if GAP in category.details
    }

"""One trial: distill, judge, publish, record. It can be cut off anywhere and begun again."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flash_ray.data.describe import category_uses
from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.evaluation.scores import BenchScore, judge_bench
from flash_ray.evaluation.training_eval import TrainingEval
from flash_ray.storage.manifest import run_exists
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import PublishedScores, publish_student, read_student
from flash_ray.studies.records import Record, strip, summary
from flash_ray.studies.study import Trial
from flash_ray.teachers.launch import TeacherSet
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, DistillResult, distill


def run_trial(
    trial: Trial,
    store: Store,
    questions: EncodedBenchmark,
    small: EncodedBenchmark | None,
    teacher_set: TeacherSet | None,
    live: Callable[[dict[str, Any]], None],
) -> tuple[Record, bytes | None]:
    """The trial's record and strip of pictures; a diverged student has a record, but no pictures.

    Args:
        small: cases for the curve, if the study wants one.
        teacher_set: the teachers that the trials share.
        live: called with every update's line.

    Raises:
        what `distill` raises, but for Diverged.
    """
    rungs = trial.recipe.student.rungs
    callbacks = Callbacks(
        TrainingEval(small, rungs) if small else None,
        live,
        lambda student: questions.answers(student, rungs),
    )
    fields = {
        "trial": trial.name,
        "arm": trial.arm,
        "seed": trial.seed,
        "digest": trial.digest,
        "updates": trial.recipe.training.iterations,
        "data": {
            task: {name: {"unique": use.unique, "passes": use.passes} for name, use in own.items()}
            for task, own in category_uses(trial.recipe).items()
        },
    }
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
        resume = run_exists(store, trial.name)
        folder = Path(name) / "student"
        try:
            made = distill(trial.recipe, store, trial.name, folder, resume, callbacks, teacher_set)
        except Diverged as error:
            return Record(**fields, diverged=str(error)), None
        cases = {bench: questions.cases(bench) for bench in made.final}
        scores = {bench: judge_bench(cases[bench], own) for bench, own in made.final.items()}
        url = _publish(trial, store, made, scores)
    runtime = trial.recipe.runtime
    unit = "GPU-seconds" if runtime.gpu else "CPU-seconds"
    record = Record(
        **fields,
        **summary(made.history, unit),
        scores={bench: _by_case(score) for bench, score in scores.items()},
        diversity={
            bench: {name: own.diversity_gap for name, own in score.categories.items()}
            for bench, score in scores.items()
        },
        published=url,
    )
    return record, strip(made.final, cases)


def forget_run(store: Store, name: str) -> None:
    """Removes a finished run's checkpoints, the largest part of it, and what was published."""
    for part in ("train", "student"):
        for key in list(store.list(f"runs/{name}/{part}/")):
            store.delete(key)


def _publish(trial: Trial, store: Store, made: DistillResult, scores: dict[str, BenchScore]) -> str:
    """Publishes the student, unless an earlier attempt of this trial did."""
    if store.get_bytes(f"students/{trial.name}/model.json") is not None:
        if read_student(store, trial.name).recipe_digest == trial.recipe.digest:
            return store.url(f"students/{trial.name}")
    published = PublishedScores(
        benchmark="miniature",
        digest=load_benchmark("miniature").digest,
        judge="exact",
        cases_per_category=min(trial.benches.values()),
        tasks={task: score.score for task, score in scores.items()},
    )
    return publish_student(store, trial.name, made.folder, trial.recipe, published)


def _by_case(score: BenchScore) -> dict[str, tuple[float, float, float]]:
    return {
        case: (round(v.score, 4), round(v.compliance, 4), round(v.quality, 4))
        for case, v in score.verdicts.items()
    }

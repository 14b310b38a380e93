"""A search's best recipe beside the study's own, on cases that the search has not seen."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from flash_ray.evaluation.compare import difference, score_answers
from flash_ray.evaluation.judges.base import JudgeResult
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import EncodedBenchmark, student_sampler
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store
from flash_ray.studies.records import Difference, HeldOut
from flash_ray.teachers.launch import TeacherSet
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, distill


def compare_held_out(
    best: Recipe,
    own: Recipe,
    store: Store,
    encoded: EncodedBenchmark,
    teacher_set: TeacherSet | None,
    steps: Steps,
) -> HeldOut:
    """Trains both once, the same recipe only once, and scores both; a student that diverges has no
    scores.

    Args:
        encoded: the held-out cases.
    """
    steps.say("train the best recipe and the study's own, for held-out cases")
    theirs = _scores(best, store, encoded, teacher_set)
    if own.digest == best.digest:
        return HeldOut(best=_means(theirs), own=_means(theirs))
    ours = _scores(own, store, encoded, teacher_set)
    differences = {}
    for task in theirs.keys() & ours.keys():
        mean, (low, high) = difference(theirs[task], ours[task])
        differences[task] = Difference(mean=mean, low=low, high=high)
    return HeldOut(best=_means(theirs), own=_means(ours), differences=differences)


def _scores(
    recipe: Recipe, store: Store, encoded: EncodedBenchmark, teacher_set: TeacherSet | None
) -> dict[Task, JudgeResult]:
    """What the recipe's student scores by task, of tasks with a score."""
    sampler = student_sampler(recipe.student.rungs)
    callbacks = Callbacks(final=lambda base, student: encoded.images(base, student, sampler))
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
        folder = Path(name) / "student"
        try:
            result = distill(recipe, store, recipe.name, folder, False, callbacks, teacher_set)
        except Diverged:
            return {}
    judge = load_judge(recipe.evaluation.judge_name, "judge")
    judged = {
        task: score_answers(judge, encoded.cases(task), images, recipe)
        for task, images in result.final.items()
    }
    return {task: of for task, of in judged.items() if of.score is not None}


def _means(results: Mapping[Task, JudgeResult]) -> dict[Task, float]:
    return {task: of.score for task, of in results.items() if of.score is not None}

"""What trials share: a Ray with room for them, teachers, encoded cases."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from flash_ray.cluster.resources import bundles, can_provision, check_worker, cluster_needs
from flash_ray.cluster.session import in_cluster_job, ray_session
from flash_ray.data.encode import prepare
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark
from flash_ray.evaluation.drawing import encode_in_task
from flash_ray.evaluation.inputs import with_inputs
from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.studies.cases import CaseRange
from flash_ray.studies.validation import benchmark_of
from flash_ray.teachers.launch import TeacherSet, all_teachers, start_teachers
from flash_ray.teachers.protocol import teacher_actors
from flash_ray.telemetry.progress import Steps

DRIVER_CPUS = 0.01  # of a trial's driver, which waits


@dataclass(frozen=True)
class StudyResources:
    """What all trials use.

    Args:
        at_once: trials that have room at the same time.
        teacher_set: the teachers of all recipes; None: they are in the workers.
        benchmark: with its pictures to edit, where the base draws them.
        encoded: its cases, once for each wanted range.
    """

    at_once: int
    teacher_set: TeacherSet | None
    benchmark: Benchmark
    encoded: list[EncodedBenchmark]


@contextmanager
def study_resources(
    recipes: Sequence[Recipe],
    judged_by: Recipe,
    store: Store,
    cases: Sequence[CaseRange],
    at_once: int | None,
    steps: Steps,
) -> Iterator[StudyResources]:
    """Connects to Ray, starts the teachers and encodes what is not cached, for the block.

    Args:
        recipes: of all trials; they share base, precision and benchmark.
        judged_by: the recipe, of these or others of the study, that says how the base draws
            pictures to edit: guidance may differ among them, and cases may not.
        cases: which are encoded, once for each range.
        at_once: None: as many as there is room for.

    Raises:
        UserError: not even one trial fits the cluster, or its nodes cannot do their part.
    """
    with ray_session(_needs(recipes, at_once or fit_locally(recipes))):
        at_once = at_once or _fit(recipes)
        if in_cluster_job():
            check_worker(store)
        teacher_set = start_teachers(all_teachers(recipes)) if _by_actors(recipes) else None
        try:
            steps.say(f"encode what is not cached; then {at_once} at once")
            first, *others = _of_different_data(recipes)
            for line in prepare(first, store, others).complaints:
                steps.say(line)
            edits = max(wanted.edits for wanted in cases)
            benchmark = with_inputs(benchmark_of(judged_by), judged_by, store, edits, steps)
            encoded = encode_in_task(recipes[0], [wanted.of(benchmark) for wanted in cases])
            yield StudyResources(at_once, teacher_set, benchmark, encoded)
        finally:
            if teacher_set:
                teacher_set.stop()


def _of_different_data(recipes: Sequence[Recipe]) -> list[Recipe]:
    """One recipe for all that train on the same cases."""
    return list({f"{recipe.data!r} {recipe.tasks!r}": recipe for recipe in recipes}.values())


def _by_actors(recipes: Sequence[Recipe]) -> bool:
    return any(recipe.teacher_defaults.placement == "actors" for recipe in recipes)


def _trial_needs(recipes: Sequence[Recipe]) -> dict[str, float]:
    """Resources of the largest trial, without teachers."""
    needs = [cluster_needs(recipe, teachers=0) for recipe in recipes]
    return {name: max(need[name] for need in needs) for name in needs[0]}


def _teacher_needs(recipes: Sequence[Recipe]) -> dict[str, float]:
    """Resources of the shared teachers."""
    if not _by_actors(recipes):
        return {}
    together = all_teachers(recipes)
    workers = cluster_needs(recipes[0], teachers=0)
    needs = cluster_needs(together, teacher_actors(together))
    return {name: need - workers[name] for name, need in needs.items()}


def _needs(recipes: Sequence[Recipe], at_once: int) -> dict[str, float]:
    """Resources of so many trials at once, with their teachers and a CPU for the judge."""
    teachers = _teacher_needs(recipes)
    needs = {
        name: at_once * need + teachers.get(name, 0) for name, need in _trial_needs(recipes).items()
    }
    return {**needs, "CPU": needs["CPU"] + DRIVER_CPUS * at_once + 1}


def _bundles(recipes: Sequence[Recipe]) -> list[dict[str, float]]:
    """What each process of the largest trial and each of the teachers takes of its node."""
    largest = max(recipes, key=lambda recipe: recipe.runtime.max_workers)
    trainers = bundles(largest, "trainer", int(_trial_needs(recipes)["trainer"]))
    return trainers + bundles(largest, "teacher", int(_teacher_needs(recipes).get("teacher", 0)))


def fit_locally(recipes: Sequence[Recipe]) -> int:
    """How many trials the machine has cores for, at least one."""
    cpus = max(_trial_needs(recipes)["CPU"], 0.01)
    return max(1, math.floor((os.cpu_count() or 1) / cpus))


def _fit(recipes: Sequence[Recipe]) -> int:
    """How many trials the cluster has room for beside the teachers.

    Raises:
        UserError: not even one fits.
    """
    if not in_cluster_job():
        return fit_locally(recipes)
    offered, needs = ray.cluster_resources(), _needs(recipes, 1)
    for name, need in needs.items():
        if need > offered.get(name, 0) + 1e-6:
            if can_provision(_bundles(recipes)):
                return 1  # how many more nodes could come is not known
            raise UserError(
                f"study: one trial and the teachers need {need:g} {name}, the cluster has "
                f"{offered.get(name, 0):g} and no node type brings the rest; add nodes with that "
                "resource"
            )
    more = {name: need for name, need in _trial_needs(recipes).items() if need}
    spare = {name: offered.get(name, 0) - needs[name] for name in more}
    return 1 + min(math.floor(spare[name] / need + 1e-6) for name, need in more.items())

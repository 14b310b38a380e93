"""The Ray cluster that a run needs: started locally, or checked."""

from collections.abc import Mapping

import ray

from flash_ray.cluster.autoscaler import can_provision
from flash_ray.cluster.requirements import image_problem
from flash_ray.cluster.session import in_cluster_job
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.teachers.protocol import groups


def cluster_needs(recipe: Recipe, hiring: bool = True, least: bool = False) -> dict[str, float]:
    """Resources that a run holds at the same time, with the fewest teachers that it may have.

    Args:
        hiring: False: its teachers run already.
        least: with as few workers as it can do with, not as many.
    """
    runtime, teachers = recipe.runtime, 0
    workers = runtime.min_workers if least else runtime.max_workers
    if recipe.teacher_defaults.placement == "actors" and hiring:
        teachers = sum(group.fewest for group in groups(recipe))
    processes = workers + teachers
    return {
        "trainer": workers,
        "teacher": teachers,
        "CPU": processes * runtime.cpus_per_worker,
        "GPU": processes if runtime.gpu else 0,
    }


def check_cluster(recipe: Recipe, hiring: bool = True) -> None:
    """Raises UserError if the cluster that Ray is run_session to cannot hold the run, also with the
    nodes that its autoscaler could bring."""
    offered = ray.cluster_resources()
    needs = cluster_needs(recipe, hiring, least=True)
    if in_cluster_job() and recipe.runtime.gpu:
        needs["GPU"] += 1  # of the job's entry point, which scores the student
    lacking = [name for name, need in needs.items() if need > offered.get(name, 0) + 1e-6]
    wanted = {role: places(recipe, role, int(needs[role])) for role in ("trainer", "teacher")}
    everyone = [*wanted["trainer"], *wanted["teacher"]]
    if (not lacking and all(map(_is_offered, everyone))) or can_provision(everyone):
        return
    trainers_come = can_provision(wanted["trainer"]) if wanted["teacher"] else False
    role, field = (
        ("teacher", "teacher_defaults.replicas")
        if trainers_come
        else ("trainer", "runtime.num_workers")
    )
    place = ", ".join(f"{amount:g} {name}" for name, amount in wanted[role][0].items())
    short = role if role in lacking or not lacking else lacking[0]
    raise UserError(
        f"{field}: the run needs {needs[short]:g} {short}, the cluster has "
        f"{offered.get(short, 0):g}, and no node type brings enough nodes that offer {place} for "
        f"each {role}; lower {field}, or add such nodes"
    )


def _is_offered(place: Mapping[str, float]) -> bool:
    """Whether some node is large enough."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= need for name, need in place.items()) for node in nodes)


def places(recipe: Recipe, role: str, count: int) -> list[dict[str, float]]:
    """What each of `count` trainers or teachers takes of its node."""
    runtime = recipe.runtime
    place = {role: 1, "CPU": runtime.cpus_per_worker, "GPU": int(runtime.gpu)}
    return [{name: need for name, need in place.items() if need} for _ in range(count)]


def check_worker(store: Store) -> None:
    """Raises UserError if a trainer's node lacks a package or cannot use the store; waits for one
    if none is there yet."""
    # A sliver of a trainer: it runs where trainers do, and brings a node as they do.
    there = ray.remote(num_cpus=0, resources={"trainer": 0.001})
    for problem in (there(image_problem).remote(), there(_store_problem).remote(store)):
        if said := ray.get(problem):
            raise UserError(f"{said}; found on a worker node")


def _store_problem(store: Store) -> str | None:
    try:
        store.check()
    except UserError as error:
        return f"{error} (every node needs its own AWS_*)"
    return None

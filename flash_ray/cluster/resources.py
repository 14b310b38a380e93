"""What a run needs of a Ray cluster, and whether that cluster offers or can bring it."""

from collections.abc import Mapping

import ray

from flash_ray.cluster.autoscaler import can_provision
from flash_ray.cluster.environment import image_problem
from flash_ray.cluster.session import in_cluster_job
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store


def cluster_needs(recipe: Recipe, teachers: int, least: bool = False) -> dict[str, float]:
    """The resources that a run holds at the same time.

    Args:
        teachers: actors that it starts; 0 if it starts none.
        least: whether to count as few workers as it can do with, and not as many.
    """
    runtime = recipe.runtime
    workers = runtime.min_workers if least else runtime.max_workers
    processes = workers + teachers
    return {
        "trainer": workers,
        "teacher": teachers,
        "CPU": processes * runtime.cpus_per_worker,
        "GPU": processes if runtime.gpu else 0,
    }


def check_cluster(recipe: Recipe, teachers: int) -> None:
    """Checks that this session's cluster can hold the run.

    Args:
        teachers: actors that the run starts; 0 if it starts none.

    Raises:
        UserError: it cannot, nor with the nodes that its autoscaler could bring.
    """
    offered = ray.cluster_resources()
    needs = cluster_needs(recipe, teachers, least=True)
    if in_cluster_job() and recipe.runtime.gpu:
        needs["GPU"] += 1  # of the job's entry point, which scores the student
    lacking = [name for name, need in needs.items() if need > offered.get(name, 0) + 1e-6]
    wanted = {role: bundles(recipe, role, int(needs[role])) for role in ("trainer", "teacher")}
    everyone = [*wanted["trainer"], *wanted["teacher"]]
    if (not lacking and all(map(_fits_a_node, everyone))) or can_provision(everyone):
        return
    trainers_come = can_provision(wanted["trainer"]) if wanted["teacher"] else False
    role, field = (
        ("teacher", "teacher_defaults.replicas")
        if trainers_come
        else ("trainer", "runtime.num_workers")
    )
    bundle = ", ".join(f"{amount:g} {name}" for name, amount in wanted[role][0].items())
    short = role if role in lacking or not lacking else lacking[0]
    raise UserError(
        f"{field}: the run needs {needs[short]:g} {short}, the cluster has "
        f"{offered.get(short, 0):g}, and no node type brings enough nodes that offer {bundle} for "
        f"each {role}; lower {field}, or add such nodes"
    )


def _fits_a_node(bundle: Mapping[str, float]) -> bool:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= need for name, need in bundle.items()) for node in nodes)


def bundles(recipe: Recipe, role: str, count: int) -> list[dict[str, float]]:
    """What each of `count` processes takes of its node; `role` is "trainer" or "teacher"."""
    runtime = recipe.runtime
    bundle = {role: 1, "CPU": runtime.cpus_per_worker, "GPU": int(runtime.gpu)}
    return [{name: need for name, need in bundle.items() if need} for _ in range(count)]


def check_worker(store: Store) -> None:
    """Checks a trainer's node; waits for one if none has come yet.

    Raises:
        UserError: the node lacks a package or cannot use the store.
    """
    # A sliver of a trainer: it runs where trainers do, and brings a node as they do.
    on_worker = ray.remote(num_cpus=0, resources={"trainer": 0.001})
    for check in (on_worker(image_problem).remote(), on_worker(_store_problem).remote(store)):
        if problem := ray.get(check):
            raise UserError(f"{problem}; found on a worker node")


def _store_problem(store: Store) -> str | None:
    try:
        store.check()
    except UserError as error:
        return f"{error} (every node needs its own AWS_*)"
    return None

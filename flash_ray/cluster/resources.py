"""Compares what a run needs with what the cluster offers and what its autoscaler could bring."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from flash_ray.cluster.environment import image_problem, thread_limits
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store

ANSWER_S = 16.0  # for an autoscaler's answer: three of its rounds
STATUS_V1 = b"__autoscaling_status"  # key under which autoscaler v1 reports


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


def bundles(recipe: Recipe, role: str, count: int) -> list[dict[str, float]]:
    """What each of `count` processes takes of its node; `role` is "trainer" or "teacher"."""
    runtime = recipe.runtime
    bundle = {role: 1, "CPU": runtime.cpus_per_worker, "GPU": int(runtime.gpu)}
    return [{name: need for name, need in bundle.items() if need} for _ in range(count)]


def worker_options(recipe: Recipe) -> dict[str, Any]:
    """Options of a Ray task or actor that takes what a training worker does."""
    runtime = recipe.runtime
    return {
        "num_cpus": runtime.cpus_per_worker,
        "num_gpus": 1 if runtime.gpu else 0,
        "resources": {"trainer": 1},
        "scheduling_strategy": "DEFAULT",  # anywhere: a trial has a group of its driver's size
        "runtime_env": {"env_vars": thread_limits(recipe)},
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


def can_provision(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether the cluster has room for all bundles at once, or its autoscaler brings it.

    A fixed cluster's status is written by an autoscaler too, one that brings nothing. The answer
    takes until its next round, some seconds; none in time means no.
    """
    # The autoscaler publishes no list of node types; it answers to demand.
    group = placement_group([dict(bundle) for bundle in bundles])
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    try:
        version, denied, until = None, False, time.monotonic() + ANSWER_S
        while not group.wait(0) and time.monotonic() < until:
            time.sleep(0.25)  # `wait` takes whole seconds
            status = GetClusterStatusReply.FromString(client.get_cluster_status())
            version = version or _version_with(status, group)
            if (answer := _answer(status, group, version)) is None:
                answer = _answer_v1(client)
            if answer is False and not denied:
                # A round may fall into the moment in which the group takes its resources: these are
                # no longer free, and it still asks for them. So it takes two rounds to say no.
                version, denied = None, True
            elif answer is not None:
                return answer
        return group.wait(0)
    finally:
        remove_placement_group(group)


def _fits_a_node(bundle: Mapping[str, float]) -> bool:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= need for name, need in bundle.items()) for node in nodes)


def _store_problem(store: Store) -> str | None:
    try:
        store.check()
    except UserError as error:
        return f"{error} (every node needs its own AWS_*)"
    return None


def _version_with(status: GetClusterStatusReply, group: PlacementGroup) -> int | None:
    """The version of the cluster's state if the group's demand is part of it."""
    state = status.cluster_resource_state
    pending = state.pending_gang_resource_requests
    return state.cluster_resource_state_version if _among(group, pending) else None


def _answer(
    status: GetClusterStatusReply, group: PlacementGroup, version: int | None
) -> bool | None:
    """The answer of autoscaler v2 to that version or a later one; None: there is none yet."""
    state = status.autoscaling_state
    if version is None or state.last_seen_cluster_resource_state_version < version:
        return None
    return not _among(group, state.infeasible_gang_resource_requests)


def _among(group: PlacementGroup, requests: Sequence) -> bool:
    return any(request.details.startswith(group.id.hex()) for request in requests)


def _answer_v1(client: GcsClient) -> bool | None:
    """The answer of autoscaler v1, read from what it does: it launches nodes, or never will.

    An autoscaler that brings no nodes makes up a type for each that there is.
    """
    report = json.loads(client.internal_kv_get(STATUS_V1, None) or b"{}").get("autoscaler_report")
    if not report:
        return None
    if report["pending_launches"] or report["pending_nodes"]:
        return True
    fixed = all(kind.startswith("node_") for kind in report["active_nodes"])
    return False if fixed else None

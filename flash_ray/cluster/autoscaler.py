"""Asks a cluster's autoscaler whether it can bring the nodes that a run lacks."""

import json
import time
from collections.abc import Mapping, Sequence

import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

ANSWER_S = 16.0  # three rounds of an autoscaler
STATUS_V1 = b"__autoscaling_status"


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

"""Starts the nodes of a local cluster: Ray's own provider, with folders apart."""

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

FOLDER = "runtime_resources"


class NodeProvider(FakeMultiNodeProvider):
    """Ray's provider of nodes on one machine; each node unpacks the folders of jobs for itself.

    All nodes share the session's folder. When a node fetches a job's folder, Ray deletes and
    unpacks the copy anew, under the feet of the other nodes' workers: their modules are gone, and
    with their current directory also what is loaded from it (oneMKL ends the process).
    """

    def _create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        with self.lock:
            # The provider has no argument for the folder's name: a node takes the default.
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"{FOLDER}_{self._next_node_id + 1}"
            super()._create_node_with_resources_and_labels(
                node_config, tags, count, resources, labels
            )

"""The nodes of a local cluster keep the folders of jobs apart."""

from types import SimpleNamespace
from typing import Any

import pytest

from flash_ray.cluster.local.config import NodeLimits, autoscaling_config


@pytest.fixture
def started(monkeypatch) -> list[Any]:
    """The parameters of the nodes that a provider starts; none of them runs."""
    import ray._private.node

    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setattr(
        "ray._private.ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME", "runtime_resources"
    )
    parameters: list[Any] = []

    def node(of: Any, **_: Any) -> SimpleNamespace:
        parameters.append(of)
        return SimpleNamespace()

    monkeypatch.setattr(ray._private.node, "Node", node)
    return parameters


def test_each_node_unpacks_the_folders_of_jobs_for_itself(started):
    from ray.autoscaler._private.providers import _get_node_provider_cls

    config = autoscaling_config(NodeLimits(), "127.0.0.1:6379")
    provider = _get_node_provider_cls(config["provider"])(config["provider"], "a-cluster")
    tags = {"ray-user-node-type": "trainer"}
    for _ in range(2):
        provider.create_node_with_resources_and_labels({}, dict(tags), 2, {"CPU": 1}, {})
    names = [of.runtime_env_dir_name for of in started]
    assert len(set(names)) == 4 and "runtime_resources" not in names

"""Configures a local cluster: its nodes and its autoscaler."""

from dataclasses import dataclass
from typing import Any

HEAD = "ray.head.default"
LABEL = "flash-ray/node"  # of a node; its value is the node's type
PROVIDER = "flash_ray.cluster.local.provider.NodeProvider"
MEBIBYTE = 2**20


@dataclass(frozen=True)
class NodeLimits:
    """The most nodes of each type that may come, and their sizes; each type starts at none.

    A trainer offers {"CPU": cpus, "trainer": 1}, a teacher {"CPU": cpus, "teacher": 1}, a server
    {"CPU": cpus}. The CPUs are what Ray counts with, not what the machine has.
    """

    trainers: int = 2
    teachers: int = 1
    servers: int = 1
    cpus: int = 2
    idle_s: float = 60.0  # seconds after which a node without work goes
    object_store_mib: int = 200  # of each node, the head's too

    @property
    def most(self) -> dict[str, int]:
        """The largest number of nodes of each type."""
        return {"trainer": self.trainers, "teacher": self.teachers, "server": self.servers}


def autoscaling_config(limits: NodeLimits, address: str) -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads, for the cluster at `address` (host:port).

    The provider of nodes is named by its class (provider.py), which Ray imports.
    """
    store = {"object_store_memory": limits.object_store_mib * MEBIBYTE}
    workers = {
        name: {
            "resources": {"CPU": limits.cpus, **store, **({} if name == "server" else {name: 1})},
            "labels": {LABEL: name},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, most in limits.most.items()
    }
    return {
        "cluster_name": "flash-ray-local",
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **workers,
        },
        **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
        "initialization_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "auth": {},
        "max_workers": sum(limits.most.values()),
        "upscaling_speed": sum(limits.most.values()),
        "idle_timeout_minutes": limits.idle_s / 60,
    }

"""A cluster with a job server that asks for a token: a head, and a worker node for a trainer.

`python job_server.py JSON` runs it until stdin ends; JSON has variables of the worker node.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "a-token-that-only-the-tests-know-0123456789"


@dataclass(frozen=True)
class JobServer:
    """Its address, the variables with which it can be used, and a folder of the tests'."""

    address: str
    variables: dict[str, str]
    folder: Path


@contextmanager
def started(folder: Path, **worker: str) -> Iterator[JobServer]:
    """A job server for the block; `worker` has variables of the worker node, else the head's."""
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        **access,
        "HOME": str(folder),
        "FLASH_RAY_CACHE": str(folder / "cache"),
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    }
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, __file__, json.dumps(worker)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        address = next((line for line in server.stdout if line.startswith("http://")), None)
        assert address, (folder / "server.log").read_text()
        yield JobServer(address.strip(), access, folder)
    finally:
        server.stdin.close()
        server.wait()


def main() -> None:
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 2,
        "resources": {"teacher": 1},
        "include_dashboard": True,
        "dashboard_port": 0,
        # Ray's own port may be another cluster's agent, which would take this one's jobs.
        "dashboard_agent_listen_port": 0,
        "object_store_memory": 256 * 2**20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(
        num_cpus=1,
        resources={"trainer": 1},
        object_store_memory=256 * 2**20,
        dashboard_agent_listen_port=0,
        # Of its own: Ray clears a node's copy of a job's folder when it fetches another one there.
        runtime_env_dir_name="runtime_resources_of_the_worker",
        env_vars=json.loads(sys.argv[1]),
    )
    print(f"http://{cluster.head_node.webui_url}", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()

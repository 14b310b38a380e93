"""A local cluster of one's own: nobody else's, and not in the way of another on the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKS = """
import ray
from flash_ray.cluster.session import local_cluster

@ray.remote
class Controller:
    def name(self):
        return ray.get_runtime_context().get_actor_id()

@ray.remote
def state_of(actor_id):
    # As Ray Train does, to free what a stopped trial held.
    from ray.util.state import get_actor
    return get_actor(actor_id).state

with local_cluster(cpus=1, trainers=0, teachers=0):
    actor = Controller.options(num_cpus=0).remote()
    print(ray.get(state_of.remote(ray.get(actor.name.remote()))))
"""


@pytest.fixture(scope="module")
def another(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """(the home of another user, what they saw who started a cluster beside this one)."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    ended = subprocess.run(
        [sys.executable, "-c", ASKS],
        env={**kept, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    return home, ended


def test_a_worker_finds_its_own_cluster_beside_another(another):
    _, ended = another
    assert ended.stdout.strip().endswith("ALIVE"), ended.stdout + ended.stderr


def test_the_token_that_it_makes_is_its_owners_alone(another):
    home, _ = another
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600

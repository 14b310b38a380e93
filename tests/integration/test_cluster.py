"""Two local clusters on one machine do not get in each other's way."""

import subprocess
import sys

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


def test_a_worker_finds_its_own_cluster_beside_another(cluster):
    ended = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True)
    assert ended.stdout.strip().endswith("ALIVE"), ended.stdout + ended.stderr

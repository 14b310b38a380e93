"""A run on a cluster that begins and ends without nodes, grows, and loses one on the way.

`pytest -m slow -s tests/e2e/test_autoscaling_run.py` prints the time line.
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImage21Transformer2DModel

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.cluster.local.nodes import Cluster, autoscaling_cluster
from flash_ray.cluster.session import free_ports
from flash_ray.models.loading import resolve_base
from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student
from flash_ray.trainer.metrics import UpdateMetrics
from tests.helpers.commands import RAY

PLACE = "s3://flash-ray/elastic"
EVERY = 10  # updates between checkpoints
UPDATES = 120
RECIPE = {
    "runtime.storage.url": PLACE,
    "runtime.micro_batch_size": 4,
    "runtime.checkpoint_every": EVERY,
    "evaluation.every": 0,
    "training.iterations": UPDATES,
    "data.num_cases": 64,
}
ELASTIC = {"runtime.num_workers": "{min: 1, max: 2, resize_every_s: 10}"}
ONE = NodeLimits(trainers=1, teachers=1, servers=0, idle_s=15)
TWO = replace(ONE, trainers=2)
SEED_NOISE = 0.15  # of a task's mean score between two runs of one recipe, on few cases


class TimeLine:
    """Says what changes on the cluster and in the run, with the seconds since the beginning."""

    def __init__(self, cluster: Cluster, store: Store, run: str):
        self._cluster, self._store, self._run = cluster, store, run
        self._start, self._shown = time.monotonic(), ("", "")

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:6.0f} s  {text}", flush=True)

    def look(self) -> tuple[dict[str, str], list[int]]:
        """The nodes, and the number of workers at each update up to the newest checkpoint."""
        nodes, workers = self._cluster.nodes(), workers_of(self._store, self._run)
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(nodes.values()).items()))
        spans = ", ".join(f"{len(list(same))} by {n}" for n, same in groupby(workers))
        for name, before, now in zip(
            ("nodes", "updates in checkpoints"), self._shown, (kinds, spans), strict=True
        ):
            if before != now:
                self.say(f"{name}: {now or 'none'}")
        self._shown = (kinds, spans)
        return nodes, workers


def history(store: Store, run: str) -> list[UpdateMetrics]:
    """The history in the newest checkpoint that the run would go on from."""
    home = f"runs/{run}/train"
    snapshot = json.loads(store.get_bytes(f"{home}/checkpoint_manager_snapshot.json") or "{}")
    latest = snapshot.get("latest_checkpoint_result")
    if latest is None:
        return []
    text = store.get_bytes(f"{home}/{latest['checkpoint_dir_name']}/history.jsonl")
    return [UpdateMetrics.from_json(line) for line in (text or b"").decode().splitlines()]


def workers_of(store: Store, run: str) -> list[int]:
    return [metrics.num_workers for metrics in history(store, run)]


def submit(cluster: Cluster, name: str, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    words = [RAY, "job", "submit", "--address", cluster.jobs_url]
    words += ["--", "python", "-m", "flash_ray", "distill", "miniature", "--name", name]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    environment = {**os.environ, **cluster.environment()}
    return subprocess.Popen(words, env=environment)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with embedded_store(tmp_path_factory.mktemp("store")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Store.from_url(PLACE)


@pytest.mark.slow
def test_a_run_grows_loses_a_node_and_leaves_no_node(store, tmp_path):
    with autoscaling_cluster(ONE, *free_ports(1)) as cluster:
        line = TimeLine(cluster, store, "elastic")
        assert line.look() == ({}, [])
        line.say("a run of 1 to 2 workers is submitted; there may be one trainer node")
        job = submit(cluster, "elastic", {**RECIPE, **ELASTIC})
        follow(line, job, lambda workers: 1 in workers)
        cluster.allow(TWO)
        line.say("there may be two")
        follow(line, job, lambda workers: 2 in workers)
        nodes, kept = cluster.nodes(), history(store, "elastic")
        cluster.kill(min(node for node, kind in nodes.items() if kind == "trainer"))
        line.say(f"a trainer node is killed; the last checkpoint is of iteration {len(kept)}")
        follow(line, job, lambda workers: False)
        assert job.returncode == 0
        line.say("the run has ended")
        while line.look()[0]:
            time.sleep(0.5)

        line.say("the same run with 2 workers is submitted")
        assert submit(cluster, "fixed", {**RECIPE, "runtime.num_workers": 2}).wait() == 0
        line.say("it has ended")

    elastic, fixed = history(store, "elastic"), history(store, "fixed")
    assert [metrics.iteration for metrics in elastic] == list(range(1, UPDATES + 1))
    # It began with one worker and grew. After the loss it went on from the last checkpoint, with
    # one or two: another node came in the lost one's place. What was before is as it was, seconds
    # too: nothing was done twice that was in a checkpoint.
    assert [size for size, _ in groupby(metrics.num_workers for metrics in elastic)][:2] == [1, 2]
    assert elastic[: len(kept)] == kept
    # The tasks alternate as they do without any of this.
    assert [list(metrics.tasks) for metrics in elastic] == [
        list(metrics.tasks) for metrics in fixed
    ]

    resized, steady = (read_student(store, name) for name in ("elastic", "fixed"))
    assert resized.scores.tasks.keys() == {"t2i", "edit"}
    assert resized.scores.tasks == pytest.approx(steady.scores.tasks, abs=SEED_NOISE)
    base = QwenImage21Transformer2DModel.from_pretrained(
        Path(resolve_base("miniature")) / "transformer"
    )
    changes = [change(store, name, base, tmp_path) for name in ("elastic", "fixed")]
    apart = float((changes[0] - changes[1]).norm() / changes[1].norm())
    print(
        f"scores {resized.scores} and {steady.scores}; the students' changes are {apart:.1e} apart"
    )
    assert apart < 0.1


def follow(
    line: TimeLine, job: subprocess.Popen[bytes], enough: Callable[[list[int]], bool]
) -> list[int]:
    """Looks until the updates in checkpoints, as numbers of workers, are enough or the job ends."""
    while True:
        _, workers = line.look()
        if enough(workers):
            assert job.poll() is None
            return workers
        if job.poll() is not None:
            return workers
        time.sleep(0.5)


def change(store: Store, name: str, base: torch.nn.Module, folder: Path) -> torch.Tensor:
    """What distillation added to the base's weights, in one vector."""
    load_student(store, name, folder / name)
    student = QwenImage21Transformer2DModel.from_pretrained(folder / name).state_dict()
    return torch.cat([(student[key] - value).flatten() for key, value in base.state_dict().items()])

"""The installed command on a GPU: Ray, DeepSpeed, the teacher's actor, the judge."""

import importlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import torch

from tests.benchmarks.gpu.measure import Row
from tests.benchmarks.gpu.networks import TINY, Size


def ray_run(size: Size, device: torch.device) -> Iterator[Row]:
    """`flash-ray distill miniature` with one worker; its last lines and its seconds."""
    for module in ("ray", "deepspeed", "boto3"):
        importlib.import_module(module)
    iterations = 2 if size is TINY else 250
    settings = {
        "runtime.gpu": str(device.type == "cuda").lower(),
        "runtime.num_workers": 1,
        "runtime.cpus_per_worker": 1 if size is TINY else 4,
        "runtime.micro_batch_size": 4 if size is TINY else 32,
        "teacher_defaults.placement": "in_process",
        "training.iterations": iterations,
        "evaluation.every": 0,
        "runtime.checkpoint_every": 0,
        "data.num_cases": 16 if size is TINY else 512,
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "flash_ray", "distill", "miniature", *given]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        seconds = time.perf_counter() - start
    text = re.sub(r"\s+", " ", (done.stdout + done.stderr)[-1500:])
    print(done.stdout[-6000:], done.stderr[-6000:], file=sys.stderr)
    what = f"flash-ray distill miniature, {iterations} iterations"
    if done.returncode:
        yield Row(f"{what}: exit code {done.returncode}", seconds, note=text[-300:])
    else:
        yield Row(what, seconds, note=text.replace("|", "/")[-600:])

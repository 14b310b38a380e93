"""What every process of a run does first: threads, device, and the variables it starts with."""

import os

import torch

from flash_ray.recipe import Recipe


def thread_limits(recipe: Recipe) -> dict[str, str]:
    """Environment of a run's processes."""
    return environment(max(1, int(recipe.runtime.cpus_per_worker)))


def environment(threads: int) -> dict[str, str]:
    """What a process that computes starts with; malloc reads its part before Python starts."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Keep freed memory: giving it back and faulting it in again took a third of the time.
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "67108864",
    }


def one_process(recipe: Recipe) -> torch.device:
    """Limits torch's threads; returns the device that Ray gave to this process."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return torch.device("cuda", 0) if recipe.runtime.gpu else torch.device("cpu")

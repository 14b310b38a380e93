"""Failures that a restarted worker would meet again: what the machine has does not suffice.

The worker that fails leaves word in the store and fails; Ray Train restarts the group, which finds
that word before it loads anything and hands it to the driver, so that the run ends there.
"""

import errno

import torch

from flash_ray.storage.s3 import Store

MOST = 300  # characters of an error that are kept
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def problem_of(error: BaseException) -> str | None:
    """What to tell the user of an error that restarts do not cure; None of any other."""
    reason = " ".join(str(error).split())[:MOST]
    allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or allocator:
        return (
            f"runtime: a training worker is out of memory ({reason}); allowed: what fits; set "
            "runtime.gradient_checkpointing=true, a smaller runtime.micro_batch_size or "
            "student.weights=lora: `flash-ray recipe plan` says what fits"
        )
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return (
            f"runtime.scratch: a training worker's disk is full ({reason}); allowed: a folder with "
            "room for a checkpoint, whose size `flash-ray recipe plan` says; set runtime.scratch"
        )
    return None


def keep(store: Store, run_name: str, problem: str) -> None:
    """Leaves word of a problem for the workers that come next."""
    store.put_bytes(_key(run_name), problem.encode())


def kept(store: Store, run_name: str) -> str | None:
    """The problem that workers before these have met, or None."""
    problem = store.get_bytes(_key(run_name), most=4 * MOST)
    if problem is None:
        return None
    text = problem.decode(errors="replace")  # of a bucket: a terminal must not obey it
    return "".join(char if char.isprintable() else "?" for char in text)


def forget(store: Store, run_name: str) -> None:
    """Has a run begin anew, whatever ended it before."""
    store.delete(_key(run_name))


def _key(run_name: str) -> str:
    return f"runs/{run_name}/fatal.txt"

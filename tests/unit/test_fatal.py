"""Failures that restarts do not cure are known as such, and the next workers learn of them."""

import errno

import pytest
import torch

from flash_ray.trainer import fatal
from tests.helpers.storage import MemoryStore


@pytest.mark.parametrize(
    "error, field",
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "runtime: "),
        (MemoryError(), "runtime: "),
        (OSError(errno.ENOSPC, "No space left on device"), "runtime.scratch: "),
        (ConnectionResetError("by peer"), None),
        (RuntimeError("NCCL timeout"), None),
        (OSError(errno.EIO, "Input/output error"), None),
    ],
)
def test_what_a_restart_would_meet_again(error, field):
    problem = fatal.problem_of(error)
    if field is None:
        assert problem is None
    else:
        assert problem.startswith(field) and "\n" not in problem and "allowed: " in problem


def test_the_cpus_allocator_counts_too():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert fatal.problem_of(caught.value).startswith("runtime: a training worker is out of memory")


def test_the_next_workers_learn_of_it_until_the_run_begins_anew():
    store = MemoryStore("bucket")
    assert fatal.kept(store, "run") is None
    fatal.keep(store, "run", "runtime: it is full")
    assert fatal.kept(store, "run") == "runtime: it is full"
    assert fatal.kept(store, "other") is None
    fatal.forget(store, "run")
    assert fatal.kept(store, "run") is None


def test_a_bucket_cannot_make_the_terminal_obey_or_fill_the_memory():
    store = MemoryStore("bucket")
    fatal.keep(store, "run", "full\x1b[2J\n" + "x" * 10**6)
    shown = fatal.kept(store, "run")
    assert shown.startswith("full?[2J?x") and len(shown) <= 4 * fatal.MOST

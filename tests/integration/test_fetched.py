"""A checkpoint that the workers of a node share is whole when they read it."""

import contextlib
import time
from contextlib import ExitStack

import pyarrow.fs
import ray.train
import torch.distributed as dist

from flash_ray.trainer.worker import fetched
from tests.helpers.distilling import in_processes


class SecondComesLate(ray.train.Checkpoint):
    """Worker 1 asks for it only when worker 0 has it."""

    @contextlib.contextmanager
    def as_directory(self):
        marker = self.marker
        while dist.get_rank() == 1 and not marker.exists():
            time.sleep(0.05)
        with super().as_directory() as folder:
            marker.touch()
            yield folder


def _written(rank, world, out, checkpoint):
    """Notes when the file that worker 0 sees was written, before and after worker 1 fetched it."""
    with ExitStack() as stack:
        folder = fetched(checkpoint, stack)
        before = (folder / "weights").stat().st_mtime_ns
        dist.barrier()
        assert (folder / "weights").stat().st_mtime_ns == before
        dist.barrier()


def test_no_worker_fetches_over_what_another_reads(tmp_path):
    (tmp_path / "bucket" / "iteration-000002").mkdir(parents=True)
    (tmp_path / "bucket" / "iteration-000002" / "weights").write_bytes(bytes(1000))
    bucket = pyarrow.fs.SubTreeFileSystem(str(tmp_path / "bucket"), pyarrow.fs.LocalFileSystem())
    checkpoint = SecondComesLate("iteration-000002", bucket)
    checkpoint.marker = tmp_path / "marker"
    in_processes(2, tmp_path / "out", _written, checkpoint)

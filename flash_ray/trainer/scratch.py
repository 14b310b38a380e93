"""Where a worker puts checkpoints on their way to and from the store, and whether they fit."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import known_pipeline
from flash_ray.capacity.workload import Assumptions
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store

GB = 10**9


def use_scratch(recipe: Recipe) -> None:
    """Has this process, Ray's part of it too, make temporary files in `runtime.scratch`.

    Raises:
        UserError: there is no such folder, and it cannot be made.
    """
    folder = recipe.runtime.scratch
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"runtime.scratch: {folder} cannot be made on a worker's node ({error.strerror}); "
            "allowed: a folder that can be written to, or null; set another"
        ) from error
    tempfile.tempdir = folder


@contextmanager
def new_folder(store: Store, run_name: str) -> Iterator[Path]:
    """A folder for this worker's part of a run's checkpoint; who uploads that removes it, and where
    the block fails it is removed at once."""
    folder = Path(tempfile.mkdtemp(prefix=_prefix(store, run_name)))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_folders(store: Store, run_name: str) -> None:
    """Removes what killed workers of a run have left on this node; before the first checkpoint."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(store, run_name)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(store: Store, run_name: str) -> str:
    run = f"{store.server} {store.url(run_name)}"  # others on this machine may have the name
    return f"flash-ray-{hashlib.sha256(run.encode()).hexdigest()[:16]}-"


def validate_room(recipe: Recipe, workers: int, here: int) -> None:
    """Checks that a checkpoint's part of this node fits its disk, as far as the sizes are known.

    Args:
        workers, here: all workers, and those of this node.

    Raises:
        UserError: it does not.
    """
    pipeline = known_pipeline(recipe.base)
    if pipeline is None:
        return
    model = MemoryModel(recipe, pipeline, Assumptions(), recipe.runtime.zero_stage, workers)
    needed = model.checkpoint * here / workers
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"runtime.scratch: {folder} has {free / GB:.1f} GB free on a worker's node, and a "
            f"checkpoint takes {needed / GB:.1f} there; allowed: a folder with that much; set "
            "runtime.scratch to one on a larger disk"
        )

"""Tells the trackers that a recipe asks for how its run goes, without ever standing in its way.

Each tracker has a thread of its own in the driver, so that a server that is slow or gone delays
nothing. One that fails costs one line, and is told no more.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.trackers import Mlflow, TensorBoard, TrackedRun, Tracker, Wandb

if TYPE_CHECKING:
    from PIL import Image

END_S = 30.0  # that a tracker has for what is left when the run has ended


def validate_trackers(recipe: Recipe) -> None:
    """Raises UserError if a tracker that the recipe asks for is not installed."""
    for name in recipe.tracking.wanted:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # such as a folder of that name beside the recipe
            raise UserError(
                f"tracking.{name}: {name} is not installed; run `pip install "
                f"'flash-ray[{name}]'`, or leave tracking.{name} out"
            )


class Tracking:
    """Hands what it is told to trackers, in order; it returns at once and raises nothing."""

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]):
        self._threads = [_Thread(name, tracker, say) for name, tracker in trackers.items()]

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Tells an iteration's measures by name."""
        for thread in self._threads:
            thread.put(lambda tracker: tracker.log(iteration, values))

    def show(self, iteration: int, picture: "Image.Image") -> None:
        """Tells a sheet of pictures, drawn after an iteration, before its `log`."""
        picture.load()  # here, as the threads share its file
        for thread in self._threads:
            thread.put(lambda tracker: tracker.show(iteration, picture))

    def finish(self, failed: bool) -> None:
        """Waits until all is told, at most `END_S` seconds."""
        until = time.monotonic() + END_S
        for thread in self._threads:
            thread.put(lambda tracker: tracker.finish(failed))
            thread.put(None)
        for thread in self._threads:
            thread.join(until - time.monotonic())


@contextmanager
def tracked(
    recipe: Recipe, store: Store, run_name: str, say: Callable[[str], None]
) -> Iterator[Tracking]:
    """The trackers that the recipe asks for, for the block; a resumed run goes on in them.

    Args:
        run_name: of a run that is claimed.
        say: called with a line for each tracker that fails, from any thread.

    Raises:
        UserError: the store cannot be used.
    """
    wanted, trackers = recipe.tracking, dict[str, Tracker]()
    if wanted.wanted:
        run = TrackedRun(run_name, _run_id(store, run_name), recipe, store)
        if wanted.tensorboard:
            trackers["tensorboard"] = TensorBoard(run)
        if wanted.wandb:
            trackers["wandb"] = Wandb(run, wanted.wandb)
        if wanted.mlflow:
            trackers["mlflow"] = Mlflow(run, wanted.mlflow)
    tracking = Tracking(trackers, say)
    failed = True
    try:
        yield tracking
        failed = False
    finally:
        tracking.finish(failed)


def _run_id(store: Store, run_name: str) -> str:
    """What the trackers know the run by: a name may be given back, and taken by another run."""
    key = f"runs/{run_name}/tracking_id"
    store.put_bytes_if_absent(key, secrets.token_hex(8).encode())
    return (store.get_bytes(key) or b"").decode()


class _Thread:
    """One tracker and the thread that it works in."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]):
        self._name, self._tracker, self._say = name, tracker, say
        self._calls: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        # A daemon: a client that hangs does not keep the command from its end.
        self._thread = Thread(target=self._work, name=f"tracking-{name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Tracker], None] | None) -> None:
        """Has the thread make a call after those before it; None: it has nothing more to do."""
        if self._thread.is_alive():
            self._calls.put(call)

    def join(self, seconds: float) -> None:
        """Waits for the end of all calls."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._say(
                f"tracking.{self._name}: has not taken all that the run measured, and is left"
            )

    def _work(self) -> None:
        try:
            self._tracker.start()
            while call := self._calls.get():
                call(self._tracker)
        except Exception as error:  # whatever a client raises: it is no reason to stop a run
            reason = " ".join(str(error).split())[:200]
            self._say(
                f"tracking.{self._name}: {type(error).__name__}: {reason}; the run goes on "
                "without it"
            )

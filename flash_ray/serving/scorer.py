"""The deployment that scores: single pictures at once, evaluations as Ray tasks."""

import asyncio
import logging
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
import ray
from PIL import Image

from flash_ray.backbones.process import thread_limits
from flash_ray.checkpoints.storage import Store
from flash_ray.miniature.judge import judge
from flash_ray.recipe import Recipe
from flash_ray.serving.evaluate import evaluate
from flash_ray.serving.evaluations import EvaluationBook
from flash_ray.serving.routes.benches import find_case
from flash_ray.serving.settings import Serving

logger = logging.getLogger("ray.serve")


class Scorer:
    """One replica; it takes up what an earlier one left unfinished, from the store's records."""

    def __init__(self, recipe: Recipe, store: Store, settings: Serving):
        self._recipe, self._store, self._settings = recipe, store, settings
        self._book = EvaluationBook(store)
        self._running: dict[str, ray.ObjectRef] = {}
        self._waiting = asyncio.Semaphore(settings.evaluations)
        self._tasks: dict[str, asyncio.Task] = {}

    async def judge(self, bench: str, case: str, picture: bytes) -> dict[str, Any]:
        """The fields of `schemas.Score` for a PNG of 64x64."""
        return await asyncio.to_thread(
            judge_picture, bench, case, picture, self._settings.limits.cases
        )

    async def start(self, name: str) -> None:
        """Runs an evaluation, unless it runs already, as soon as there is room."""
        if name not in self._tasks:
            task = asyncio.create_task(self._run(name))
            self._tasks[name] = task
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def cancel(self, name: str) -> None:
        """Ends an evaluation that waits or runs."""
        if name in self._running:
            ray.cancel(self._running[name], force=True)
        elif name in self._tasks:
            self._tasks[name].cancel()

    async def check_health(self) -> None:
        """Called by Serve every few seconds: takes up what an earlier replica left unfinished."""
        for name in await asyncio.to_thread(self._book.unfinished, self._recipe.base):
            await self.start(name)

    async def _run(self, name: str) -> None:
        async with self._waiting:
            self._running[name] = self._remote(name)
            try:
                await self._running[name]
            except ray.exceptions.RayError as error:
                # One that was cancelled has its end; one that failed gets it here.
                if await asyncio.to_thread(self._book.end, name) is None:
                    reason = " ".join(str(getattr(error, "cause", None) or error).split())[:500]
                    await asyncio.to_thread(self._book.finish, name, "failed", {"error": reason})
                    logger.exception("evaluation %s failed", name)
            finally:
                del self._running[name]

    def _remote(self, name: str) -> ray.ObjectRef:
        runtime = self._recipe.runtime
        task = ray.remote(evaluate).options(
            num_cpus=runtime.cpus_per_worker,
            num_gpus=1 if runtime.gpu else 0,
            max_retries=3,
            scheduling_strategy="DEFAULT",  # anywhere, not in the replica's own place
            runtime_env={"env_vars": thread_limits(self._recipe)},
        )
        return task.remote(name, self._recipe, self._store, self._settings)


def judge_picture(bench: str, case: str, picture: bytes, most: int) -> dict[str, Any]:
    """What the exact judge says of a PNG of 64x64: the fields of `schemas.Score`.

    Args:
        most: cases of each category that there are.
    """
    pixels_HW3 = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), np.float32) / 255
    fields = asdict(judge(pixels_HW3.transpose(2, 0, 1), find_case(bench, case, most)))
    del fields["fitted"]
    return fields

"""Scores models: single pictures at once, evaluations as Ray tasks that draw only what is not drawn."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
import ray
from PIL import Image

from flash_ray.cluster.environment import one_process, thread_limits
from flash_ray.data.cache import cache_home
from flash_ray.errors import UserError
from flash_ray.evaluation.sample import source_image
from flash_ray.miniature.benchmark import Case, cases
from flash_ray.miniature.judge import judge
from flash_ray.recipe import Recipe
from flash_ray.serving.engine import Engine, Question, Row, Way, load_engine
from flash_ray.serving.evaluations import Asked, EvaluationStore
from flash_ray.serving.images import png
from flash_ray.serving.judging import scoring
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.routes.benchmarks import find_case
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.s3 import Store

SEEDS = 2**31


def evaluate(name: str, recipe: Recipe, store: Store, settings: Serving) -> None:
    """Draws and judges what the evaluation `name` asks for, and writes how it ended."""
    book = EvaluationStore(store)
    asked = book.asked(name)
    if asked is None or book.end(name):
        return
    one_process(recipe)
    try:
        score = scoring(asked, store, settings)  # who cannot judge is known before it is drawn
        own = cases(asked.bench, asked.cases)
        _draw(book, name, asked, own, recipe, store, settings)
        pictures = [Image.open(BytesIO(book.picture(name, case.id))) for case in own]
        scored = score(own, np.stack([np.asarray(picture) for picture in pictures]))
    except UserError as error:
        book.finish(name, "failed", {"error": str(error)})
        return
    book.finish(name, "result", _result(name, own, scored))


def _draw(
    book: EvaluationStore,
    name: str,
    asked: Asked,
    own: Sequence[Case],
    recipe: Recipe,
    store: Store,
    settings: Serving,
) -> None:
    drawn = book.pictures(name)
    missing = [case for case in own if case.id not in drawn]
    if not missing:
        return
    engine = load_engine(recipe, settings.condition_mib * MIB, 0)
    way = _way(engine, asked.model, store, settings)
    for start in range(0, len(missing), settings.batch):
        part = missing[start : start + settings.batch]
        questions = [_question(case) for case in part]
        conditions = engine.encode(questions).conditions
        rows = [
            Row(question.digest, condition, (case.seed + asked.seed) % SEEDS)
            for case, question, condition in zip(part, questions, conditions, strict=True)
        ]
        pictures = engine.draw(way, rows).pictures_BHW3
        for case, picture in zip(part, pictures, strict=True):
            book.put_picture(name, case.id, png(picture))


def _question(case: Case) -> Question:
    references = (png(source_image(case)),) if case.bench == "edit" else ()
    return Question(case.prompt, references, (64, 64))


def _way(engine: Engine, model: ServedModel, store: Store, settings: Serving) -> Way:
    transformer = engine.backbone.transformer
    if model.student is not None:
        weights = WeightCache(store, cache_home() / "students", settings.weights_mib * MIB)
        transformer = engine.backbone.load_transformer(weights.folder_of(model))
    return Way(model.digest, transformer, model.sigmas, model.guidance, model.rescale)


def _result(name: str, own: Sequence[Case], scored: dict[str, Any]) -> dict[str, Any]:
    verdicts = scored.pop("verdicts")
    answers = [
        {
            "case": case.id,
            "category": case.category,
            "prompt": case.prompt,
            **verdicts[case.id],
            "picture": f"/v1/evaluations/{name}/pictures/{case.id}.png",
            "input": f"/v1/benches/edit/cases/{case.id}/input.png"
            if case.bench == "edit"
            else None,
        }
        for case in own
    ]
    return {**scored, "answers": answers}


logger = logging.getLogger("ray.serve")


class Scorer:
    """One replica; it takes up what an earlier one left unfinished, from the store's records."""

    def __init__(self, recipe: Recipe, store: Store, settings: Serving):
        self._recipe, self._store, self._settings = recipe, store, settings
        self._book = EvaluationStore(store)
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

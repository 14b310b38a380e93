"""Shared by the tests of the endpoints: the application in one process."""

from collections.abc import Sequence
from typing import Any

from flash_ray.recipe import Recipe
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.evaluator import evaluate, judge_picture
from flash_ray.serving.generator import GenerationRequest, GenerationResult, Generator
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.service import Service
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Token
from flash_ray.storage.s3 import Store


def in_process(
    recipe: Recipe, store: Store, settings: Serving, tokens: Sequence[Token] = ()
) -> Service:
    """The application's parts in this process: what Ray Serve does is left out."""
    generator = Generator("generate", recipe, store, settings)

    async def paint(task: str, order: GenerationRequest) -> GenerationResult:
        return await generator.paint(order)

    async def judge(bench: str, case: str, picture: bytes) -> dict[str, Any]:
        return judge_picture(bench, case, picture, settings.limits.cases)

    async def start(name: str) -> None:
        evaluate(name, recipe, store, settings)

    async def cancel(name: str) -> None:
        pass

    book = EvaluationStore(store)
    registry = ModelRegistry(recipe, store, max_age=0.0)
    return Service(recipe, settings, tokens, registry, book, paint, judge, start, cancel)

"""Shared by the tests of the endpoints: the application in one process."""

from collections.abc import Sequence
from typing import Any

from flash_ray.checkpoints.storage import Store
from flash_ray.recipe import Recipe
from flash_ray.serving.evaluate import evaluate
from flash_ray.serving.evaluations import EvaluationBook
from flash_ray.serving.models import Catalogue
from flash_ray.serving.painter import Order, Painted, Painter
from flash_ray.serving.scorer import judge_picture
from flash_ray.serving.service import Service
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Token


def in_process(
    recipe: Recipe, store: Store, settings: Serving, tokens: Sequence[Token] = ()
) -> Service:
    """The application's parts in this process: what Ray Serve does is left out."""
    painter = Painter("generate", recipe, store, settings)

    async def paint(task: str, order: Order) -> Painted:
        return await painter.paint(order)

    async def judge(bench: str, case: str, picture: bytes) -> dict[str, Any]:
        return judge_picture(bench, case, picture, settings.limits.cases)

    async def start(name: str) -> None:
        evaluate(name, recipe, store, settings)

    async def cancel(name: str) -> None:
        pass

    book = EvaluationBook(store)
    catalogue = Catalogue(recipe, store, max_age=0.0)
    return Service(recipe, settings, tokens, catalogue, book, paint, judge, start, cancel)

"""The deployment that speaks HTTP, and hands work to the ones that draw and score."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.serving.api import build_api
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.generator import GenerationRequest, GenerationResult
from flash_ray.serving.http import ApiError, busy
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.service import Service
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Token
from flash_ray.storage.s3 import Store


class Gateway:
    """Builds the application when its replica starts; every process reads its own AWS_*."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        settings: Serving,
        tokens: Sequence[Token],
        generators: Mapping[str, DeploymentHandle],
        scorer: DeploymentHandle,
    ):
        self._settings, self._painters, self._scorer = settings, generators, scorer
        self._service = Service(
            recipe=recipe,
            settings=settings,
            tokens=tokens,
            registry=ModelRegistry(recipe, store),
            book=EvaluationStore(store),
            paint=self._paint,
            judge=self._judge,
            start=self._start,
            cancel=self._cancel,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service)

    async def _paint(self, task: str, order: GenerationRequest) -> GenerationResult:
        handle = self._painters[task].options(multiplexed_model_id=order.model.digest)
        return await self._answer(handle.paint.remote(order))

    async def _judge(self, bench: str, case: str, picture: bytes) -> dict[str, Any]:
        return await self._answer(self._scorer.judge.remote(bench, case, picture))

    async def _start(self, name: str) -> None:
        await self._answer(self._scorer.start.remote(name))

    async def _cancel(self, name: str) -> None:
        await self._answer(self._scorer.cancel.remote(name))

    async def _answer(self, response: Awaitable[Any]) -> Any:
        try:
            return await response
        except BackPressureError as error:
            raise busy(self._settings.retry_after_s) from error
        except DeploymentUnavailableError as error:
            raise ApiError(503, "The deployment cannot start; see the server's log.") from error
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise

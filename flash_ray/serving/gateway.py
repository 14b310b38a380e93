"""The deployment that speaks HTTP, and hands work to the ones that draw and score."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.api import build_api
from flash_ray.serving.benchmark import served_benchmark
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
        evaluator: DeploymentHandle,
    ):
        self._settings, self._generators, self._evaluator = settings, generators, evaluator
        benchmark = served_benchmark(recipe, settings)
        self._service = Service(
            recipe=recipe,
            settings=settings,
            tokens=tokens,
            registry=ModelRegistry(recipe, store, benchmark),
            benchmark=benchmark,
            evaluations=EvaluationStore(store),
            generate=self._generate,
            judge=self._judge,
            start=self._start,
            cancel=self._cancel,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service)

    async def _generate(self, deployment: str, request: GenerationRequest) -> GenerationResult:
        handle = self._generators[deployment].options(multiplexed_model_id=request.model.digest)
        result: GenerationResult = await self._answer(handle.generate.remote(request))
        return result

    async def _judge(self, task: Task, case: str, picture: bytes) -> CaseScore:
        score: CaseScore = await self._answer(self._evaluator.judge.remote(task, case, picture))
        return score

    async def _start(self, id: str) -> None:
        await self._answer(self._evaluator.start.remote(id))

    async def _cancel(self, id: str) -> None:
        await self._answer(self._evaluator.cancel.remote(id))

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

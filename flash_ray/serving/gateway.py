"""The deployment that speaks HTTP: it hands work on, and serves the API and the gallery's page."""

import mimetypes
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from flash_ray import __version__
from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.words import WORDS_FILE
from flash_ray.models.loading import family_of
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.benchmarks import Benchmarks
from flash_ray.serving.doors import HEALTH, Authenticated, BoundedBodies, SameMachine
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.generator import GenerationRequest, GenerationResult
from flash_ray.serving.http import ApiError, Outermost, busy, install_error_answers
from flash_ray.serving.links import Links
from flash_ray.serving.metrics import GatewayMetrics
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.routes import benchmarks, evaluations, images, models
from flash_ray.serving.schemas import Error
from flash_ray.serving.service import Served, Service
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.tokens import Token
from flash_ray.storage.s3 import Store

GALLERY = resources.files("flash_ray.serving") / "gallery"
DESCRIPTION = (
    "Pictures from few-step students and their teacher, by OpenAI's Images API; scores of models "
    "on benchmarks. Every error has OpenAI's shape."
)
STATUSES = {
    400: "The request is not allowed; `param` says which field.",
    401: "No token, or one that is not known.",
    403: "The token's role does not allow this; without tokens, another site asks.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    429: "The queue is full; `Retry-After` says for how many seconds.",
}
pages = APIRouter(include_in_schema=False)


class Gateway:
    """Builds the application when its replica starts; every process reads its own AWS_*."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        settings: Serving,
        tokens: Sequence[Token],
        benchmarks: Benchmarks,
        generators: Mapping[str, DeploymentHandle],
        evaluator: DeploymentHandle,
    ):
        self._settings, self._generators, self._evaluator = settings, generators, evaluator
        self._service = Service(
            recipe=recipe,
            settings=settings,
            tokens=tokens,
            registry=ModelRegistry(recipe, store, benchmarks),
            benchmarks=benchmarks,
            evaluations=EvaluationStore(store),
            links=Links(settings.link_s, settings.links_mib * MIB),
            draws_alpha=hasattr(family_of(recipe.base), "to_rgba"),
            generate=self._generate,
            stream=self._stream,
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

    async def _stream(
        self, deployment: str, request: GenerationRequest
    ) -> AsyncIterator[bytes | GenerationResult]:
        handle = self._generators[deployment].options(
            multiplexed_model_id=request.model.digest, stream=True
        )
        parts: Any = handle.stream.remote(request)
        try:
            while True:
                try:
                    part = await self._answer(anext(parts))
                except StopAsyncIteration:
                    return
                yield part
        finally:
            parts.cancel()  # of a client that has gone; what has ended is left as it is

    async def _judge(self, benchmark: str, task: Task, case: str, picture: bytes) -> CaseScore:
        asked = self._evaluator.judge.remote(benchmark, task, case, picture)
        score: CaseScore = await self._answer(asked)
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


def build_api(service: Service) -> FastAPI:
    """The application; it holds no state but the service."""
    app = FastAPI(
        title="flash_ray",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses={
            status: {"model": Error, "description": text} for status, text in STATUSES.items()
        },
    )
    app.state.service = service
    app.include_router(pages)
    for routes in (models, images, benchmarks, evaluations):
        app.include_router(routes.router)
    install_error_answers(app)
    limits = service.settings.limits
    edits = limits.images * limits.image_bytes + MIB
    app.add_middleware(
        BoundedBodies,
        most={"": 2 * MIB, "/v1/images/edits": edits},
        memory=max(edits, service.settings.bodies_mib * MIB),
        retry_after_s=service.settings.retry_after_s,
    )
    if service.tokens:
        app.add_middleware(Authenticated, tokens=service.tokens)
    else:
        app.add_middleware(SameMachine)
    app.add_middleware(Outermost, metrics=GatewayMetrics())
    return app


@pages.get("/")
def gallery_page() -> Response:
    """The gallery's page."""
    return _gallery_file("index.html")


@pages.get("/gallery/{name}")
def gallery_part(name: str) -> Response:
    """A script or style sheet of the page."""
    return _gallery_file(name)


@pages.get("/pictures/{name}")
async def linked_picture(name: str, service: Served) -> Response:
    """A picture that was asked for as a link: the name is what lets in."""
    picture = service.links.get(name)
    if picture is None:
        raise ApiError(404, "There is no such picture, or no longer; ask for it again.")
    return Response(picture, media_type=mimetypes.guess_type(name)[0])


@pages.get(HEALTH)
async def health() -> dict[str, str]:
    """An answer that says that the server is up."""
    return {"status": "ok"}


def _gallery_file(name: str) -> Response:
    # Only what is in the folder: a name from the network is compared, never joined to a path.
    parts = [*GALLERY.iterdir(), WORDS_FILE]
    files = {entry.name: entry for entry in parts if entry.is_file()}
    if name not in files:
        raise ApiError(404, f"There is nothing called {name[:100]!r}.")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(files[name].read_bytes(), media_type=kind)

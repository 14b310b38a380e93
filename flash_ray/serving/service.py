"""What the routes work with, and who may do what."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.benchmarks import Benchmarks
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.generator import GenerationRequest, GenerationResult
from flash_ray.serving.http import ApiError
from flash_ray.serving.links import Links
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Role, Token, allows


@dataclass(frozen=True)
class Service:
    """The application's parts, wherever they run.

    Args:
        tokens: none of them means that everybody may do everything.
        benchmarks: none if nothing can be scored.
        links: pictures that are given as links.
        draws_alpha: whether the base's pictures may be transparent.
        generate: draws pictures in the deployment for that, "generate" or "edit".
        stream: the same, with files of what the first picture looks like before the result.
        judge: says what the default judge gives a PNG, by benchmark, task and case id.
        start, cancel: begin and end an evaluation, by id.
    """

    recipe: Recipe
    settings: Serving
    tokens: Sequence[Token]
    registry: ModelRegistry
    benchmarks: Benchmarks
    evaluations: EvaluationStore
    links: Links
    draws_alpha: bool
    generate: Callable[[str, GenerationRequest], Awaitable[GenerationResult]]
    stream: Callable[[str, GenerationRequest], AsyncIterator[bytes | GenerationResult]]
    judge: Callable[[str, Task, str, bytes], Awaitable[CaseScore]]
    start: Callable[[str], Awaitable[None]]
    cancel: Callable[[str], Awaitable[None]]

    @property
    def most_pixels(self) -> int:
        """The most pixels of a picture that may be asked for."""
        height, width = self.recipe.data.resolution
        return self.settings.limits.pixels or 4 * height * width


# Dependencies are async: FastAPI runs others in threads, a switch for each of them.


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
_bearer = HTTPBearer(auto_error=False, description="A token made by `flash-ray token`.")


async def _caller(request: Request, _: Annotated[Any, Depends(_bearer)]) -> Role:
    role: Role = request.state.role  # the doors put it there, or have answered
    return role


Caller = Annotated[Role, Depends(_caller)]  # the role of who asks


def needs(role: Role) -> Any:
    """A dependency that answers requests whose token does not have the role with 403."""

    async def check(caller: Caller) -> None:
        if not allows(caller, role):
            raise ApiError(
                403, f"The token's role is {caller}, this needs {role}.", code="role_too_low"
            )

    return Depends(check)

"""What the routes work with, and who may do what."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from flash_ray.recipe import Recipe
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.generator import GenerationRequest, GenerationResult
from flash_ray.serving.http import ApiError
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.settings import Serving
from flash_ray.serving.tokens import Role, Token, allows, role_of


@dataclass(frozen=True)
class Service:
    """The application's parts, wherever they run.

    Args:
        tokens: none of them means that everybody may do everything.
        paint: draws an order in the deployment of its task.
        judge: (bench, case id, PNG) -> the fields of `schemas.Score`.
        start, cancel: an evaluation, by id.
    """

    recipe: Recipe
    settings: Serving
    tokens: Sequence[Token]
    registry: ModelRegistry
    book: EvaluationStore
    paint: Callable[[str, GenerationRequest], Awaitable[GenerationResult]]
    judge: Callable[[str, str, bytes], Awaitable[dict[str, Any]]]
    start: Callable[[str], Awaitable[None]]
    cancel: Callable[[str], Awaitable[None]]


# Dependencies are async: FastAPI runs others in threads, a switch for each of them.


async def _service(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(_service)]
_bearer = HTTPBearer(auto_error=False, description="A token made by `flash-ray token`.")


async def _caller(
    service: Served, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Role:
    if not service.tokens:
        return "admin"
    ask = {"WWW-Authenticate": "Bearer"}
    if given is None:
        raise ApiError(
            401, "No token; send Authorization: Bearer TOKEN.", code="no_token", headers=ask
        )
    found = role_of(given.credentials, list(service.tokens))
    if found is None:
        raise ApiError(401, "The token is not known.", code="invalid_api_key", headers=ask)
    return found


Caller = Annotated[Role, Depends(_caller)]  # the role of who asks; a request without one is refused


def needs(role: Role) -> Any:
    """A dependency that refuses requests whose token does not have the role."""

    async def check(caller: Caller) -> None:
        if not allows(caller, role):
            raise ApiError(
                403, f"The token's role is {caller}, this needs {role}.", code="role_too_low"
            )

    return Depends(check)

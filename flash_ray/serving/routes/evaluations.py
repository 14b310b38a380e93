"""Evaluations: a model's score on a bench, asked for once and found again."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from flash_ray.serving.evaluations import ENDS
from flash_ray.serving.http import ApiError
from flash_ray.serving.judging import validate_judge, vlm_of
from flash_ray.serving.routes.images import find_model
from flash_ray.serving.schemas import Evaluation, EvaluationRequest, Evaluations
from flash_ray.serving.service import Served, Service, needs

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@router.post(
    "",
    status_code=202,
    dependencies=[needs("generate")],
    responses={200: {"model": Evaluation, "description": "It was asked for before."}},
)
async def ask(body: EvaluationRequest, service: Served, response: Response) -> Evaluation:
    """Starts an evaluation, or finds the one that was started with the same request."""
    if body.cases > service.settings.limits.cases:
        raise ApiError(
            400, f"cases: {body.cases}; allowed: at most {service.settings.limits.cases}.", "cases"
        )
    validate_judge(body.judge, service.settings)
    vlm = vlm_of(body.judge, service.settings)
    model = await find_model(service, body.model)
    name, to_start = await run_in_threadpool(service.book.open, body, model, vlm)
    if to_start:
        await service.start(name)
    else:
        response.status_code = 200
    return await _view(service, name)


@router.get("", dependencies=[needs("read")])
async def evaluations(
    service: Served,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
) -> Evaluations:
    """Evaluations without their results, the newest first."""
    if after is not None:
        if await run_in_threadpool(service.book.asked, _plain(after)) is None:
            raise ApiError(404, f"after: there is no evaluation {after[:100]!r}.", "after")
    views, more = await run_in_threadpool(service.book.page, limit, after)
    return Evaluations(data=views, has_more=more)


@router.get("/{id}", dependencies=[needs("read")])
async def evaluation(id: str, service: Served) -> Evaluation:
    """An evaluation: its progress, then its scores and answers."""
    return await _view(service, id)


@router.delete("/{id}", dependencies=[needs("admin")])
async def cancel(id: str, service: Served) -> Evaluation:
    """Cancels an evaluation that has not ended; one that has stays as it is."""
    view = await _view(service, id)
    if view.status not in ENDS.values():
        await run_in_threadpool(service.book.finish, id, "cancelled", {})
        await service.cancel(id)
    return await _view(service, id)


@router.get(
    "/{id}/pictures/{case}.png",
    dependencies=[needs("read")],
    responses={200: {"content": {"image/png": {}}}},
    response_class=Response,
)
async def picture(id: str, case: str, service: Served) -> Response:
    """A model's answer to a case."""
    found = await run_in_threadpool(service.book.picture, _plain(id), _plain(case))
    if found is None:
        await _view(service, id)
        raise ApiError(404, f"case: there is no answer to {case[:100]!r} yet.", "case")
    return Response(found, media_type="image/png")


async def _view(service: Service, id: str) -> Evaluation:
    view = await run_in_threadpool(service.book.view, _plain(id))
    if view is None:
        raise ApiError(404, f"id: there is no evaluation {id[:100]!r}.", "id")
    return view


def _plain(text: str) -> str:
    """The text if it can be a part of a key; ApiError 404 if not: nothing has such a name."""
    if not text.replace("-", "").isalnum() or not text.isascii() or len(text) > 100:
        raise ApiError(404, f"There is nothing called {text[:100]!r}.")
    return text

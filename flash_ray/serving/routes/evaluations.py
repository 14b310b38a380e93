"""Evaluations: a model's score on a benchmark, asked for once and found again."""

import re
import time
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from flash_ray.evaluation.inputs import with_pictures
from flash_ray.serving.beside import Finished, lay_beside
from flash_ray.serving.evaluations import ENDS, EvaluationSpec
from flash_ray.serving.http import ApiError
from flash_ray.serving.judges import scale_of, vlm_identity
from flash_ray.serving.routes.benchmarks import find_benchmark, find_judge
from flash_ray.serving.routes.models import find_model
from flash_ray.serving.schemas import Evaluation, EvaluationPair, EvaluationRequest, Evaluations
from flash_ray.serving.service import Served, Service, needs

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@router.post(
    "",
    status_code=202,
    dependencies=[needs("generate")],
    responses={200: {"model": Evaluation, "description": "It was asked for before."}},
)
async def start_evaluation(
    body: EvaluationRequest, service: Served, response: Response
) -> Evaluation:
    """Starts an evaluation, or finds the one that was started with the same request."""
    spec = await _spec(service, body)
    if await run_in_threadpool(service.evaluations.open, spec):
        await service.start(spec.id)
    else:
        response.status_code = 200
    return await _view(service, spec.id)


@router.get("", dependencies=[needs("read")])
async def list_evaluations(
    service: Served,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
) -> Evaluations:
    """Evaluations without their results, the newest first."""
    if after is not None:
        if await run_in_threadpool(service.evaluations.spec, _plain(after)) is None:
            raise ApiError(404, f"after: there is no evaluation {after[:100]!r}.", "after")
    views, has_more = await run_in_threadpool(service.evaluations.page, limit, after)
    return Evaluations(data=views, has_more=has_more)


@router.get("/{id}", dependencies=[needs("read")])
async def read_evaluation(id: str, service: Served) -> Evaluation:
    """An evaluation: its progress, then its scores and answers."""
    return await _view(service, id)


@router.get("/{id}/beside/{other}", dependencies=[needs("read")])
async def read_pair(id: str, other: str, service: Served) -> EvaluationPair:
    """Two finished evaluations side by side, with their difference if they are of equal cases."""
    left, right = await _finished(service, id), await _finished(service, other)
    return await run_in_threadpool(lay_beside, left, right)


@router.delete("/{id}", dependencies=[needs("admin")])
async def cancel_evaluation(id: str, service: Served) -> Evaluation:
    """Cancels an evaluation that has not ended; one that has stays as it is."""
    view = await _view(service, id)
    if view.status not in ENDS.values():
        await run_in_threadpool(service.evaluations.finish, id, "cancelled")
        await service.cancel(id)
    return await _view(service, id)


@router.get(
    "/{id}/pictures/{case}.png",
    dependencies=[needs("read")],
    responses={200: {"content": {"image/png": {}}}},
    response_class=Response,
)
async def read_answer(id: str, case: str, service: Served) -> Response:
    """A model's answer to a case."""
    picture = await run_in_threadpool(service.evaluations.picture, _plain(id), _plain(case))
    if picture is None:
        await _view(service, id)
        raise ApiError(404, f"case: there is no answer to {case[:100]!r} yet.", "case")
    return Response(picture, media_type="image/png")


async def _spec(service: Service, body: EvaluationRequest) -> EvaluationSpec:
    """What decides the evaluation; ApiError if the server cannot do it."""
    benchmark = find_benchmark(service, body.benchmark, body.task)
    most = service.settings.limits.cases
    if body.cases > most:
        raise ApiError(400, f"cases: {body.cases}; allowed: at most {most}.", "cases")
    judge = find_judge(benchmark, body.task, body.judge)
    cases = await run_in_threadpool(benchmark.cases, body.task, body.cases)
    if lacking := len(cases) - len(await run_in_threadpool(with_pictures, cases)):
        problem = f"cases: {lacking} of {len(cases)} edit pictures that are not drawn yet"
        raise ApiError(503, f"{problem}; the operator draws them.", "cases")
    return EvaluationSpec(
        model=await find_model(service, body.model),
        benchmark=benchmark.name,
        digest=benchmark.digest,
        task=body.task,
        cases=body.cases,
        total=len(cases),
        seed=body.seed,
        judge=judge,
        scale=scale_of(judge, service.settings),
        vlm=vlm_identity(judge, service.settings),
        created=int(time.time()),
    )


async def _view(service: Service, id: str) -> Evaluation:
    view = await run_in_threadpool(service.evaluations.view, _plain(id))
    if view is None:
        raise ApiError(404, f"id: there is no evaluation {id[:100]!r}.", "id")
    return view


async def _finished(service: Service, id: str) -> Finished:
    view = await _view(service, id)
    spec = await run_in_threadpool(service.evaluations.spec, id)
    if view.result is None or spec is None:
        problem = f"id: evaluation {id} is {view.status}; allowed: one that has succeeded."
        raise ApiError(400, problem, "id")
    return spec, view.result


def _plain(text: str) -> str:
    """The text if it can be a part of a key; ApiError 404 if not: nothing has such a name."""
    if not PLAIN.fullmatch(text):
        raise ApiError(404, f"There is nothing called {text[:100]!r}.")
    return text

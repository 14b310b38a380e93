"""The benches: their cases, the pictures to edit, and scores of single answers."""

import base64
import binascii
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from flash_ray.evaluation.sample import source_image
from flash_ray.miniature.benchmark import BENCHES, Case, cases
from flash_ray.serving.http import ApiError
from flash_ray.serving.images import open_upload, png
from flash_ray.serving.schemas import (
    Bench,
    BenchCard,
    BenchCards,
    CaseCard,
    CaseCards,
    Score,
    ScoreRequest,
)
from flash_ray.serving.service import Served, needs

router = APIRouter(prefix="/v1", tags=["benches"])


@router.get("/benches", dependencies=[needs("read")])
def benches() -> BenchCards:
    """The benches and their categories."""
    return BenchCards(data=[BenchCard(id=id, categories=list(of)) for id, of in BENCHES.items()])


@router.get("/benches/{bench}/cases", dependencies=[needs("read")])
def bench_cases(
    bench: Bench, service: Served, per_category: Annotated[int, Query(ge=1)] = 1
) -> CaseCards:
    """The first cases of each category."""
    most = service.settings.limits.cases
    if per_category > most:
        raise ApiError(
            400, f"per_category: {per_category}; allowed: at most {most}.", "per_category"
        )
    return CaseCards(data=[_card(case) for case in cases(bench, per_category)])


@router.get(
    "/benches/{bench}/cases/{case}/input.png",
    dependencies=[needs("read")],
    responses={200: {"content": {"image/png": {}}}},
    response_class=Response,
)
def case_input(bench: Bench, case: str, service: Served) -> Response:
    """The picture that a case of the editing bench asks to edit."""
    found = find_case(bench, case, service.settings.limits.cases)
    if found.bench != "edit":
        raise ApiError(404, f"case: {case[:100]!r} has no input; only edits have one.", "case")
    return Response(png(source_image(found)), media_type="image/png")


@router.post("/scores", dependencies=[needs("generate")])
async def score(body: ScoreRequest, service: Served) -> Score:
    """The exact judge's opinion of an answer to a case."""
    await run_in_threadpool(find_case, body.bench, body.case, service.settings.limits.cases)
    try:
        data = base64.b64decode(body.b64_json, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "b64_json: is not base64; send a PNG in base64.", "b64_json") from error
    picture = await run_in_threadpool(open_upload, data, service.settings.limits, "b64_json")
    if picture.size != (64, 64):
        raise ApiError(
            400, f"b64_json: {picture.width}x{picture.height}; the judge reads 64x64.", "b64_json"
        )
    return Score(**await service.judge(body.bench, body.case, png(picture.convert("RGB"))))


@lru_cache(maxsize=2)
def _by_id(bench: str, most: int) -> dict[str, Case]:
    return {case.id: case for case in cases(bench, most)}


def find_case(bench: str, case: str, most: int) -> Case:
    """The case of that id, of the first `most` in its category; ApiError 404 if there is none."""
    found = _by_id(bench, most).get(case)
    if found is None:
        raise ApiError(
            404,
            f"case: {bench} has no {case[:100]!r}; see GET /v1/benches/{bench}/cases.",
            "case",
        )
    return found


def _card(case: Case) -> CaseCard:
    path = f"/v1/benches/{case.bench}/cases/{case.id}/input.png"
    return CaseCard(
        id=case.id,
        category=case.category,
        index=case.index,
        prompt=case.prompt,
        seed=case.seed,
        input=path if case.bench == "edit" else None,
    )

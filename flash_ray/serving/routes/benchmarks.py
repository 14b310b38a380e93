"""The server's benchmarks: their cases, the pictures to edit, and scores of single answers."""

import base64
import binascii
from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.inputs import with_pictures
from flash_ray.recipe.schema import Task
from flash_ray.serving.benchmarks import ServedBenchmark, reference_paths
from flash_ray.serving.http import ApiError
from flash_ray.serving.images import open_upload, png
from flash_ray.serving.schemas import (
    BenchmarkCard,
    BenchmarkCards,
    CaseCard,
    CaseCards,
    Score,
    ScoreRequest,
)
from flash_ray.serving.service import Served, Service, needs

router = APIRouter(prefix="/v1", tags=["benchmarks"])


@router.get("/benchmarks", dependencies=[needs("read")])
def list_benchmarks(service: Served) -> BenchmarkCards:
    """What the server scores models on, with categories and judges; none if it scores nothing."""
    return BenchmarkCards(
        data=[
            BenchmarkCard(
                id=benchmark.name,
                tasks={task: list(names) for task, names in benchmark.categories.items()},
                judges={task: list(names) for task, names in benchmark.judges.items()},
                digest=benchmark.digest,
            )
            for benchmark in service.benchmarks.values()
        ]
    )


@router.get("/benchmarks/{benchmark}/{task}/cases", dependencies=[needs("read")])
def list_cases(
    benchmark: str,
    task: Task,
    service: Served,
    per_category: Annotated[int, Query(ge=1)] = 1,
) -> CaseCards:
    """The first cases of each category of a task, but for edits of pictures that are not drawn."""
    served = find_benchmark(service, benchmark, task)
    most = service.settings.limits.cases
    if per_category > most:
        raise ApiError(
            400, f"per_category: {per_category}; allowed: at most {most}.", "per_category"
        )
    cases = with_pictures(served.cases(task, per_category))
    return CaseCards(data=[_card(served, case) for case in cases])


@router.get(
    "/benchmarks/{benchmark}/{task}/cases/{case}/input.png",
    dependencies=[needs("read")],
    responses={200: {"content": {"image/png": {}}}},
    response_class=Response,
)
def read_reference(
    benchmark: str,
    task: Task,
    case: str,
    service: Served,
    number: Annotated[int, Query(ge=1, description="Which of several pictures.")] = 1,
) -> Response:
    """A picture that a case asks to edit."""
    references = find_case(find_benchmark(service, benchmark, task), task, case).references
    if number > len(references):
        problem = (
            f"case: {case[:100]!r} has {len(references)} pictures to edit, no number {number}."
        )
        raise ApiError(404, problem, "case")
    return Response(png(references[number - 1]), media_type="image/png")


@router.post("/scores", dependencies=[needs("generate")])
async def score(body: ScoreRequest, service: Served) -> Score:
    """What a judge says of an answer to a case: the first of the benchmark and task."""
    benchmark = find_benchmark(service, body.benchmark, body.task)
    find_judge(benchmark, body.task, None)
    case = await run_in_threadpool(find_case, benchmark, body.task, body.case)
    try:
        data = base64.b64decode(body.b64_json, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "b64_json: is not base64; send a PNG in base64.", "b64_json") from error
    height, width = case.size
    picture = await open_upload(BytesIO(data), service.settings.limits, None, "b64_json")
    if picture.size != (width, height):
        raise ApiError(
            400,
            f"b64_json: {picture.width}x{picture.height}; allowed: {width}x{height}, the case's.",
            "b64_json",
        )
    judged = await service.judge(benchmark.name, body.task, body.case, png(picture.convert("RGB")))
    return Score(**judged.model_dump())


def find_benchmark(service: Service, name: str | None, task: Task) -> ServedBenchmark:
    """The benchmark of that name, if it has the task; else ApiError 404 or 400.

    Args:
        name: None for the only one that the server has.
    """
    benchmarks = service.benchmarks
    known = ", ".join(benchmarks)
    if not benchmarks:
        raise ApiError(
            404,
            "benchmark: this server scores nothing; serve a recipe with evaluation.benchmark, or "
            "with the setting benchmarks.",
            "benchmark",
            "benchmark_not_found",
        )
    if name is None and len(benchmarks) > 1:
        raise ApiError(
            400,
            f"benchmark: missing; allowed: {known}.",
            "benchmark",
            "missing_required_parameter",
        )
    served = next(iter(benchmarks.values())) if name is None else benchmarks.get(name)
    if served is None:
        raise ApiError(
            404,
            f"benchmark: there is no {str(name)[:100]!r}; allowed: {known}.",
            "benchmark",
            "benchmark_not_found",
        )
    if task not in served.categories:
        allowed = ", ".join(served.categories)
        raise ApiError(400, f"task: {served.name} has no {task}; allowed: {allowed}.", "task")
    return served


def find_judge(benchmark: ServedBenchmark, task: Task, name: str | None) -> str:
    """The judge of that name, if it judges such cases here; else ApiError 400.

    Args:
        name: None for the first that does.
    """
    judges = benchmark.judges[task]
    if not judges:
        judged = ", ".join(task for task, able in benchmark.judges.items() if able)
        problem = f"task: no judge here can judge the {task} cases of {benchmark.name}"
        raise ApiError(400, f"{problem}; allowed: {judged or 'none of its tasks'}.", "task")
    if name is not None and name not in judges:
        problem = f"judge: {name[:100]!r} judges no {task} cases of {benchmark.name} here"
        raise ApiError(400, f"{problem}; allowed: {', '.join(judges)}.", "judge")
    return judges[0] if name is None else name


def find_case(benchmark: ServedBenchmark, task: Task, id: str) -> Case:
    """The case of that id; ApiError 404 if there is none, or its picture to edit is not drawn."""
    case = benchmark.case(task, id)
    if case is None:
        cases = f"/v1/benchmarks/{benchmark.name}/{task}/cases"
        raise ApiError(404, f"case: {task} has no {id[:100]!r}; see GET {cases}.", "case")
    if not with_pictures([case]):
        raise ApiError(404, f"case: the picture that {id} edits is not drawn yet.", "case")
    return case


def _card(benchmark: ServedBenchmark, case: Case) -> CaseCard:
    height, width = case.size
    return CaseCard(
        id=case.id,
        category=case.category,
        prompt=case.prompt,
        size=f"{width}x{height}",
        seed=case.seed,
        references=reference_paths(benchmark.name, case),
    )

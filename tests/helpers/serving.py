"""Shared by the tests of the endpoints: the application in one process, and what asks it."""

import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.benchmarks import checked_benchmarks, with_published
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.evaluator import CaseJudge, evaluate
from flash_ray.serving.gateway import build_api
from flash_ray.serving.generator import GenerationRequest, GenerationResult, Generator
from flash_ray.serving.links import Links
from flash_ray.serving.registry import ModelRegistry
from flash_ray.serving.service import Service
from flash_ray.serving.settings import MIB, Limits, Serving
from flash_ray.serving.tokens import Token
from flash_ray.storage.s3 import Store

HERE = "http://127.0.0.1:8000"
BENCHMARK = "/v1/benchmarks/miniature"
SETTINGS = Serving(limits=Limits(n=3, prompt=200, steps=20, image_bytes=100_000, images=2, cases=2))


def client_of(service: Service) -> TestClient:
    """A client of the application in this process, at an address that is asked without tokens."""
    return TestClient(build_api(service), base_url=HERE)


@contextmanager
def over_http(service: Service) -> Iterator[str]:
    """The address of the application while it is served from a thread of this process."""
    config = uvicorn.Config(build_api(service), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server has ended"
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def write_signs(folder: Path) -> Path:
    """A file of cases of another size than the recipe's, with edits that only a VLM could judge."""
    Image.new("RGB", (96, 64), "gray").save(folder / "wall.png")
    rows = [
        {"id": "open", "prompt": 'A sign "OPEN"', "category": "wood", "text": "OPEN"},
        {"id": "exit", "prompt": 'A sign "EXIT"', "category": "wood", "text": "EXIT"},
        {"id": "red", "prompt": "Make it red", "category": "color", "image": "wall.png"},
    ]
    lines = (json.dumps({**row, "size": [64, 96]}) for row in rows)
    (folder / "signs.jsonl").write_text("\n".join(lines))
    return folder / "signs.jsonl"


def in_process(
    recipe: Recipe, store: Store, settings: Serving, tokens: Sequence[Token] = ()
) -> Service:
    """The application's parts in this process: what Ray Serve does is left out."""
    generator = Generator(recipe, store, settings)
    named = checked_benchmarks(recipe, settings)
    benchmarks = with_published(named, recipe, settings, store, print)

    async def generate(deployment: str, request: GenerationRequest) -> GenerationResult:
        return await generator.generate(request)

    async def stream(
        deployment: str, request: GenerationRequest
    ) -> AsyncIterator[bytes | GenerationResult]:
        async for part in generator.stream(request):
            yield part

    async def judge(benchmark: str, task: Task, case: str, picture: bytes) -> CaseScore:
        return CaseJudge(benchmarks, settings, store)(benchmark, task, case, picture)

    async def start(id: str) -> None:
        evaluate(id, recipe, store, settings, benchmarks)

    async def cancel(id: str) -> None:
        pass

    return Service(
        recipe=recipe,
        settings=settings,
        tokens=tokens,
        registry=ModelRegistry(recipe, store, benchmarks, max_age=0.0),
        benchmarks=benchmarks,
        evaluations=EvaluationStore(store),
        links=Links(settings.link_s, settings.links_mib * MIB),
        draws_alpha=True,
        generate=generate,
        stream=stream,
        judge=judge,
        start=start,
        cancel=cancel,
    )


def draw(client: TestClient, **fields: Any) -> Any:
    """The answer to a generation."""
    body = {"model": "plain", "prompt": "A red circle", "seed": 3, **fields}
    return client.post("/v1/images/generations", json=body)


def edit(client: TestClient, data: bytes, **fields: Any) -> Any:
    """The answer to an edit of an upload."""
    body = {"model": "plain", "prompt": "Make it blue", **fields}
    return client.post("/v1/images/edits", data=body, files={"image": ("in", data)})


def error(answer: Any, status: int, param: str | None, *words: str) -> None:
    """Asserts that it is an error in OpenAI's shape, of that status and parameter."""
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["param"] == param and body["code"]
    for word in words:
        assert word in body["message"]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(b64_json: str) -> np.ndarray:
    """A picture of an answer, uint8 (H, W, C)."""
    return np.asarray(Image.open(BytesIO(base64.b64decode(b64_json))))

"""OpenAI's Images API: pictures from prompts, and edits of pictures."""

import base64
import secrets
import time
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from starlette.concurrency import run_in_threadpool

from flash_ray.serving.engine import Prompt
from flash_ray.serving.generator import GenerationRequest
from flash_ray.serving.http import ApiError
from flash_ray.serving.images import open_upload, png
from flash_ray.serving.routes.models import find_model
from flash_ray.serving.schemas import SIZE, Generation, ImageData, Images
from flash_ray.serving.service import SIDE, Served, Service, needs

router = APIRouter(prefix="/v1/images", tags=["images"], dependencies=[needs("generate")])


@router.post("/generations")
async def generate(body: Generation, service: Served) -> Images:
    """Draws pictures from a prompt."""
    return await _generate(service, "generate", await _request(service, body, []))


@router.post("/edits")
async def edit(
    service: Served,
    model: Annotated[str, Form(examples=["teacher"])],
    prompt: Annotated[str, Form(min_length=1, examples=["Make the sky red"])],
    image: Annotated[list[UploadFile] | None, File(description="PNG, JPEG or WebP.")] = None,
    images: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    mask: Annotated[UploadFile | None, File(description="An error.")] = None,
    n: Annotated[int, Form(ge=1)] = 1,
    size: Annotated[str, Form(pattern=SIZE)] = "auto",
    seed: Annotated[int | None, Form(ge=0, lt=2**53)] = None,
    steps: Annotated[int | None, Form(ge=1)] = None,
    response_format: Annotated[str, Form(pattern="^b64_json$")] = "b64_json",
    user: Annotated[str | None, Form(max_length=1000, description="Of no effect.")] = None,
) -> Images:
    """Edits one picture or several by an instruction."""
    if mask is not None:
        raise ApiError(
            400,
            "mask: these models edit by instruction alone; say in the prompt what to change.",
            "mask",
            "mask_unsupported",
        )
    uploads = [*(image or []), *(images or [])]
    if not 1 <= len(uploads) <= service.settings.limits.images:
        raise ApiError(
            400,
            f"image: {len(uploads)} pictures; allowed: 1 to {service.settings.limits.images}.",
            "image",
        )
    body = Generation(model=model, prompt=prompt, n=n, size=size, seed=seed, steps=steps)
    data = [await upload.read() for upload in uploads]
    return await _generate(service, "edit", await _request(service, body, data))


async def _request(service: Service, body: Generation, uploads: list[bytes]) -> GenerationRequest:
    """Checks a request. Raises ApiError for what is not allowed."""
    limits = service.settings.limits
    model = await find_model(service, body.model)
    too_much = (
        ("prompt", len(body.prompt), limits.prompt, "characters"),
        ("n", body.n, limits.n, "pictures"),
        ("steps", body.steps or 1, limits.steps, "steps"),
    )
    for field, value, most, unit in too_much:
        if value > most:
            raise ApiError(400, f"{field}: {value} {unit}; allowed: at most {most}.", field)
    if not body.prompt.isprintable() and not body.prompt.replace("\n", " ").isprintable():
        raise ApiError(400, "prompt: holds control characters; send plain text.", "prompt")
    size = _size(service, body.size)
    pictures = [await run_in_threadpool(open_upload, data, limits) for data in uploads]
    files = tuple([await run_in_threadpool(png, picture) for picture in pictures])
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    return GenerationRequest(
        model=model,
        prompt=Prompt(body.prompt, files, size),
        shapes=tuple(picture.size for picture in pictures),
        seeds=tuple(seed + number for number in range(body.n)),
        steps=body.steps,
    )


def _size(service: Service, text: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT"; the recipe's for "auto"."""
    if text == "auto":
        return service.recipe.data.resolution
    width, height = map(int, text.split("x"))
    most = service.most_pixels
    if width % SIDE or height % SIDE or width * height > most:
        raise ApiError(
            400,
            f"size: {text}; allowed: WIDTHxHEIGHT, multiples of {SIDE}, at most {most} pixels.",
            "size",
        )
    return height, width


async def _generate(service: Service, deployment: str, request: GenerationRequest) -> Images:
    result = await service.generate(deployment, request)
    return Images(
        created=int(time.time()),
        data=[
            ImageData(b64_json=base64.b64encode(picture).decode(), seed=seed)
            for picture, seed in zip(result.pictures, request.seeds, strict=True)
        ],
        timings={stage: round(value, 4) for stage, value in result.seconds.items()},
    )

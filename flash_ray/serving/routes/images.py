"""OpenAI's Images API: pictures from prompts, and edits of pictures."""

import base64
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from flash_ray.serving.engine import Prompt
from flash_ray.serving.generator import GenerationRequest, GenerationResult, PictureFile
from flash_ray.serving.http import ApiError
from flash_ray.serving.images import open_upload, png
from flash_ray.serving.routes.models import find_model
from flash_ray.serving.schemas import (
    CompletedImage,
    Edit,
    Generation,
    ImageData,
    Images,
    PartialImage,
    TokenDetails,
    Usage,
)
from flash_ray.serving.service import Served, Service, needs
from flash_ray.serving.sizes import edited_size, parse_size

logger = logging.getLogger("ray.serve")

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not tab and line ends
STREAM: dict[str, Any] = {
    "description": "With `stream`: server-sent events, partial pictures and the completed one.",
    "content": {"text/event-stream": {}},
}

router = APIRouter(prefix="/v1/images", tags=["images"], dependencies=[needs("generate")])


@router.post(
    "/generations", response_model=Images, response_model_exclude_none=True, responses={200: STREAM}
)
async def generate(body: Generation, service: Served, request: Request) -> Any:
    """Draws pictures from a prompt."""
    return await _answer(service, request, "generate", body, await _asked(service, body, []))


@router.post(
    "/edits", response_model=Images, response_model_exclude_none=True, responses={200: STREAM}
)
async def edit(body: Annotated[Edit, Form()], service: Served, request: Request) -> Any:
    """Edits one picture or several by an instruction."""
    if body.mask is not None:
        raise ApiError(
            400,
            "mask: these models edit by instruction alone; say in the prompt what to change.",
            "mask",
            "mask_unsupported",
        )
    uploads = [*body.image, *body.images]
    if not 1 <= len(uploads) <= service.settings.limits.images:
        raise ApiError(
            400,
            f"image: {len(uploads)} pictures; allowed: 1 to {service.settings.limits.images}.",
            "image",
        )
    return await _answer(service, request, "edit", body, await _asked(service, body, uploads))


async def _asked(
    service: Service, body: Generation, uploads: Sequence[UploadFile]
) -> GenerationRequest:
    """Checks a request. Raises ApiError for what is not allowed."""
    model = await find_model(service, body.model or service.settings.default_model)
    steps = _validate(service, body)
    pixels = service.recipe.data.resolution
    size = pixels if body.size == "auto" else parse_size(body.size, service.most_pixels)
    area = size[0] * size[1]
    pictures = [await open_upload(one.file, service.settings.limits, area) for one in uploads]
    if pictures and body.size == "auto":
        first = pictures[0]
        size = edited_size((first.height, first.width), pixels)
    files = tuple([await run_in_threadpool(png, picture) for picture in pictures])
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    return GenerationRequest(
        model=model,
        prompt=Prompt(body.prompt, files, size),
        shapes=tuple(picture.size for picture in pictures),
        seeds=tuple(seed + number for number in range(body.n)),
        steps=steps,
        file=PictureFile(
            body.output_format, body.output_compression, body.background == "transparent"
        ),
        partial_images=body.partial_images,
    )


def _validate(service: Service, body: Generation) -> int | None:
    """The steps that a request asks for. Raises ApiError for what is not allowed."""
    limits = service.settings.limits
    steps = body.num_inference_steps if body.steps is None else body.steps
    too_much = (
        ("prompt", len(body.prompt), limits.prompt, "characters"),
        ("n", body.n, limits.n, "pictures"),
        ("steps", steps or 1, limits.steps, "steps"),
    )
    for field, value, most, unit in too_much:
        if value > most:
            raise ApiError(400, f"{field}: {value} {unit}; allowed: at most {most}.", field)
    packed, transparent = body.output_compression not in (None, 100), body.background
    png_or_webp = body.output_format in ("png", "webp")
    problems = (
        (
            "num_inference_steps",
            body.num_inference_steps not in (None, steps),
            "other than steps; allowed: one of them",
        ),
        (
            "prompt",
            CONTROL.search(body.prompt),
            "holds control characters; allowed: text, tabs and line ends",
        ),
        (
            "output_compression",
            packed and body.output_format == "png",
            "a PNG loses nothing; allowed: 100, or output_format jpeg or webp",
        ),
        (
            "background",
            transparent == "transparent" and not service.draws_alpha,
            "this server's models draw no transparency; allowed: auto, opaque",
        ),
        (
            "background",
            transparent == "transparent" and not png_or_webp,
            "a JPEG is opaque; allowed: output_format png or webp with transparent",
        ),
        ("n", body.stream and body.n > 1, "a stream is of one picture; allowed: 1"),
        (
            "response_format",
            body.stream and body.response_format == "url",
            "a stream has no links; allowed: b64_json",
        ),
        (
            "partial_images",
            body.partial_images and not body.stream,
            "only a stream has them; allowed: 0, or stream=true",
        ),
    )
    for field, wrong, says in problems:
        if wrong:
            raise ApiError(400, f"{field}: {says}.", field)
    return steps


async def _answer(
    service: Service, request: Request, deployment: str, body: Generation, asked: GenerationRequest
) -> Images | StreamingResponse:
    if body.stream:
        parts = service.stream(deployment, asked)
        first = await anext(parts)  # what is refused is refused before the answer begins
        return StreamingResponse(
            _events(deployment, asked, first, parts), media_type="text/event-stream"
        )
    result = await service.generate(deployment, asked)
    is_link = body.response_format == "url"
    data = [
        ImageData(
            seed=seed,
            url=_link(service, request, picture, asked) if is_link else None,
            b64_json=None if is_link else _base64(picture),
        )
        for picture, seed in zip(result.pictures, asked.seeds, strict=True)
    ]
    return Images(
        created=int(time.time()),
        data=data,
        **_told(asked),
        usage=_usage(result),
        timings={stage: round(value, 4) for stage, value in result.seconds.items()},
    )


async def _events(
    deployment: str,
    asked: GenerationRequest,
    first: bytes | GenerationResult,
    parts: AsyncIterator[bytes | GenerationResult],
) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's: partial pictures, then the completed one."""
    kind: Any = "image_generation" if deployment == "generate" else "image_edit"
    told, index, part = _told(asked), 0, first
    try:
        while not isinstance(part, GenerationResult):
            yield _event(
                PartialImage(
                    type=f"{kind}.partial_image",
                    b64_json=_base64(part),
                    created_at=int(time.time()),
                    partial_image_index=index,
                    **told,
                )
            )
            index, part = index + 1, await anext(parts)
    except Exception:  # of any kind; the answer has begun, so it is told as an event
        logger.exception("a stream failed")
        error = {"message": "The server failed; its log knows why.", "type": "server_error"}
        yield f"event: error\ndata: {json.dumps({'error': error})}\n\n"
        return
    yield _event(
        CompletedImage(
            type=f"{kind}.completed",
            b64_json=_base64(part.pictures[0]),
            created_at=int(time.time()),
            seed=asked.seeds[0],
            usage=_usage(part),
            **told,
        )
    )


def _event(event: PartialImage | CompletedImage) -> str:
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"


def _told(asked: GenerationRequest) -> dict[str, Any]:
    height, width = asked.prompt.size
    return {
        "size": f"{width}x{height}",
        "output_format": asked.file.kind,
        "background": "transparent" if asked.file.transparent else "opaque",
    }


def _usage(result: GenerationResult) -> Usage:
    given = result.text_tokens + result.image_tokens
    return Usage(
        total_tokens=given + result.output_tokens,
        input_tokens=given,
        output_tokens=result.output_tokens,
        input_tokens_details=TokenDetails(
            text_tokens=result.text_tokens, image_tokens=result.image_tokens
        ),
    )


def _link(service: Service, request: Request, picture: bytes, asked: GenerationRequest) -> str:
    name = service.links.add(picture, asked.file.kind)
    return f"{request.base_url}pictures/{name}"


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()

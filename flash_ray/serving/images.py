"""Pictures from and to the network: one at a time is decoded, to the size that is needed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from flash_ray.data.pictures import BadPicture, upright_rgb
from flash_ray.serving.http import ApiError
from flash_ray.serving.settings import Limits
from flash_ray.serving.sizes import validate_reference

FORMATS = ("PNG", "JPEG", "WEBP")
OVERSAMPLED = 4  # pixels that are kept of an upload for each that the model takes
# One thread for all uploads of this process: each thread would keep the memory that it freed.
_decoder = ThreadPoolExecutor(1, "decode")


def png(picture: np.ndarray | Image.Image) -> bytes:
    """Encodes a picture, or uint8 RGB or RGBA (H, W, C), as PNG."""
    return encode(picture, "png")


def encode(
    picture: np.ndarray | Image.Image,
    kind: Literal["png", "jpeg", "webp"],
    quality: int | None = None,
) -> bytes:
    """Encodes a picture, or uint8 RGB or RGBA (H, W, C).

    Args:
        quality: of a JPEG or a WebP, 0 to 100; None: 100.
    """
    buffer = BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    options = {} if kind == "png" else {"quality": 100 if quality is None else quality}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


async def open_upload(
    file: BinaryIO, limits: Limits, area: int | None = None, field: str = "image"
) -> Image.Image:
    """Decodes an uploaded picture as RGB or RGBA, upright; other uploads wait for it.

    Args:
        file: it is read here, so that of pictures that wait no copy is in memory.
        area: pixels that the model takes; a picture of more than `OVERSAMPLED` times as many is
            shrunk. None: it stays as it is.

    Raises:
        ApiError: 400; it is too large or elongated, of another format than PNG, JPEG or WebP, or
            broken.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_decoder, _open, file, limits, area, field)


def _open(file: BinaryIO, limits: Limits, area: int | None, field: str) -> Image.Image:
    data = file.read(limits.image_bytes + 1)
    if len(data) > limits.image_bytes:
        raise ApiError(
            400, f"{field}: too many bytes; allowed: at most {limits.image_bytes}.", field
        )
    try:
        opened = Image.open(BytesIO(data), formats=FORMATS)
        # The header tells the size before anything is decoded.
        if area is not None:
            validate_reference((opened.height, opened.width))
        pixels = opened.width * opened.height
        if pixels > limits.image_pixels:
            raise Image.DecompressionBombError
        # A JPEG is decoded at an eighth of its sides if that will do.
        opened.draft(None, _kept(opened.size, area))
        picture = upright_rgb(opened)
        picture.thumbnail(_kept(picture.size, area), Image.Resampling.LANCZOS)
        return picture
    except ApiError:
        raise
    except Image.DecompressionBombError as error:
        raise ApiError(
            400, f"{field}: too many pixels; allowed: at most {limits.image_pixels}.", field
        ) from error
    except BadPicture as error:
        raise ApiError(400, f"{field}: {error}; send 8 or 16 bits a channel.", field) from error
    except Exception as error:  # of many kinds: Pillow knows many ways to be broken
        raise ApiError(
            400,
            f"{field}: cannot be read as a picture; send a whole PNG, JPEG or WebP file.",
            field,
        ) from error


def _kept(size: tuple[int, int], area: int | None) -> tuple[int, int]:
    """The size at which a picture is kept, in its aspect ratio."""
    width, height = size
    side = 1.0 if area is None else min(1.0, (OVERSAMPLED * area / (width * height)) ** 0.5)
    return max(1, round(width * side)), max(1, round(height * side))

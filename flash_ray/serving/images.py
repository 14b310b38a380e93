"""Pictures from and to the network: only small, whole pictures are decoded."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from flash_ray.serving.http import ApiError
from flash_ray.serving.settings import Limits

FORMATS = ("PNG", "JPEG", "WEBP")


def png(picture: np.ndarray | Image.Image) -> bytes:
    """Encodes a picture, or uint8 RGB (H, W, 3), as PNG."""
    buffer = BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def open_upload(data: bytes, limits: Limits, field: str = "image") -> Image.Image:
    """Decodes an uploaded picture as RGB or RGBA.

    Raises:
        ApiError: 400; it is too large, of another format than PNG, JPEG or WebP, or broken.
    """
    if len(data) > limits.image_bytes:
        raise ApiError(
            400, f"{field}: {len(data)} bytes; allowed: at most {limits.image_bytes}.", field
        )
    try:
        picture: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
        # The header tells the size before anything is decoded.
        if picture.width * picture.height > limits.image_pixels:
            raise Image.DecompressionBombError
        picture = ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError as error:
        raise ApiError(
            400, f"{field}: too many pixels; allowed: at most {limits.image_pixels}.", field
        ) from error
    except Exception as error:  # of many kinds: Pillow knows many ways to be broken
        raise ApiError(
            400,
            f"{field}: cannot be read as a picture; send a whole PNG, JPEG or WebP file.",
            field,
        ) from error
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")

"""Pictures from and to the network: what is not a small, whole picture is refused undecoded."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from flash_ray.errors import UserError
from flash_ray.serving.settings import Limits

FORMATS = ("PNG", "JPEG", "WEBP")


def png(picture: np.ndarray | Image.Image) -> bytes:
    """A picture, or uint8 RGB (H, W, 3), as PNG."""
    buffer = BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def open_upload(data: bytes, limits: Limits, field: str = "image") -> Image.Image:
    """An uploaded picture, decoded, as RGB or RGBA.

    Raises:
        UserError: it is too large, of another format than PNG, JPEG or WebP, or broken.
    """
    if len(data) > limits.image_bytes:
        raise UserError(f"{field}: more than {limits.image_bytes} bytes; send a smaller picture")
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
        # The header tells the size before anything is decoded.
        if picture.width * picture.height > limits.image_pixels:
            raise Image.DecompressionBombError
        picture = ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{field}: too many pixels; allowed: {limits.image_pixels}; send a smaller picture"
        ) from error
    except Exception as error:  # of many kinds: Pillow knows many ways to be broken
        raise UserError(
            f"{field}: cannot be read as a picture; send a whole PNG, JPEG or WebP file"
        ) from error
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")

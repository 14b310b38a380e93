"""From an encoded picture to 8-bit RGB or RGBA, upright: one way for rows and uploads."""

import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flash_ray.recipe.sizes import aspect_problem

SMALLEST, LARGEST = 16, 16_384  # pixels of a side
MOST_PIXELS = Image.MAX_IMAGE_PIXELS * 2 if Image.MAX_IMAGE_PIXELS else 178_956_970
_DEEP = ("I", "F")  # and I;16 in each order of bytes: Pillow's own conversion clips them to white


class BadPicture(ValueError):
    """The picture cannot be used; the message says why, in a few words, without its numbers.

    Args:
        detail: what is true of this one picture alone.
    """

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail


def decode_picture(data: bytes) -> Image.Image:
    """The picture, decoded whole, as `upright_rgb` gives it.

    Raises:
        BadPicture: it cannot be decoded, or it is beyond the limits of sides and pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits are ours
            with Image.open(io.BytesIO(data)) as opened:
                if not all(SMALLEST <= side <= LARGEST for side in opened.size):
                    raise BadPicture(
                        f"a picture with a side outside {SMALLEST} to {LARGEST} pixels",
                        f"{opened.width}x{opened.height}",
                    )
                if problem := aspect_problem((opened.height, opened.width)):
                    raise BadPicture("a picture that is too long for its width", problem)
                return upright_rgb(opened)
    except Image.DecompressionBombError as error:
        raise BadPicture(f"a picture above the limit of {MOST_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise BadPicture("broken picture", "of no format that is known") from error
    except BadPicture:
        raise
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:  # PIL's decoders
        raise BadPicture("broken picture", " ".join(str(error).split())[:60]) from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as RGB, or RGBA if it may be clear somewhere, turned as its EXIF says.

    Gray of 16 bits is scaled to 8, and so are integers from 0 to 65535 and floats from 0 to 1.

    Raises:
        BadPicture: its numbers are outside those ranges.
    """
    if picture.mode in _DEEP or picture.mode.startswith("I;"):
        converted = _shallow(picture)
    else:
        converted = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    converted.info.update({k: v for k, v in picture.info.items() if "exif" in str(k).lower()})
    return ImageOps.exif_transpose(converted)


def _shallow(picture: Image.Image) -> Image.Image:
    """8-bit gray as RGB, or RGBA where one gray is declared to be clear."""
    values = np.asarray(picture)
    most = 1.0 if picture.mode == "F" else 65_535
    if not (values.min() >= 0 and values.max() <= most):  # also where there is a NaN
        raise BadPicture(f"a picture of {picture.mode} numbers outside 0 to {most:g}")
    gray = Image.fromarray(np.round(values.astype(np.float64) / most * 255).astype(np.uint8))
    clear = picture.info.get("transparency")
    if not isinstance(clear, int):
        return gray.convert("RGB")
    rgba = gray.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return rgba

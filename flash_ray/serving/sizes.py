"""Which sizes are drawn and taken: multiples of the model's grid, bounded aspect ratios."""

from flash_ray.data.source import Size, bucket_of
from flash_ray.models.base import PIXELS_PER_TOKEN
from flash_ray.serving.http import ApiError

STEP = 2 * PIXELS_PER_TOKEN  # widths and heights are multiples of it
ASPECT = 8  # the most times that a picture may be longer than it is wide


def parse_size(text: str, most_pixels: int) -> Size:
    """(height, width) of "WIDTHxHEIGHT".

    Raises:
        ApiError: 400; it is not drawn.
    """
    width, height = map(int, text.split("x"))
    if (
        width % STEP
        or height % STEP
        or width * height > most_pixels
        or _ratio(width, height) > ASPECT
    ):
        raise ApiError(
            400,
            f"size: {text}; allowed: WIDTHxHEIGHT, multiples of {STEP}, at most {most_pixels} "
            f"pixels, one side at most {ASPECT} times the other.",
            "size",
        )
    return height, width


def edited_size(width: int, height: int, area: Size) -> Size:
    """(height, width) of an edit that is asked for at no size: the first picture's shape, as in
    training.

    Args:
        area: (height, width) of the recipe's pictures, whose area it has.
    """
    return bucket_of((height, width), area)


def validate_reference(width: int, height: int, area: int) -> None:
    """Checks that the model can take a picture of that shape, at `area` pixels.

    Raises:
        ApiError: 400; it is too elongated.
    """
    most = min(ASPECT, area / (0.51 * STEP) ** 2)  # else the shorter side is nothing
    if _ratio(width, height) > most:
        raise ApiError(
            400,
            f"image: {width}x{height}; allowed: one side at most {most:.2g} times the other; cut "
            "the picture.",
            "image",
        )


def _ratio(width: int, height: int) -> float:
    return max(width, height) / min(width, height)

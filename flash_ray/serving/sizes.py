"""Which sizes the endpoints draw and take: by the rule that training has too."""

from flash_ray.data.source import Size, bucket_of
from flash_ray.recipe.sizes import MAX_ASPECT, MULTIPLE, aspect_problem, nearest_size
from flash_ray.serving.http import ApiError


def parse_size(text: str, most_pixels: int) -> Size:
    """(height, width) of "WIDTHxHEIGHT".

    Raises:
        ApiError: 400; it is not drawn.
    """
    width, height = map(int, text.split("x"))
    if nearest_size((height, width)) != (height, width) or width * height > most_pixels:
        raise ApiError(
            400,
            f"size: {text}; allowed: WIDTHxHEIGHT, multiples of {MULTIPLE}, at most {most_pixels} "
            f"pixels, one side at most {MAX_ASPECT} times the other.",
            "size",
        )
    return height, width


def edited_size(first_picture: Size, area: Size) -> Size:
    """(height, width) of an edit that is asked for at no size: the first picture's shape, as in
    training.

    Args:
        first_picture: its (height, width).
        area: (height, width) of the recipe's pictures, whose area it has.
    """
    return bucket_of(first_picture, area)


def validate_reference(size: Size) -> None:
    """Checks that the model can take a picture of that (height, width).

    Raises:
        ApiError: 400; it is too elongated.
    """
    if aspect_problem(size):
        height, width = size
        raise ApiError(
            400,
            f"image: {width}x{height}; allowed: one side at most {MAX_ASPECT} times the other; cut "
            "the picture.",
            "image",
        )

"""The one rule of pictures' sizes: what a model can draw, and what an edit's answer is like.

Latents have a token for 16x16 pixels and the text encoder one for 32x32, so sides are multiples of
32. A picture is at most 8 times as long as it is wide: beyond that a side would round to nothing.
"""

MULTIPLE = 32  # pixels
MAX_ASPECT = 8
LARGEST = 4096  # pixels of a side
Size = tuple[int, int]  # (height, width) in pixels
ALLOWED = f"multiples of {MULTIPLE} from {MULTIPLE} to {LARGEST}, at most {MAX_ASPECT}:1"


def size_problem(size: Size) -> str | None:
    """What is wrong with a size to be drawn, and the nearest allowed one; None: nothing."""
    if nearest_size(size) == size:
        return None
    height, width = nearest_size(size)
    return f"{size[0]}x{size[1]} (height x width); allowed: {ALLOWED}; nearest: {height}x{width}"


def aspect_problem(size: Size) -> str | None:
    """What is wrong with the shape of a picture to be edited, whatever its size; None: nothing."""
    if max(size) <= MAX_ASPECT * min(size):
        return None
    return f"{size[0]}x{size[1]} (height x width); allowed: at most {MAX_ASPECT}:1; crop it"


def nearest_size(size: Size) -> Size:
    """The nearest size that is allowed; a side that is too short for the other grows."""
    height, width = (_rounded(min(side, LARGEST)) for side in size)
    shortest = -(-max(height, width) // (MAX_ASPECT * MULTIPLE)) * MULTIPLE
    return max(height, shortest), max(width, shortest)


def follow_aspect(size: Size, area: Size) -> Size:
    """The size of about the area of `area`, in the aspect ratio of a picture of `size`: that of an
    edit's answer, from its first picture."""
    pixels, (height, width) = area[0] * area[1], size
    aspect = min(MAX_ASPECT, max(1 / MAX_ASPECT, width / height))
    longest = (pixels * aspect) ** 0.5
    return nearest_size((_rounded(longest / aspect), _rounded(longest)))


def _rounded(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)

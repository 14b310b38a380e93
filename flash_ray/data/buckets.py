"""Aspect-ratio buckets: pictures of any size become pictures of a few shapes of one area."""

from collections.abc import Sequence
from math import log

from PIL import Image, ImageOps

RATIOS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16), (2, 1), (1, 2))  # width:height
MULTIPLE = 32  # pixels; what the model's token grid asks of a side

Size = tuple[int, int]  # (height, width) in pixels


def buckets(area: Size) -> tuple[Size, ...]:
    """The shapes of about the area of `area`, sides multiples of 32; the first one is square."""
    pixels = area[0] * area[1]
    shapes = [
        (_rounded((pixels * h / w) ** 0.5), _rounded((pixels * w / h) ** 0.5)) for w, h in RATIOS
    ]
    return tuple(dict.fromkeys(shapes))


def bucket_of(size: Size, area: Size) -> Size:
    """The bucket whose aspect ratio is nearest to that of `size`, on a logarithmic scale."""
    ratio = log(size[1] / size[0])
    return min(buckets(area), key=lambda shape: abs(log(shape[1] / shape[0]) - ratio))


def case_buckets(sizes: Sequence[Size], area: Size) -> tuple[Size, ...]:
    """The bucket of each of a case's pictures; the output has that of the first."""
    return tuple(bucket_of(size, area) for size in sizes)


def fill(picture: Image.Image, bucket: Size) -> Image.Image:
    """The middle of the picture, scaled to cover the bucket: nothing is stretched."""
    return ImageOps.fit(picture, (bucket[1], bucket[0]), Image.Resampling.LANCZOS)


def _rounded(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)

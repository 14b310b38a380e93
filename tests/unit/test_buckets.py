import numpy as np
import pytest
from PIL import Image

from flash_ray.data.source import bucket_of, buckets, case_buckets, fill


@pytest.mark.parametrize("area", [(64, 64), (512, 512), (1024, 1024), (768, 1344)])
def test_buckets_are_on_the_token_grid_and_keep_the_area(area):
    found = buckets(area)
    assert len(set(found)) == len(found)
    assert all(side % 32 == 0 for size in found for side in size)
    if min(area) >= 512:
        assert all(abs(h * w / (area[0] * area[1]) - 1) < 0.08 for h, w in found)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((3000, 4000), (896, 1184)), ((500, 500), (1024, 1024)), ((1920, 1080), (1376, 768))],
)
def test_the_nearest_ratio_wins(size, bucket):
    assert bucket_of(size, (1024, 1024)) == bucket
    assert case_buckets([size, (10, 10)], (1024, 1024)) == (bucket, (1024, 1024))


def test_filling_crops_and_does_not_stretch():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255  # a white square in the middle of a wide picture
    filled = fill(Image.fromarray(pixels), (64, 64))
    assert filled.size == (64, 64)
    assert np.asarray(filled).min() > 200

"""One rule of sizes, in recipes, data, benchmarks and models."""

from dataclasses import replace

import pytest
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_dimensions
from PIL import Image

from flash_ray.data.encode import encode_shards
from flash_ray.data.source import (
    Shard,
    ShardCases,
    TrainingCase,
    bucket_of,
    buckets,
    case_buckets,
)
from flash_ray.errors import UserError
from flash_ray.evaluation.sample import encode_cases
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.recipe import load_recipe
from flash_ray.recipe.sizes import aspect_problem, follow_aspect, nearest_size, size_problem
from flash_ray.serving.sizes import edited_size


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1328, 1328), (1344, 1344)),
        ((1664, 928), (1664, 928)),
        ((1000, 30), (992, 128)),
        ((16, 16), (32, 32)),
        ((9000, 512), (4096, 512)),
    ],
)
def test_the_nearest_size_is_allowed(size, nearest):
    assert nearest_size(size) == nearest
    assert size_problem(nearest) is None
    assert (size_problem(size) is None) == (size == nearest)


@pytest.mark.parametrize("size", [(1328, 1328), (64, 65), (64, 1024)])
def test_a_recipe_with_another_size_is_refused_with_the_nearest(size):
    height, width = nearest_size(size)
    with pytest.raises(UserError, match="^data.resolution: ") as caught:
        load_recipe("miniature", [f"data.resolution={list(size)}"])
    assert f"set data.resolution=[{height}, {width}]" in str(caught.value)


@pytest.mark.parametrize("area", [(64, 64), (1024, 1024)])
@pytest.mark.parametrize("size", [(1080, 1920), (1000, 700), (500, 500), (100, 300), (4000, 3000)])
def test_an_answer_follows_the_picture_as_diffusers_pipeline_has_it(area, size):
    width, height, _ = calculate_dimensions(area[0] * area[1], size[1] / size[0])
    assert follow_aspect(size, area) == (height, width)
    assert size_problem(follow_aspect(size, area)) is None


@pytest.mark.parametrize("size", [(20, 2000), (2000, 20), (1, 1000), (8, 64)])
def test_no_picture_makes_a_side_vanish(size):
    for area in ((32, 32), (64, 64), (1024, 1024)):
        assert size_problem(follow_aspect(size, area)) is None
    assert (aspect_problem(size) is None) == (size == (8, 64))


def test_training_takes_the_bucket_nearest_to_the_first_picture():
    area = (1024, 1024)
    assert all(size_problem(bucket) is None for bucket in buckets(area))
    for size in ((1080, 1920), (3000, 2000), (500, 510)):
        output, *_ = case_buckets([size, (64, 64)], area)
        assert output == bucket_of(follow_aspect(size, area), area)


@pytest.mark.parametrize("area", [(512, 512), (1024, 1024), (768, 1344)])
def test_a_picture_of_any_allowed_shape_is_drawn_and_edited_in_about_its_own(area):
    for width in range(512, 8 * 512 + 1, 64):
        for size in ((512, width), (width, 512)):
            output, reference = case_buckets([size, size], area)
            assert output == reference == edited_size(size, area)
            assert size_problem(output) is None
            own, drawn = size[1] / size[0], output[1] / output[0]
            assert 0.78 < own / drawn < 1.28  # what is cropped is less than a quarter


def test_a_long_picture_is_encoded_long(backbone):
    area, picture = (64, 64), Image.new("RGB", (500, 100))
    shapes = case_buckets([(100, 500)], area)
    shard = Shard("0", "edit", "a", ("1",), 1, shapes)
    case = TrainingCase("redder", (picture,))
    layout = encode_shards(backbone, [ShardCases(shard, [case])])["0"].layout
    assert layout.references == ((32, 160),) == ((layout.height, layout.width),)


def test_a_model_edits_pictures_of_any_allowed_shape(backbone):
    for size in ((512, 64), (20, 160)):
        picture = Image.new("RGB", (size[1], size[0]))
        answer = follow_aspect(size, (64, 64))
        layout = backbone.encode(["redder"], [[picture]], answer).layout
        assert (layout.height, layout.width) == answer
        assert size_problem(layout.references[0]) is None


def test_the_miniatures_edits_follow_their_picture_and_other_sizes_are_named(backbone):
    cases = MiniatureBenchmark().cases("edit", 1)
    for case in cases:
        width, height = case.references[0].size
        assert follow_aspect((height, width), case.size) == case.size
    odd = replace(cases[0], size=(72, 64))
    with pytest.raises(UserError, match=f"benchmark: case {odd.id} is of 72x64.*nearest: 64x64"):
        encode_cases(backbone, [odd])
    long = replace(cases[0], references=(Image.new("RGB", (64, 640)),))
    with pytest.raises(UserError, match="has a picture of 640x64.*at most 8:1"):
        encode_cases(backbone, [long])

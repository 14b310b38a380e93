"""Benchmarks are drawn on the cluster, each picture once, as one process would draw them."""

import numpy as np
import pytest
import torch

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import compare, draw_here, draw_tasks
from flash_ray.evaluation.drawing import Weights, drawn_by_actors
from flash_ray.evaluation.pictures import HOME, put_picture
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.plugin import ExactJudge
from flash_ray.models.loading import load_model
from flash_ray.models.sampling import SamplerConfig
from flash_ray.storage.manifest import record
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import content_digest
from tests.helpers.distilling import small_recipe

SAMPLER = SamplerConfig((1.0, 0.5))


@pytest.fixture
def own(store, request):
    """A prefix of the bucket for one test."""
    return Store(store.bucket, f"drawing-{abs(hash(request.node.name))}", store.endpoint)


@pytest.fixture(scope="module")
def recipe(base):
    return small_recipe(base, "runtime.num_workers=2", "runtime.micro_batch_size=2")


@pytest.fixture(scope="module")
def model(base):
    return load_model(str(base), torch.float32, "cpu", encoders=True)


def cases_of(count: int) -> list[Case]:
    """Cases of two sizes, so that there are several batches."""
    sizes = [(64, 64), (64, 128)]
    return [
        Case(f"c-{n}", "t2i", "c", f"a tree {n}", sizes[n * 2 // count], n) for n in range(count)
    ]


def test_the_cluster_draws_what_one_process_draws(cluster, own, recipe, model, tmp_path):
    other = model.copy_transformer()
    with torch.no_grad():
        other.proj_out.weight.mul_(0.5)
    other.save_pretrained(tmp_path)
    files = record(tmp_path)
    for path in files:
        own.put_file(tmp_path / path, f"students/other/{path}")
    weights = {"base": Weights(), "other": Weights(content_digest(files), "students/other/", files)}
    asked = ({"base": [SAMPLER], "other": [SAMPLER]}, MiniatureBenchmark(), 1)
    seen: list[tuple[str, int, int]] = []
    with drawn_by_actors(recipe, own, weights) as draw:
        drawn = draw_tasks(draw, *asked, lambda *step: seen.append(step))
    expected = draw_tasks(
        draw_here(model, {"base": model.transformer, "other": other.eval()}), *asked
    )
    for task, of_task in drawn.items():
        comparison = compare(of_task, ExactJudge(), recipe)
        for name, answers in comparison.answers.items():
            theirs = compare(expected[task], ExactJudge()).answers[name]
            for ours, alone in zip(answers.images, theirs.images, strict=True):
                assert abs(ours.astype(int) - alone.astype(int)).max() <= 1
            assert answers.result.score == pytest.approx(theirs.result.score, abs=0.02)
        assert not np.array_equal(*(a.images[0] for a in comparison.answers.values()))
    assert seen[-1][1] == seen[-1][2]


def test_what_is_there_is_not_drawn_again(cluster, own, recipe):
    cases = cases_of(4)
    planted = np.zeros((64, 64, 3), np.uint8)
    counted: list[int] = []
    with drawn_by_actors(recipe, own, {"base": Weights()}) as draw:
        first = [image.copy() for image in draw("base", SAMPLER, cases, lambda count: None)]
        keys = draw("base", SAMPLER, cases, lambda count: None).keys
        assert [image.shape for image in first] == [(64, 64, 3)] * 2 + [(64, 128, 3)] * 2
        assert sorted(own.list(HOME)) == sorted(keys)
        put_picture(own, keys[0], planted)
        own.delete(keys[2])
        again = draw("base", SAMPLER, cases, counted.append)
        assert np.array_equal(again[0], planted)  # its batch was whole
        assert all(np.array_equal(again[n], first[n]) for n in (1, 2, 3))
        changed = draw("base", SamplerConfig((1.0,)), cases[:1], counted.append)
        assert not np.array_equal(changed[0], planted)
    assert counted == [4, 4, 1]

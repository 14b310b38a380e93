"""A benchmark from files is read from S3, answered on nodes without them, and compared with what
Ray Data reads of the training files."""

import json

import pytest
import ray
import torch
from PIL import Image

from flash_ray.data.select import plan_cases
from flash_ray.evaluation.benchmark import first_cases, load_benchmark
from flash_ray.evaluation.drawing import encode_in_task
from flash_ray.evaluation.overlap import find_overlap
from flash_ray.evaluation.sample import encode_benchmark
from flash_ray.models.loading import load_model
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.storage.s3 import Store
from tests.helpers.distilling import small_recipe

ROWS = [
    {"prompt": "a red tent", "category": "land", "size": [32, 64]},
    {"prompt": "a white house on the hill by the sea", "category": "land"},
    {"prompt": "something that nobody trains on", "category": "land", "size": [64, 32]},
    {"prompt": "make it snow", "category": "weather", "image": "yard.png"},
]
TRAINING = ["A  red tent", "a white house on a hill by the sea", "a blue tree", "a tall ship"]


@pytest.fixture(scope="module")
def bucket(store):
    """A prefix for these tests."""
    return Store(store.bucket, "benchmark-tests", store.endpoint)


@pytest.fixture
def recipe(base, bucket, cluster, tmp_path):
    """One with a benchmark in S3 and training prompts on disk."""
    Image.new("RGB", (96, 48), "teal").save(tmp_path / "yard.png")
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    for name in ("yard.png", "own.jsonl"):
        bucket.put_file(tmp_path / name, f"cases/{name}")
    address = bucket.url("cases/own.jsonl")
    rows = [{"prompt": prompt, "category": "any"} for prompt in TRAINING]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return small_recipe(
        base,
        f"data.source={{t2i: {tmp_path / 'train.jsonl'}}}",
        "data.composition.t2i={any: 1}",
        "data.num_cases=4",
        "tasks.edit=0",
        f"evaluation={{benchmark: {{t2i: '{address}', edit: '{address}'}}, judge: ocr}}",
        f"runtime.storage={{url: '{bucket.url()}', endpoint: '{bucket.endpoint}'}}",
    )


def test_cases_in_s3_are_those_on_disk(recipe, tmp_path):
    file = str(tmp_path / "own.jsonl")
    here = load_benchmark(BenchmarkFiles(t2i=file, edit=file), recipe)
    there = load_benchmark(recipe.evaluation.benchmark, recipe, "evaluation.benchmark")
    assert (there.name, there.digest) == (here.name, here.digest)
    (edit,) = there.cases("edit", 9)
    assert edit.size == (32, 96) and edit.references[0].size == (96, 48)


def test_a_task_encodes_the_cases_without_the_files(recipe, tmp_path, monkeypatch):
    file = str(tmp_path / "own.jsonl")
    evaluation = recipe.evaluation.model_copy(
        update={"benchmark": BenchmarkFiles(t2i=file, edit=file)}
    )
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    remote, counts = ray.remote, {"t2i": 2, "edit": 1}
    benchmark = load_benchmark(evaluation.benchmark, recipe)
    cases = first_cases(benchmark, counts)

    def without_files(function):
        for name in ("own.jsonl", "yard.png"):
            (tmp_path / name).unlink()
        return remote(function)

    monkeypatch.setattr(ray, "remote", without_files)
    (encoded,) = encode_in_task(recipe, [cases])
    ids = {task: [case.id for case in encoded.cases(task)] for task in encoded.batches}
    assert ids == {task: [case.id for case in of_task] for task, of_task in cases.items()}
    model = load_model(recipe.base, torch.float32, "cpu", encoders=True)
    (expected,) = encode_benchmark(model, cases).batches["edit"]
    (found,) = encoded.batches["edit"]
    theirs, ours = found.conditions.positive, expected.conditions.positive
    assert torch.allclose(theirs.references_BNC, ours.references_BNC, atol=1e-2)


def test_training_prompts_in_files_are_compared(recipe, bucket):
    benchmark = load_benchmark(recipe.evaluation.benchmark, recipe, "evaluation.benchmark")
    (found,) = find_overlap(benchmark, plan_cases(recipe, bucket))
    assert (found.cases, found.exact, found.near) == (3, 1, 1)
    assert (found.compared, found.prompts) == (4, 4)

"""Files of prompts and edits through Ray Data: listed, encoded, cached in S3, trained on."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from flash_ray.data.cache import ConditionCache, condition_sets
from flash_ray.data.describe import describe
from flash_ray.data.encode import prepare
from flash_ray.data.select import (
    epoch_counts,
)
from flash_ray.data.source import fill
from flash_ray.errors import UserError
from flash_ray.models.loading import load_model
from flash_ray.storage.s3 import Store
from flash_ray.trainer.driver import Callbacks, distill
from tests.helpers.distilling import small_recipe

SHAPES = ((60, 80), (100, 50), (64, 64))  # height, width: three buckets
PROMPTS = ["a red tent", 'a sign that says "HI"', "a blue tree", "  ", "a white house"]


def picture(number):
    pixels = np.random.default_rng(number).integers(
        0, 255, (*SHAPES[number % 3], 3), dtype=np.uint8
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


EDITS = [
    {"prompt": f"make it {word}", "category": "style", "image": picture(number)}
    for number, word in enumerate(("red", "blue", "old", "new", "sharp", "dark", "flat", "bad"))
]
EDITS[-1]["image"] = b"no picture"


@pytest.fixture(scope="module")
def bucket(store):
    """A prefix for these tests."""
    return Store(store.bucket, "data-tests", store.endpoint)


@pytest.fixture(scope="module")
def files(tmp_path_factory, store):
    """(a JSONL file of prompts, the URL of a WebDataset of edits, a Parquet file of the same)."""
    folder = tmp_path_factory.mktemp("files")
    lines = [json.dumps({"prompt": p, "category": "any"}) for p in [*PROMPTS, PROMPTS[0]]]
    (folder / "prompts.jsonl").write_text("\n".join([*lines, "{"]))
    with tarfile.open(folder / "edits.tar", "w") as tar:
        for number, row in enumerate(EDITS):
            fields = json.dumps({"prompt": row["prompt"], "category": "style"}).encode()
            for member, data in ((f"{number}.json", fields), (f"{number}.png", row["image"])):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    store.put_file(folder / "edits.tar", "sources/edits/0.tar")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(EDITS), folder / "edits.parquet")
    store.put_file(folder / "edits.parquet", "sources/table/0.parquet")
    store.put_file(folder / "prompts.jsonl", "sources/prompts/0.jsonl")
    return folder / "prompts.jsonl", store.url("sources/edits"), folder / "edits.parquet"


def recipe_of(base, bucket, t2i, edit, *overrides):
    return small_recipe(
        base,
        f"data.source={{t2i: {t2i}, edit: '{edit}', max_bad: 0.4}}",
        "data.composition={t2i: {any: 1}, edit: {style: 1}}",
        "data.num_cases=7",
        "data.max_per_category=4",
        f"runtime.storage={{url: '{bucket.url()}', endpoint: '{bucket.endpoint}'}}",
        *overrides,
    )


@pytest.fixture(scope="module")
def prepared(base, bucket, files, cluster):
    recipe = recipe_of(base, bucket, files[0], files[1], "data.max_per_category=7", "tasks.t2i=0")
    return recipe, prepare(recipe, bucket)


def test_conditions_are_those_of_the_pictures_in_their_buckets(prepared, bucket, base):
    recipe, found = prepared
    assert found.encoded == 7
    assert found.complaints == [
        "data.source.edit: 1 rows skipped: broken picture, e.g. 0.tar sample 7 (of no format that "
        "is known)"
    ]
    sets = condition_sets(ConditionCache.at(bucket), found.shards, epoch_counts(recipe, "edit"))
    layouts = {(own.layout.height, own.layout.width): len(own) for own in sets}
    assert layouts == {(64, 96): 3, (96, 64): 2, (64, 64): 2}
    backbone = load_model(str(base), torch.float32, "cpu", encoders=True)
    wide = [row for row in EDITS[:-1] if Image.open(io.BytesIO(row["image"])).size == (80, 60)]
    own = next(own for own in sets if own.layout.width == 96)
    cached = {own.take([n]).positive.references_BNC.numpy().tobytes() for n in range(len(own))}
    for row in wide:
        filled = fill(Image.open(io.BytesIO(row["image"])), (64, 96))
        expected = backbone.encode([row["prompt"]], [[filled]], (64, 96))
        # Batches differ in the last bits: compare with the nearest of those that are cached.
        known = [np.frombuffer(data, np.float32) for data in cached]
        gaps = [np.abs(k - expected.positive.references_BNC.numpy().ravel()).max() for k in known]
        assert min(gaps) < 1e-4
        assert max(gaps) > 1e-2


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_the_same_cases_in_another_format_are_not_encoded_again(
    prepared, base, bucket, files, store, where
):
    _, before = prepared
    table = files[2] if where == "disk" else store.url("sources/table/0.parquet")
    other = recipe_of(
        base, bucket, files[0], table, "data.max_per_category=7", "tasks.t2i=0", "seed=5"
    )
    again = prepare(other, bucket)
    assert again.encoded == 0
    assert {shard.digest for shard in again.shards} == {shard.digest for shard in before.shards}


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_description_counts_layouts_bytes_and_bad_rows(
    prepared, base, bucket, files, store, where
):
    lines = files[0] if where == "disk" else store.url("sources/prompts")
    found = describe(recipe_of(base, bucket, lines, files[1]), bucket)
    assert found.uses["t2i"]["any"].unique == 4
    assert found.uses["t2i"]["any"].passes == pytest.approx(2.0)  # 8 samples of 4 cases
    assert found.cases == 8
    assert found.encoded == 4
    assert 0 < found.bytes < sum(bucket.sizes("conditions/").values())
    assert found.bytes_in_all == 2 * found.bytes
    assert {layout.output for layout in found.layouts if layout.task == "t2i"} == {(64, 64)}
    assert sum(layout.cases for layout in found.layouts if layout.task == "edit") == 4
    assert any("1 rows skipped: empty prompt" in line for line in found.complaints)
    assert any("1 rows skipped: not JSON" in line for line in found.complaints)


@pytest.mark.slow
def test_a_run_trains_on_files(prepared, base, bucket, files, tmp_path):
    recipe = recipe_of(base, bucket, files[0], files[1], "name=files", "tasks={t2i: 1, edit: 3}")
    result = distill(recipe, bucket, "files", tmp_path / "student")
    assert [sorted(metrics.tasks) for metrics in result.history].count(["edit"]) == 3


def damage(path):
    """Changes the last numbers of a file of conditions."""
    data = path.read_bytes()
    path.write_bytes(data[:-64] + bytes(byte ^ 0x80 for byte in data[-64:]))


@pytest.mark.slow
def test_damaged_conditions_are_not_trained_on(prepared, base, bucket, files, tmp_path):
    recipe = recipe_of(base, bucket, files[0], files[1], "name=whole", "tasks={t2i: 0, edit: 1}")
    whole = distill(recipe, bucket, "whole", tmp_path / "whole")
    first, *others = prepare(recipe, bucket).shards
    node = ConditionCache.at(bucket).folder
    for shard in others:
        damage(node / f"{shard.digest}.safetensors")
    in_store = node / f"{first.digest}.safetensors"
    damage(in_store)
    bucket.put_file(in_store, f"conditions/{in_store.name}")
    in_store.unlink()
    lines: list[str] = []
    callbacks = Callbacks(say=lines.append)
    again = distill(recipe, bucket, "damaged", tmp_path / "again", callbacks=callbacks)
    losses = [[m.fake_score_loss for m in result.history] for result in (whole, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # what is encoded in other batches
    assert sum("is damaged (SHA-256); it is fetched anew" in line for line in lines) >= len(others)
    assert any("is damaged (SHA-256); it is encoded anew" in line for line in lines)
    assert "encode 1 damaged shards of conditions anew" in lines


def test_too_many_bad_rows_fail_the_job(prepared, base, bucket, files):
    with pytest.raises(UserError) as caught:
        prepare(recipe_of(base, bucket, files[0], files[1], "data.source.max_bad=0.1"), bucket)
    message = str(caught.value)
    assert message.startswith("data.source.t2i: 2 of 7 rows cannot be used")
    assert "data.source.max_bad" in message


@pytest.mark.slow
def test_a_changed_file_is_listed_again_and_only_what_is_new_is_encoded(
    prepared, base, bucket, files, tmp_path
):
    file = tmp_path / "prompts.jsonl"
    row = json.dumps({"prompt": "one", "category": "any"})
    file.write_text(row)
    asked = ("tasks.edit=0", "data.num_cases=1", "data.max_per_category=1")
    first = prepare(recipe_of(base, bucket, file, files[1], *asked), bucket)
    file.write_text("\n".join([row, row.replace("one", "two")]))
    second = prepare(
        recipe_of(
            base, bucket, file, files[1], *asked, "data.num_cases=2", "data.max_per_category=2"
        ),
        bucket,
    )
    assert (first.encoded, second.encoded) == (1, 1)
    assert len(second.shards) == 2


@pytest.mark.slow
def test_a_picture_that_changes_after_it_was_listed_is_listed_anew(
    prepared, base, bucket, files, tmp_path
):
    (tmp_path / "a.png").write_bytes(picture(100))
    edits = tmp_path / "edits.jsonl"
    edits.write_text(json.dumps({"prompt": "make it new", "category": "style", "image": "a.png"}))
    asked = ("tasks.t2i=0", "data.num_cases=1", "data.max_per_category=1")
    recipe = recipe_of(base, bucket, files[0], edits, *asked)
    describe(recipe, bucket)
    (tmp_path / "a.png").write_bytes(picture(103))
    with pytest.raises(UserError, match="data.source.edit: 1 cases are not what they were"):
        prepare(recipe, bucket)
    assert prepare(recipe, bucket).encoded == 1

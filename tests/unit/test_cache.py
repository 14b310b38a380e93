import shutil
from dataclasses import replace

import pytest
import torch

from flash_ray.backbones.load import encoder_digest
from flash_ray.data.cache import SHARD, ConditionCache, ConditionSet, encode_shard, plan_shards
from flash_ray.data.stream import Stream
from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe


class FolderStore:
    """A store's files in a folder."""

    def __init__(self, root):
        self.root = root

    def put_file(self, path, key):
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.root / key)

    def get_file(self, key, path):
        shutil.copy(self.root / key, path)

    def list(self, prefix=""):
        return [p.relative_to(self.root).as_posix() for p in (self.root / prefix).glob("*")]


class CountingBackbone:
    """Encodes with another backbone and counts the cases."""

    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def encode(self, prompts, references, size):
        self.count += len(prompts)
        return self.inner.encode(prompts, references, size)


def recipe(miniature_folder, *overrides):
    return load_recipe(
        "miniature",
        [
            f"base={miniature_folder}",
            "data.prompts=10",
            "data.composition.edit={scene: 1, enhancement: 0, object: 0, text: 1, identity: 0, "
            "style: 0}",
            *overrides,
        ],
    )


def encode_missing(cache, backbone, shards):
    for shard in cache.missing(shards):
        cache.add(shard.digest, encode_shard(backbone, shard, (64, 64)))


@pytest.fixture(scope="module")
def filled(miniature_folder, backbone, tmp_path_factory):
    """(cache, counting backbone) with the recipe's shards encoded once."""
    root = tmp_path_factory.mktemp("cache")
    cache = ConditionCache(FolderStore(root / "store"), root / "node")
    counting = CountingBackbone(backbone)
    encode_missing(cache, counting, plan_shards(recipe(miniature_folder)))
    return cache, counting


def test_nothing_is_encoded_twice(filled, miniature_folder, tmp_path):
    cache, counting = filled
    before = counting.count
    assert before == 5 * SHARD
    other = recipe(miniature_folder, "seed=5", "data.prompts=12", "data.composition.t2i.text=3")
    encode_missing(cache, counting, plan_shards(other))
    other_node = ConditionCache(cache.store, tmp_path / "node")
    encode_missing(other_node, counting, plan_shards(other))
    other_store = ConditionCache(FolderStore(tmp_path / "store"), cache.folder)
    encode_missing(other_store, counting, plan_shards(other))
    assert counting.count == before


def test_what_decides_the_content_changes_the_digest(miniature_folder, tmp_path):
    digests = {shard.digest for shard in plan_shards(recipe(miniature_folder))}
    larger = plan_shards(recipe(miniature_folder, "data.size=[96, 96]"))
    assert not digests & {shard.digest for shard in larger}
    copy = shutil.copytree(miniature_folder, tmp_path / "base")
    assert encoder_digest(str(copy)) == encoder_digest(str(miniature_folder))
    with (copy / "processor" / "note.txt").open("w") as file:
        file.write("changed")
    assert encoder_digest(str(copy)) != encoder_digest(str(miniature_folder))


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_rows_read_back_are_what_was_encoded(filled, miniature_folder, backbone, task):
    shards = [s for s in plan_shards(recipe(miniature_folder)) if s.task == task]
    cases = ConditionSet(filled[0], shards)
    assert len(cases) == 10
    taken = cases.take([0, 9])
    first = encode_shard(backbone, shards[0], (64, 64)).rows([0])
    last = encode_shard(backbone, shards[-1], (64, 64)).rows([shards[-1].rows - 1])
    for row, expected in enumerate((first, last)):
        for side in ("positive", "negative"):
            got, whole = getattr(taken, side).rows([row]), getattr(expected, side)
            real = int(whole.mask_BL.sum())
            assert torch.equal(got.embeds_BLD[:, :real], whole.embeds_BLD[:, :real])
            assert int(got.mask_BL.sum()) == real
            if task == "edit":
                assert torch.equal(got.references_BNC, whole.references_BNC)


def test_workers_take_disjoint_rows_of_the_same_task_padded_alike(filled, miniature_folder):
    small = recipe(miniature_folder, "runtime.micro_batch=2")
    large = recipe(miniature_folder, "runtime.micro_batch=4")
    shards = plan_shards(small)
    whole = Stream(large, filled[0], shards, 0, 1)
    parts = [Stream(small, filled[0], shards, rank, 2) for rank in (0, 1)]
    for number in range(8):
        batch, halves = whole[number], [part[number] for part in parts]
        assert {half.task for half in halves} == {batch.task}
        joined = torch.cat([half.conditioned.positive.embeds_BLD for half in halves])
        assert torch.equal(joined, batch.conditioned.positive.embeds_BLD)


def test_a_corrupt_shard_is_named(filled, miniature_folder, tmp_path):
    cache = ConditionCache(filled[0].store, tmp_path)
    shard = plan_shards(recipe(miniature_folder))[0]
    path = cache.fetch(shard.digest)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"condition cache: {path} is corrupt; remove it"):
        ConditionSet(cache, [shard])


def test_all_rows_of_a_task_share_a_layout(filled, miniature_folder):
    shards = plan_shards(recipe(miniature_folder))
    mixed = [shards[0], replace(shards[-1], task="t2i")]
    with pytest.raises(ValueError, match="one layout per task"):
        ConditionSet(filled[0], mixed)

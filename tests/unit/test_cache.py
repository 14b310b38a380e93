import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flash_ray.data.cache import ConditionCache, ConditionsLost, condition_sets
from flash_ray.data.select import epoch_counts, plan_cases
from flash_ray.data.shard_file import read_header
from flash_ray.data.stream import Stream
from flash_ray.miniature.source import MiniatureSource
from flash_ray.models.loading import encoder_digest
from flash_ray.models.prompt_cache import SLOT
from flash_ray.recipe import load_recipe
from tests.helpers.distilling import encode_alone, encode_missing
from tests.helpers.storage import FolderStore


class CountingModel:
    """Encodes with another model and counts the cases."""

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
            "data.num_cases=10",
            "data.composition.edit={scene: 1, enhancement: 0, object: 0, text: 1, identity: 0, "
            "style: 0}",
            *overrides,
        ],
    )


def plan(recipe):
    return plan_cases(recipe, None).shards  # the miniature keeps nothing in a store


@pytest.fixture(scope="module")
def filled(miniature_folder, backbone, tmp_path_factory):
    """(cache, counting model) with the recipe's shards encoded once."""
    root = tmp_path_factory.mktemp("cache")
    cache = ConditionCache(FolderStore(root / "store"), root / "node")
    counting = CountingModel(backbone)
    encode_missing(recipe(miniature_folder), cache, counting)
    return cache, counting


def test_nothing_is_encoded_twice(filled, miniature_folder, tmp_path):
    cache, counting = filled
    before = counting.count
    assert before == 5 * MiniatureSource.shard_size
    other = recipe(miniature_folder, "seed=5", "data.num_cases=12", "data.composition.t2i.text=3")
    encode_missing(other, cache, counting)
    other_node = ConditionCache(cache.store, tmp_path / "node")
    encode_missing(other, other_node, counting)
    other_store = ConditionCache(FolderStore(tmp_path / "store"), cache.folder)
    encode_missing(other, other_store, counting)
    assert counting.count == before


def test_what_decides_the_content_changes_the_digest(miniature_folder, tmp_path):
    digests = {shard.digest for shard in plan(recipe(miniature_folder))}
    larger = plan(recipe(miniature_folder, "data.resolution=[96, 96]"))
    assert not digests & {shard.digest for shard in larger}
    copy = shutil.copytree(miniature_folder, tmp_path / "base")
    assert encoder_digest(str(copy)) == encoder_digest(str(miniature_folder))
    with (copy / "processor" / "note.txt").open("w") as file:
        file.write("changed")
    assert encoder_digest(str(copy)) != encoder_digest(str(miniature_folder))


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_rows_read_back_are_what_was_encoded(filled, miniature_folder, backbone, task):
    shards = [s for s in plan(recipe(miniature_folder)) if s.task == task]
    (cases,) = condition_sets(filled[0], shards, epoch_counts(recipe(miniature_folder), task))
    assert len(cases) == 10
    taken = cases.take([0, 9])
    first = encode_alone(backbone, shards[0]).rows([0])
    last = encode_alone(backbone, shards[-1]).rows([shards[-1].rows - 1])
    for row, expected in enumerate((first, last)):
        for side in ("positive", "negative"):
            got, whole = getattr(taken, side).rows([row]), getattr(expected, side)
            real = int(whole.mask_BL.sum())
            assert torch.equal(got.embeds_BLD[:, :real], whole.embeds_BLD[:, :real])
            assert int(got.mask_BL.sum()) == real
            if task == "edit":
                assert torch.equal(got.references_BNC, whole.references_BNC)


def test_workers_take_disjoint_rows_of_the_same_task_padded_alike(filled, miniature_folder):
    small = recipe(miniature_folder, "runtime.micro_batch_size=2", "runtime.num_workers=2")
    large = recipe(miniature_folder, "runtime.micro_batch_size=4", "runtime.num_workers=1")
    shards = plan(small)
    whole = Stream(large, filled[0], shards, 0, 1)
    parts = [Stream(small, filled[0], shards, rank, 2) for rank in (0, 1)]
    for number in range(8):
        batch, halves = whole[number], [part[number] for part in parts]
        assert {half.task for half in halves} == {batch.task}
        joined = torch.cat([half.conditions.positive.embeds_BLD for half in halves])
        assert torch.equal(joined, batch.conditions.positive.embeds_BLD)


class CountingStore(FolderStore):
    """Notes what is downloaded, slowly."""

    def __init__(self, folder):
        super().__init__(folder)
        self.keys = []

    def get_file(self, key, path):
        self.keys.append(key)
        time.sleep(0.02)
        super().get_file(key, path)


def test_the_workers_of_a_node_download_a_shard_once(filled, miniature_folder, tmp_path):
    store = CountingStore(filled[0].store.root)
    digests = [shard.digest for shard in plan(recipe(miniature_folder))]
    with ThreadPoolExecutor(4) as workers:
        node = [ConditionCache(store, tmp_path) for _ in range(4)]
        list(workers.map(lambda cache: cache.fetch_all(digests), node))
    assert sorted(store.keys) == sorted(f"conditions/{digest}.safetensors" for digest in digests)


def test_a_row_that_is_alone_has_no_padding(filled, miniature_folder):
    alone = recipe(miniature_folder, "runtime.micro_batch_size=1", "runtime.num_workers=4")
    shards = plan(alone)
    lengths = set()
    for stream in [Stream(alone, filled[0], shards, rank, 4) for rank in range(4)]:
        for number in range(8):
            conditions = stream[number].conditions
            assert conditions.positive.mask_BL.all() and conditions.negative.mask_BL.all()
            lengths.add(conditions.positive.mask_BL.shape[1])
    assert len(lengths) > 1


@pytest.mark.parametrize(("world", "passes"), [(1, 3), (2, 2), (3, 1)])
def test_fewer_workers_take_the_same_rows_in_more_passes(filled, miniature_folder, world, passes):
    elastic = recipe(
        miniature_folder,
        "runtime.micro_batch_size=2",
        "runtime.num_workers={min: 1, max: 3}",
        "runtime.checkpoint_every=1",
    )
    shards = plan(elastic)
    most = [Stream(elastic, filled[0], shards, rank, 3) for rank in range(3)]
    fewer = [Stream(elastic, filled[0], shards, rank, world) for rank in range(world)]
    assert {stream.passes for stream in fewer} == {passes}
    for number in range(6):
        expected = [stream[number] for stream in most]
        parts = [
            fewer[rank][number * passes + turn] for turn in range(passes) for rank in range(world)
        ]
        assert {(part.number, part.task, part.size) for part in parts} == {
            (number, expected[0].task, 6)
        }
        # Every row counts once in a mean over all parts, whatever their number is.
        real = [part for part in parts if part.weight]
        assert [part.rows for part in real] == [part.rows for part in expected]
        assert sum(part.weight for part in parts) == pytest.approx(len(parts))
        for part, of_most in zip(real, expected, strict=True):
            rows, same = part.conditions.positive, of_most.conditions.positive
            assert torch.equal(rows.embeds_BLD, same.embeds_BLD)


def flip_signs(path):
    """Turns the sign of every number of the embeddings, and nothing else."""
    with safe_open(path, framework="pt") as file:
        fields, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    tensors["positive.texts_BTD"] = -tensors["positive.texts_BTD"]
    save_file(tensors, path, metadata=fields)


def test_what_no_transformer_reads_is_not_kept(filled, miniature_folder):
    edit = next(s for s in plan(recipe(miniature_folder)) if s.task == "edit")
    tensors = load_file(filled[0].folder / f"{edit.digest}.safetensors")
    for side in ("positive", "negative"):
        assert int(tensors[f"{side}.slots_P"].sum()) == (64 // 16) ** 2 // SLOT
        assert tensors[f"{side}.texts_BTD"].any(dim=-1)[tensors[f"{side}.mask_BT"]].all()
    assert "negative.references_BNC" not in tensors


def test_the_empty_prompt_of_text_to_image_is_kept_once(filled, miniature_folder):
    shards = [s for s in plan(recipe(miniature_folder)) if s.task == "t2i"]
    headers = [read_header(filled[0].folder / f"{shard.digest}.safetensors") for shard in shards]
    (shared,) = {header.negative for header in headers}
    stored = [key.split("/")[1] for key in filled[0].store.list("conditions/")]
    assert [name for name in stored if "negative" in name] == [f"{shared}.safetensors"]
    for shard in shards:
        tensors = load_file(filled[0].folder / f"{shard.digest}.safetensors")
        assert not any(name.startswith("negative") for name in tensors)
    other_store = ConditionCache(FolderStore(filled[0].store.root / "other"), filled[0].folder)
    assert not other_store.missing(shards)  # uploaded, with what they share
    assert f"conditions/{shared}.safetensors" in other_store.store.list("conditions/")


def test_a_lost_empty_prompt_is_encoded_anew(damaged, miniature_folder, backbone):
    cache, lines = damaged
    wanted = recipe(miniature_folder, "tasks={t2i: 1, edit: 0}")
    shards = [s for s in plan(wanted) if s.task == "t2i"]
    expected = Stream(wanted, cache, shards, 0, 1)[0].conditions.negative
    shared = cache.header(shards[0].digest).negative
    cache.forget(shared)
    with pytest.raises(ConditionsLost) as caught:
        Stream(wanted, cache, shards, 0, 1)[0]
    assert set(caught.value.digests) <= {shard.digest for shard in shards}
    encode_missing(wanted, cache, backbone)
    again = Stream(wanted, cache, shards, 0, 1)[0].conditions.negative
    assert torch.equal(again.embeds_BLD, expected.embeds_BLD)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def change_the_layout(path):
    data = path.read_bytes()
    assert b'height\\": 64' in data
    path.write_bytes(data.replace(b'height\\": 64', b'height\\": 96'))


DAMAGES = [flip_signs, cut, change_the_layout]


@pytest.fixture
def damaged(filled, tmp_path):
    """(a cache on a node of its own with copies of all shards, the lines that it says)."""
    lines = []
    store = FolderStore(shutil.copytree(filled[0].store.root, tmp_path / "store"))
    folder = shutil.copytree(filled[0].folder, tmp_path / "node")
    return ConditionCache(store, folder, lines.append), lines


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_on_a_node_is_fetched_anew(filled, damaged, miniature_folder, damage):
    cache, lines = damaged
    wanted = recipe(miniature_folder)
    expected = Stream(wanted, filled[0], plan(wanted), 0, 1)
    for shard in plan(wanted):
        damage(cache.folder / f"{shard.digest}.safetensors")
    stream = Stream(wanted, cache, plan(wanted), 0, 1)
    for number in range(4):
        for side in ("positive", "negative"):
            got = getattr(stream[number].conditions, side).tensors()
            right = getattr(expected[number].conditions, side).tensors()
            assert all(torch.equal(value, right[name]) for name, value in got.items())
    assert lines and all("is damaged (SHA-256); it is fetched anew" in line for line in lines)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_store_is_removed_and_encoded_anew(
    filled, damaged, miniature_folder, backbone, damage
):
    cache, lines = damaged
    shards = plan(recipe(miniature_folder))
    shutil.rmtree(cache.folder)
    first = shards[0].digest
    damage(cache.store.root / f"conditions/{first}.safetensors")
    with pytest.raises(ConditionsLost) as caught:
        Stream(recipe(miniature_folder), cache, shards, 0, 1)
    assert caught.value.digests == (first,)
    assert pickle.loads(pickle.dumps(caught.value)).digests == (first,)
    assert len(lines) == 1 and "is damaged (SHA-256); it is encoded anew" in lines[0]
    encode_missing(recipe(miniature_folder), cache, backbone)
    whole = load_file(filled[0].folder / f"{first}.safetensors")
    for name, value in load_file(cache.whole(first)).items():
        assert torch.allclose(value.float(), whole[name].float(), atol=1e-4)


def test_a_damaged_copy_is_not_uploaded(damaged, miniature_folder):
    cache, lines = damaged
    shards = plan(recipe(miniature_folder))
    first = shards[0].digest
    cache.store.delete(f"conditions/{first}.safetensors")
    flip_signs(cache.folder / f"{first}.safetensors")
    assert [shard.digest for shard in cache.missing(shards)] == [first]
    assert "it is encoded anew" in lines[0]


def test_layouts_take_turns_in_the_ratio_of_their_cases(filled, miniature_folder):
    mixture = recipe(miniature_folder, "tasks={t2i: 1, edit: 0}", "runtime.micro_batch_size=2")
    shards = plan(recipe(miniature_folder))
    t2i = [shard for shard in shards if shard.task == "t2i"]
    # Pictures of another layout among the cases of a task, as files have them.
    edits = [replace(s, task="t2i", category=t2i[0].category) for s in shards if s.task == "edit"]
    sets = condition_sets(
        filled[0], [*t2i, *edits], {t.category: 1 for t in t2i} | {"landscape": 4}
    )
    assert [len(cases) for cases in sets] == [6]  # no more than an epoch asks for
    stream = Stream(mixture, filled[0], [*t2i[1:], *edits], 0, 1)
    layouts = [stream[number].conditions.layout for number in range(60)]
    edited = sum(bool(layout.references) for layout in layouts)
    assert edited == 60 * 4 // 10  # 4 of the epoch's 10 cases
    for number in range(0, 60, 10):
        window = layouts[number : number + 10]
        assert sum(bool(layout.references) for layout in window) == 4


def test_capped_cases_come_round_more_often(filled, miniature_folder):
    capped = recipe(miniature_folder, "data.max_per_category=2", "tasks={t2i: 1, edit: 0}")
    shards = plan(capped)
    assert [shard.rows for shard in shards] == [2, 2, 2]
    (cases,) = condition_sets(filled[0], shards, epoch_counts(capped, "t2i"))
    assert len(cases) == 10
    embeds = [cases.take([n]).positive.embeds_BLD for n in range(10)]
    different = {tensor.float().numpy().tobytes() for tensor in embeds}
    assert len(different) == 6
    assert cases.categories(range(10)).count("landscape") == 4

"""What every data source shares: how it is named, planned and opened."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from flash_ray.data.files import FileSource
from flash_ray.data.select import plan_shards
from flash_ray.data.source import Entry, LazyPictures, load_source
from flash_ray.errors import UserError
from flash_ray.miniature.source import MiniatureSource, training_case
from flash_ray.recipe import load_recipe


def test_a_recipe_names_files_or_a_registered_source():
    assert load_source(load_recipe("miniature")) == MiniatureSource()
    files = load_recipe("miniature", ["tasks.edit=0", "data.source={t2i: a.jsonl}"])
    assert load_source(files) == FileSource(files.data.source, None)
    assert load_source(files).needs_ray and not MiniatureSource().needs_ray
    data = load_recipe("miniature").data.model_copy(update={"source": "minature"})
    misspelt = load_recipe("miniature").model_copy(update={"data": data})
    with pytest.raises(UserError, match="data.source: unknown source 'minature'; did you mean mi"):
        load_source(misspelt)


def test_missing_files_are_known_before_ray_starts(tmp_path: Path):
    absent = load_recipe("miniature", [f"data.source={{t2i: {tmp_path}/no.jsonl, edit: x.tar}}"])
    with pytest.raises(UserError, match="data.source.t2i: .*no.jsonl holds no such file"):
        load_source(absent).validate("t2i")


class SizedCatalog:
    """Seven edits of one category whose pictures are square or wide."""

    categories = ("any",)
    complaints = ()

    def count(self, category):
        return 7

    def entries(self, category):
        shapes = [(64, 64)] * 3 + [(64, 128)] + [(64, 64)] * 3
        return [Entry(f"n{i}", f"{i:032x}", "any", 5, (size,)) for i, size in enumerate(shapes)]


def test_a_shard_has_one_layout_and_no_case_is_lost(miniature_folder):
    recipe = load_recipe(
        "miniature",
        [
            f"base={miniature_folder}",
            "tasks.t2i=0",
            "data.source={edit: a.jsonl}",
            "data.composition.edit={any: 1}",
            "data.num_cases=6",
        ],
    )
    shards = plan_shards(recipe, {"edit": SizedCatalog()}, 2)
    assert [shard.cases for shard in shards] == [("n0", "n1"), ("n2",), ("n3",), ("n4", "n5")]
    assert [shard.rows for shard in shards] == [2, 1, 1, 2]
    assert [shard.buckets for shard in shards] == [((64, 64),)] * 2 + [((64, 96),)] + [((64, 64),)]
    assert len({shard.digest for shard in shards}) == 4
    fewer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"num_cases": 5})})
    shared = plan_shards(fewer, {"edit": SizedCatalog()}, 2)
    assert [shard.digest for shard in shared] == [shard.digest for shard in shards]
    assert [shard.rows for shard in shared] == [2, 1, 1, 1]


def test_lazy_pictures_are_opened_when_they_are_indexed():
    opened = []

    def opener(number):
        def open_picture():
            opened.append(number)
            return Image.new("RGB", (number, number))

        return open_picture

    pictures = LazyPictures([opener(number) for number in (1, 2, 3)])
    assert len(pictures) == 3 and opened == []
    assert pictures[-1].size == (3, 3)
    assert [picture.size for picture in pictures[:2]] == [(1, 1), (2, 2)]
    assert opened == [3, 1, 2]


def test_the_cases_of_the_miniature_never_change():
    content = hashlib.sha256()
    for task, categories in MiniatureSource.categories.items():
        for category in categories:
            for index in (0, 1, 100):
                case = training_case(task, category, index)
                content.update(case.prompt.encode())
                for picture in case.references:
                    content.update(picture.tobytes())
    assert content.hexdigest()[:16] == "af7eb690da7683ca"

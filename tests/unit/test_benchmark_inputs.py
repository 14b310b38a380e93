"""Rows that state prompts for their pictures to edit: read in any format, one digest for the same
pictures, looked up in a store, never mixed up with pictures that a row has."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import load_benchmark, named_benchmark, task_digest
from flash_ray.evaluation.case_files import FileBenchmark
from flash_ray.evaluation.describe import describe_benchmark
from flash_ray.evaluation.inputs import drawn_cases, kept_in, undrawn, with_pictures
from flash_ray.evaluation.pictures import picture_home, put_picture
from flash_ray.evaluation.sample import student_sampler, teacher_sampler
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.recipe import load_recipe
from flash_ray.recipe.sections import BenchmarkFiles
from tests.helpers.storage import MemoryStore
from tests.unit.test_benchmark_files import FORMATS, as_jsonl, picture

RECIPE = load_recipe("miniature")
EDIT = {
    "id": "roof",
    "category": "object",
    "prompt": "paint the roof blue",
    "picture_prompt": "a barn with a red roof",
}
ROWS = [
    EDIT,
    {**EDIT, "id": "wide", "picture_prompt": "a wide lake", "picture_size": [32, 64]},
    {**EDIT, "id": "seeded", "picture_prompt": "a hill", "picture_seed": 7, "size": [32, 32]},
    {"id": "given", "category": "object", "prompt": "add a cat", "image": picture(96, 48)},
    {"id": "lake", "category": "land", "prompt": "a lake at dawn"},
]


def load(rows: list[dict], folder: Path, recipe=RECIPE) -> FileBenchmark:
    return load_benchmark(named_benchmark(str(as_jsonl(rows, folder))), recipe)


def store() -> MemoryStore:
    return MemoryStore("bucket", "", None)


def edits(benchmark: FileBenchmark) -> dict:
    return {case.id: case for case in benchmark.cases("edit", 99)}


@pytest.mark.parametrize("write", FORMATS)
def test_a_file_of_any_format_states_what_its_pictures_are_drawn_from(tmp_path, write):
    benchmark = load_benchmark(named_benchmark(str(write(ROWS, tmp_path))), RECIPE)
    assert benchmark.categories == {"t2i": ("land",), "edit": ("object",)}
    cases = edits(benchmark)
    assert {id: case.size for id, case in cases.items()} == {
        "given": (32, 96),
        "roof": (64, 64),
        "seeded": (32, 32),
        "wide": (32, 96),  # the area of 64x64 in the shape of its picture
    }
    asked = {case.id: case.references.asked for case in drawn_cases(benchmark)}
    assert asked.keys() == {"roof", "seeded", "wide"}  # the row with a picture has it
    ((roof,), (seeded,), (wide,)) = (asked[id] for id in ("roof", "seeded", "wide"))
    assert (roof.task, roof.prompt, roof.size) == ("t2i", "a barn with a red roof", (64, 64))
    assert (seeded.seed, wide.size) == (7, (32, 64)) and roof.seed != wide.seed
    assert benchmark.digest == load(ROWS, tmp_path).digest


def test_a_row_may_state_several_pictures_and_rows_may_share_them(tmp_path):
    both = {**EDIT, "id": "both", "picture_prompt": ["a barn with a red roof", "a cat"]}
    cases = edits(load([EDIT, {**EDIT, "id": "too", "prompt": "add a dog"}, both], tmp_path))
    asked = {id: case.references.asked for id, case in cases.items()}
    assert [case.prompt for case in asked["both"]] == both["picture_prompt"]
    assert asked["roof"][0].seed == asked["too"][0].seed != asked["both"][0].seed
    kept = kept_in(load([EDIT, {**EDIT, "id": "too", "prompt": "add a dog"}], tmp_path), store())
    assert len(undrawn(kept.cases("edit", 9))) == 1


def test_the_columns_can_be_called_otherwise_and_training_rows_keep_their_pictures(tmp_path):
    row = {"prompt": "paint it", "category": "a", "from": "a barn", "noise": 3}
    columns = {"picture_prompt": "from", "picture_seed": "noise"}
    choice = BenchmarkFiles(edit=str(as_jsonl([row], tmp_path)), columns=columns)
    (case,) = load_benchmark(choice, RECIPE).cases("edit", 9)
    assert (case.references.asked[0].prompt, case.references.asked[0].seed) == ("a barn", 3)
    # As `flash-ray data write` leaves it: the picture, and beside it where it comes from.
    written = {**EDIT, "image": picture()}
    assert drawn_cases(load([written], tmp_path)) == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"picture_seed": -1}, "picture_seed is no whole number from 0 to 4294967295 (-1)"),
        ({"picture_size": [33, 64]}, "picture_size cannot be drawn (33x64"),
        ({"picture_size": "large"}, "picture_size is not [height, width] ('large')"),
        ({"picture_prompt": ["a", " "]}, "empty picture_prompt"),
        (
            {"picture_prompt": "half \ud83d"},
            "half a character (a lone surrogate) in picture_prompt",
        ),
        ({"picture_prompt": {"a": 1}}, "picture_prompt is not a text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(tmp_path, row, says):
    with pytest.raises(UserError) as caught:
        load([EDIT, {**EDIT, "id": "bad", **row}], tmp_path)
    assert "cases.jsonl line 2: " in str(caught.value) and says in str(caught.value)


def test_the_digest_changes_with_all_that_decides_a_picture_and_with_nothing_else(
    tmp_path, miniature_folder
):
    def digest(changes=None, *overrides: str) -> str:
        return load([{**EDIT, **(changes or {})}], tmp_path, load_recipe("miniature", overrides))

    same = digest().digest
    differ = [
        {"prompt": "paint it"},
        {"picture_prompt": "a barn"},
        {"picture_seed": 1},
        {"picture_size": [64, 128]},
    ]
    others = [digest(changes).digest for changes in differ]
    for override in (
        f"base={miniature_folder}",
        "teacher_defaults.guidance_scale=1.5",
        f"training.precision={'bf16' if RECIPE.training.precision == 'fp32' else 'fp32'}",
        "data.resolution=[64, 96]",
    ):
        others.append(digest(None, override).digest)
    assert len({same, *others}) == len(others) + 1
    for override in ("seed=3", "student.steps=2", "training.iterations=9", "runtime.num_workers=2"):
        assert digest(None, override).digest == same
    assert kept_in(digest(), store()).digest == same


def test_prompts_alone_can_be_compared_whatever_the_base(tmp_path, miniature_folder):
    here = load(ROWS, tmp_path)
    there = load(ROWS, tmp_path, load_recipe("miniature", [f"base={miniature_folder}"]))
    assert here.digest != there.digest
    assert task_digest(here, "t2i") == task_digest(there, "t2i")
    assert task_digest(here, "edit") != task_digest(there, "edit")
    assert task_digest(MiniatureBenchmark(), "edit") == MiniatureBenchmark().digest


def test_pictures_are_those_that_the_teacher_has_drawn(tmp_path):
    kept, cases = store(), edits(load(ROWS, tmp_path))
    with pytest.raises(UserError, match="edit of case roof is not drawn; run `flash-ray benchmark"):
        cases["roof"].references[0]
    benchmark = kept_in(load(ROWS, tmp_path), kept)
    cases = edits(benchmark)
    assert [asked.id for asked in undrawn(list(cases.values()))] == ["wide", "roof", "seeded"]
    assert [case.id for case in with_pictures(list(cases.values()))] == ["given"]
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    key = cases["roof"].references.kept.key(cases["roof"].references.asked[0])
    assert key.startswith(picture_home(RECIPE, teacher_sampler(RECIPE)))
    assert not key.startswith(picture_home(RECIPE, student_sampler([1.0])))
    put_picture(kept, key, pixels)
    assert np.array_equal(np.asarray(cases["roof"].references[0]), pixels)
    assert np.array_equal(np.asarray(cases["roof"].references[:1][0]), pixels)
    assert [asked.id for asked in undrawn(list(cases.values()))] == ["wide", "seeded"]
    assert [case.id for case in with_pictures(list(cases.values()))] == ["given", "roof"]
    with pytest.raises(UserError, match="is gone or damaged"):
        cases["wide"].references[0]
    assert with_pictures(benchmark.cases("t2i", 9)) == benchmark.cases("t2i", 9)


def test_it_travels_and_one_file_holds_it_all(tmp_path):
    benchmark = load(ROWS, tmp_path)
    there = pickle.loads(pickle.dumps(kept_in(benchmark, store())))
    assert there.digest == benchmark.digest
    assert edits(there)["roof"].references.asked == edits(benchmark)["roof"].references.asked
    whole = tmp_path / "whole.jsonl"
    whole.write_text(benchmark.to_jsonl())
    assert load_benchmark(named_benchmark(str(whole)), RECIPE).digest == benchmark.digest


def test_it_is_described_without_a_base(tmp_path):
    file = as_jsonl(ROWS, tmp_path)
    without = describe_benchmark(named_benchmark(str(file)), None)
    assert without.digest is None and without.counts == {"t2i": {"land": 1}, "edit": {"object": 4}}
    assert without.notes[0].startswith("the 3 pictures that 3 edits begin with are drawn by a rec")
    described = describe_benchmark(named_benchmark(str(file)), RECIPE)
    assert described.digest == load(ROWS, tmp_path).digest
    lost = RECIPE.model_copy(update={"base": str(tmp_path / "nowhere")})
    described = describe_benchmark(named_benchmark(str(file)), lost)
    assert described.digest is None and described.counts == without.counts
    assert described.notes[-1].startswith("no digest: base: no pipeline in")


def test_rows_without_prompts_for_pictures_have_the_digest_that_they_had(tmp_path):
    rows = [ROWS[4]]
    assert load(rows, tmp_path).digest == load([{**rows[0], "picture_prompt": ""}], tmp_path).digest

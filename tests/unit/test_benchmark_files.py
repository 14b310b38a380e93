"""Benchmarks from files: whatever the format, the same cases; every row counts; they travel."""

import base64
import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import load_benchmark, named_benchmark
from flash_ray.evaluation.case_files import FileBenchmark
from flash_ray.evaluation.judges.choose import load_scoring
from flash_ray.recipe import dump_yaml, load_recipe, parse_recipe
from flash_ray.recipe.plain import parse_yaml

RECIPE = load_recipe("miniature")


def picture(width: int = 48, height: int = 32) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def as_jsonl(rows: list[dict], folder: Path) -> Path:
    file = folder / "cases.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in map(in_base64, rows)))
    return file


def as_json(rows: list[dict], folder: Path) -> Path:
    file = folder / "cases.json"
    file.write_text(json.dumps(list(map(in_base64, rows))))
    return file


def as_csv(rows: list[dict], folder: Path) -> Path:
    file = folder / "cases.csv"
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(map(in_base64, rows))
    return file


def as_parquet(rows: list[dict], folder: Path) -> Path:
    file = folder / "cases.parquet"
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    pyarrow.parquet.write_table(table, file)
    return file


def as_tar(rows: list[dict], folder: Path) -> Path:
    file = folder / "cases.tar"
    with tarfile.open(file, "w") as tar:
        for number, row in enumerate(rows):
            fields = {name: value for name, value in row.items() if name != "image"}
            members = [(f"{number:04d}.json", json.dumps(fields).encode())]
            if row.get("image"):
                members.append((f"{number:04d}.image.png", row["image"]))
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file


def in_base64(row: dict) -> dict:
    if not isinstance(row.get("image"), bytes):
        return row
    return {**row, "image": f"data:image/png;base64,{base64.b64encode(row['image']).decode()}"}


FORMATS = (as_jsonl, as_json, as_csv, as_parquet, as_tar)
CASES = [
    {"prompt": "a lake at dawn", "category": "landscape", "size": [64, 96]},
    {"prompt": "a ridge in fog", "category": "landscape", "seed": 7},
    {"prompt": '写着"早安"的木牌', "category": "text", "text": "早安", "id": "sign-1"},
    {"prompt": "make it snow", "category": "weather", "image": picture(96, 48)},
    {"prompt": "make it rain", "category": "weather", "image": picture(32, 96), "size": [32, 32]},
]


def load(address: object, recipe=RECIPE, **fields: object) -> FileBenchmark:
    choice = named_benchmark(str(address)).model_copy(update=fields)
    return load_benchmark(choice, recipe)


def refusal(rows: list[dict], folder: Path, **fields: object) -> str:
    with pytest.raises(UserError) as caught:
        load(as_jsonl(rows, folder), **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def facts(benchmark: FileBenchmark) -> list[tuple]:
    return [
        (c.id, c.task, c.category, c.prompt, c.size, c.seed, c.text, [p.size for p in c.references])
        for task in benchmark.categories
        for c in benchmark.cases(task, 100)
    ]


@pytest.mark.parametrize("write", FORMATS)
def test_a_file_of_any_format_holds_the_same_cases_of_both_tasks(tmp_path, write):
    benchmark = load(write(CASES, tmp_path))
    expected = load(as_jsonl(CASES, tmp_path))
    assert benchmark.digest == expected.digest and facts(benchmark) == facts(expected)
    assert benchmark.name == "cases"
    assert benchmark.categories == {"t2i": ("landscape", "text"), "edit": ("weather",)}
    by_prompt = {c.prompt: c for t in ("t2i", "edit") for c in benchmark.cases(t, 9)}
    assert by_prompt["a lake at dawn"].size == (64, 96)
    assert by_prompt["a ridge in fog"].size == (64, 64)  # the recipe's
    assert by_prompt["a ridge in fog"].seed == 7
    assert by_prompt["make it snow"].size == (32, 96)  # the shape of its picture, in that area
    assert by_prompt["make it rain"].size == (32, 32)
    assert by_prompt["make it snow"].references[0].size == (96, 48)
    sign = by_prompt['写着"早安"的木牌']
    assert (sign.id, sign.text) == ("sign-1", "早安")
    assert len({case.seed for case in by_prompt.values()}) == len(CASES)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.text("abc 山水,\"'", min_size=1, max_size=12).filter(str.strip),
            "category": st.sampled_from(["landscape", "text 2", "人像"]),
        },
        optional={
            "text": st.text("OPEN 早", max_size=4),
            "seed": st.integers(0, 2**32 - 1),
            "size": st.sampled_from([[32, 64], [64, 64]]),
            "image": st.sampled_from([picture(48), picture(64)]),
        },
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: (row["prompt"].strip(), row["category"]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS, data=st.data())
def test_neither_order_nor_format_decides_digest_ids_seeds_or_which_cases_come_first(
    tmp_path, rows, data
):
    expected = load(as_jsonl(rows, tmp_path))
    shuffled = data.draw(st.permutations(rows))
    other = load(data.draw(st.sampled_from(FORMATS))(shuffled, tmp_path))
    assert other.digest == expected.digest and facts(other) == facts(expected)
    changed = data.draw(st.sampled_from(range(len(rows))))
    rows[changed] = {**rows[changed], "prompt": rows[changed]["prompt"] + " and more of it"}
    assert load(as_jsonl(rows, tmp_path)).digest != expected.digest


def test_a_folder_of_pictures_with_captions_is_a_benchmark_of_one_category(tmp_path):
    folder = tmp_path / "weather"
    folder.mkdir()
    for name, width in (("a", 48), ("b", 64)):
        (folder / f"{name}.png").write_bytes(picture(width))
        (folder / f"{name}.txt").write_text(f"make {name} snow")
    benchmark = load(f"{folder}/", category="weather")
    assert benchmark.categories == {"edit": ("weather",)}
    prompts = {case.prompt for case in benchmark.cases("edit", 9)}
    assert prompts == {"make a snow", "make b snow"}
    assert benchmark.name == "weather"


def test_columns_are_named_in_the_recipe_and_a_prompt_called_text_is_no_text_to_render(tmp_path):
    rows = [{"text": "a lake", "kind": "land", "number": 3, "noise": "11", "wh": "32x64"}]
    file = as_jsonl(rows, tmp_path)
    columns = "{prompt: text, category: kind, id: number, seed: noise, size: wh}"
    files = f"{{t2i: {file}, columns: {columns}}}"
    named = ["evaluation.judge=ocr", f"evaluation.benchmark={files}"]
    recipe = load_recipe("miniature", named)
    assert recipe.digest == RECIPE.digest  # it changes no number of a run
    assert parse_recipe(parse_yaml(dump_yaml(recipe), "")) == recipe
    (case,) = load_benchmark(recipe.evaluation.benchmark, recipe, "f").cases("t2i", 9)
    assert (case.id, case.seed, case.size, case.text) == ("3", 11, (32, 64), None)
    with pytest.raises(UserError) as caught:
        columns = columns.replace("noise", "noises")
        wrong = load_recipe(
            "miniature", [named[0], f"evaluation.benchmark={{t2i: {file}, columns: {columns}}}"]
        )
        load_benchmark(wrong.evaluation.benchmark, wrong, "evaluation.benchmark")
    expected = "evaluation.benchmark.columns.seed: unknown column 'noises'; did you mean noise?"
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": ""}, "empty prompt"),
        ({"category": None}, "no category"),
        ({"prompt": "half \ud83d"}, "half a character"),
        ({"image": "nowhere.png"}, "a picture cannot be read ('nowhere.png')"),
        ({"image": "data:;base64,AAAA"}, "broken picture"),
        ({"id": "a/b"}, "id is no name: 1 to 100 of A-Z a-z 0-9 . _ - ('a/b')"),
        ({"seed": -1}, "seed is no whole number from 0 to 4294967295 (-1)"),
        ({"seed": 1.5}, "seed is no whole number"),
        ({"size": "large"}, "size is not [height, width] ('large')"),
        ({"size": [33, 64]}, "size cannot be drawn (33x64 (height x width); allowed: multiples"),
        ({"text": {"a": 1}}, "text is not a text (dict)"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(tmp_path, row, says):
    good = {"prompt": "a lake", "category": "land", "image": ""}
    message = refusal([good, {**good, "prompt": "a hill", **row}], tmp_path)
    assert "cases.jsonl line 2: " in message and says in message
    assert "every row of a benchmark counts; mend or remove it" in message


def test_an_id_counts_once_and_so_does_a_case_without_one(tmp_path):
    row = {"prompt": "a lake", "category": "land"}
    message = refusal([row, {**row, "prompt": "a hill"}, row], tmp_path)
    assert "cases.jsonl line 3: id '" in message
    assert "is that of cases.jsonl line 1 too; allowed: each id once" in message
    message = refusal([{**row, "id": 1}, {**row, "id": "1", "prompt": "a hill"}], tmp_path)
    assert "line 2: id '1' is that of cases.jsonl line 1 too" in message
    assert len(load(as_jsonl([{**row, "seed": 1}, {**row, "seed": 2}], tmp_path)).stated) == 2


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("miniatur", "unknown benchmark 'miniatur'; did you mean miniature? allowed: "),
        ("none.yaml", "none.yaml: No such file or directory; check the name"),
        ("list.yaml", "list.yaml: not a mapping; allowed: the keys t2i, edit, columns"),
        ("key.yaml", "key.yaml: t2is: unknown key; did you mean t2i?"),
        ("empty.yaml", "empty.yaml: neither t2i nor edit; allowed: the address of files"),
        ("no/such.jsonl", "t2i: no/such.jsonl holds no such file; allowed: a .jsonl"),
    ],
)
def test_a_word_that_names_no_benchmark_is_refused_with_what_is_allowed(
    tmp_path, monkeypatch, word, says
):
    monkeypatch.chdir(tmp_path)
    for name, text in (("list", "[a]"), ("key", "t2is: x"), ("empty", "category: a")):
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_benchmark(named_benchmark(word), RECIPE)
    assert str(caught.value).startswith(f"--benchmark: {says}")


def test_it_is_pickled_with_its_pictures(tmp_path):
    file = as_jsonl(CASES, tmp_path)
    benchmark = load(file)
    file.unlink()
    there = pickle.loads(pickle.dumps(benchmark))
    assert facts(there) == facts(benchmark) and there.digest == benchmark.digest
    cases = pickle.loads(pickle.dumps(benchmark.cases("edit", 9)))
    assert {case.references[0].size for case in cases} == {(96, 48), (32, 96)}


def test_one_file_holds_it_all(tmp_path):
    benchmark = load(as_tar(CASES, tmp_path))
    whole = tmp_path / "whole.jsonl"
    whole.write_text(benchmark.to_jsonl())
    assert facts(load(whole)) == facts(benchmark) and load(whole).digest == benchmark.digest


def test_another_resolution_is_another_benchmark_where_cases_state_no_size(tmp_path):
    wide = load_recipe("miniature", ["data.resolution=[64, 96]"])
    stated = as_jsonl([row for row in CASES if row.get("size")], tmp_path)
    assert load(stated).digest == load(stated, wide).digest
    unstated = as_jsonl(CASES, tmp_path)
    assert load(unstated).digest != load(unstated, wide).digest


def test_a_judge_of_some_cases_of_a_category_is_a_judge_of_the_benchmark(tmp_path):
    rows = [{"prompt": f"sign {n}", "category": "signs", "id": n} for n in range(3)]
    rows[-1]["text"] = "OPEN"
    named = f"evaluation={{benchmark: {{t2i: {as_jsonl(rows, tmp_path)}}}, judge: ocr}}"
    assert load_scoring(load_recipe("miniature", [named])).benchmark.name == "cases"
    del rows[-1]["text"]
    as_jsonl(rows, tmp_path)
    with pytest.raises(UserError, match="ocr can judge none of the 3 cases of benchmark 'cases'"):
        load_scoring(load_recipe("miniature", [named]))

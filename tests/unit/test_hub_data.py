"""Data sets as `datasets` has them: on a hub of the tests, and in folders that it saved."""

import io
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from flash_ray import plugins
from flash_ray.data import hub as hub_module
from flash_ray.data.catalog import listing_of
from flash_ray.data.files import FoundFiles, find_files, validate_columns
from flash_ray.data.readers import read_rows
from flash_ray.errors import UserError
from flash_ray.recipe.schema import Columns, Files, Task
from tests.helpers.hub_server import Hub, hub_environment, hub_server

FEATURES = Features(
    {"prompt": Value("string"), "category": ClassLabel(names=["sea", "hill"]), "image": Image()}
)


def picture(side: int) -> Pillow.Image:
    noise = np.random.default_rng(side).integers(0, 255, (side, 40, 3), dtype=np.uint8)
    return Pillow.fromarray(noise)


def edits(count: int = 3) -> Dataset:
    rows = {
        "prompt": [f"edit {n}" for n in range(count)],
        "category": [n % 2 for n in range(count)],
        "image": [picture(32 + n) for n in range(count)],
    }
    return Dataset.from_dict(rows, features=FEATURES)


def parquet(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.to_parquet(buffer)
    return buffer.getvalue()


def prompts(*words: str) -> bytes:
    rows = [{"prompt": word, "category": "any"} for word in words]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def found_at(address: object, task: Task = "t2i", **columns: str) -> FoundFiles:
    source = Files(**{task: str(address)}, columns=Columns(**columns))
    files = find_files(source, task, None)
    validate_columns(files)
    return files


def listing(files: FoundFiles) -> list[dict[str, Any]]:
    """As the tasks of a cluster list them: the files travel."""
    there = pickle.loads(pickle.dumps(files))
    rows = [row for path in there.paths for row in read_rows(there, path)]
    return [entry for place, raw in rows for entry in listing_of(place, raw, there)]


@dataclass(frozen=True)
class Read:
    """What a process that knows the hub of the tests finds at an address."""

    digest: str
    paths: tuple[str, ...]
    left_aside: tuple[str, ...]
    rows: list[dict[str, Any]]

    @property
    def lengths(self) -> list[int]:
        return [row["length"] for row in self.rows]


def read_there(address: str, task: Task, columns: dict[str, str], has_library: bool) -> Read | str:
    """In the other process: what is at the address, or why nothing."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            if not has_library:
                patch.setattr(plugins, "find_spec", lambda module: None)
            files = found_at(address, task, **columns)
        return Read(files.digest, files.paths, files.left_aside, listing(files))
    except UserError as error:
        return str(error)


def forget() -> None:
    """In the other process: what a new one would not know."""
    hub_module._commit.cache_clear()
    hub_module._splits.cache_clear()


class HubReader:
    """A hub, and a process whose huggingface_hub asks it: that reads its variables once."""

    def __init__(self, hub: Hub, process: ProcessPoolExecutor):
        self.push, self.cuts_off, self._process = hub.push, hub.cuts_off, process

    def read(
        self, address: str, task: Task = "t2i", has_library: bool = True, **columns: str
    ) -> Read:
        found = self._process.submit(read_there, address, task, columns, has_library).result()
        if isinstance(found, str):
            raise UserError(found)
        return found

    def forget(self) -> None:
        self._process.submit(forget).result()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubReader]:
    with hub_server() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in hub_environment(running, tmp_path_factory.mktemp("hub")).items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield HubReader(running, process)


@pytest.fixture
def hub(reader: HubReader) -> HubReader:
    reader.forget()
    return reader


SPLITS = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train-00000-of-00002.parquet": prompts("one", "two"),
    "data/train-00001-of-00002.parquet": prompts("three"),
    "data/test-00000-of-00001.parquet": prompts("of the test"),
}


def test_of_a_data_set_the_split_for_training_is_read_and_no_other(hub):
    commit = hub.push("datasets/me/plain", SPLITS)
    files = hub.read("hf://me/plain")
    assert files.lengths == [3, 3, 5]
    (note,) = files.left_aside
    assert note.startswith("data.source.t2i: hf://me/plain is split 'train' at commit " + commit)
    assert hub.read("hf://me/plain/test").lengths == [11]
    assert hub.read(f"hf://me/plain@{commit}").left_aside == ()


def test_a_process_reads_the_commit_that_it_found_first(hub):
    first = hub.push("datasets/me/moves", {"train.jsonl": b'{"prompt": "a", "category": "c"}\n'})
    files = hub.read("hf://me/moves")
    hub.push("datasets/me/moves", {"train.jsonl": b'{"prompt": "other", "category": "c"}\n'})
    assert hub.read("hf://me/moves") == files and files.lengths == [1]
    hub.forget()
    moved = hub.read("hf://me/moves")
    assert moved.digest != files.digest and moved.lengths == [5]
    assert hub.read(f"hf://me/moves@{first}").paths == files.paths


CONFIGS = b"""---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/*.jsonl}
  - {split: held, path: held/*.jsonl}
- config_name: zh
  data_files: [{split: train, path: zh/*.jsonl}]
---
"""


LINES = {f"{n}/a.jsonl": b'{"prompt": "x", "category": "c"}\n' for n in ("en", "held", "zh")}


def test_configurations_and_splits_are_those_that_the_card_says(hub):
    hub.push("datasets/me/tongues", {"README.md": CONFIGS, **LINES})
    read = {
        address: hub.read(f"hf://me/tongues/{address}").paths[0].partition("/a.jsonl")[0][-3:]
        for address in ("en", "zh", "en/held", "zh/train")
    }
    assert read == {"en": "/en", "zh": "/zh", "en/held": "eld", "zh/train": "/zh"}


def test_pictures_and_named_labels_of_a_data_set_are_read(hub):
    hub.push("datasets/me/edits", {"data/train-00000-of-00001.parquet": parquet(edits())})
    rows = hub.read("hf://me/edits", "edit").rows
    assert [row["category"] for row in rows] == ["sea", "hill", "sea"]
    assert [row["sizes"] for row in rows] == [((32 + n, 40),) for n in range(3)]


def test_pictures_beside_their_table_are_fetched(hub):
    buffer = io.BytesIO()
    picture(48).save(buffer, "PNG")
    row = {"file_name": "a/1.png", "text": "make it old", "kind": "style"}
    hub.push(
        "datasets/me/folder",
        {"train/metadata.jsonl": json.dumps(row).encode(), "train/a/1.png": buffer.getvalue()},
    )
    columns = {"prompt": "text", "category": "kind", "image": "file_name"}
    (listed,) = hub.read("hf://me/folder", "edit", **columns).rows
    assert listed["category"] == "style" and listed["sizes"] == ((48, 40),)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://plain", "'hf://plain' is no data set's address"),
        ("hf://me/plain/a/b/c", "is no data set's address"),
        ("hf://user:word@host/x", "is no data set's address"),
        ("hf://me/none", "cannot be had from the hub"),
        ("hf://me/plain@v2", "cannot be had from the hub"),
        ("hf://me/plain/valid", "has no split 'valid'; allowed: train, test"),
        ("hf://me/tongues", "pick one among the available configs"),
        ("hf://me/weights", "cannot be had from the hub"),
        ("hf://me/cut", "cannot be had from the hub (RemoteProtocolError"),
    ],
)
def test_what_is_not_there_is_one_line(hub, address, says):
    hub.push("datasets/me/plain", SPLITS)
    hub.push("datasets/me/tongues", {"README.md": CONFIGS, **LINES})
    hub.push("datasets/me/weights", {"model.safetensors": b"x"})
    hub.cuts_off.add("me/cut")
    with pytest.raises(UserError) as refusal:
        hub.read(address)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("data.source.t2i: ")


def test_without_the_library_the_line_says_what_to_install(hub):
    with pytest.raises(UserError, match=r"datasets is not installed; .*flash-ray\[datasets\]"):
        hub.read("hf://me/plain", has_library=False)


def test_a_saved_folder_is_read_without_what_the_library_keeps_for_itself(tmp_path: Path):
    edits(70).save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved/cache-0123456789abcdef.arrow").write_bytes(b"of a map")
    files = found_at(tmp_path / "saved", "edit")
    assert files.kind == "arrow" and len(files.paths) == 2 and files.left_aside == ()
    rows = listing(files)
    assert len(rows) == 70 and {row["category"] for row in rows} == {"sea", "hill"}
    assert sorted(row["sizes"][0][0] for row in rows) == list(range(32, 102))


def test_of_several_saved_splits_one_must_be_named(tmp_path: Path):
    splits = DatasetDict({"train": edits(2), "test": edits(1)})
    splits.save_to_disk(tmp_path / "both")
    with pytest.raises(UserError) as refusal:
        found_at(tmp_path / "both", "edit")
    assert f"holds the splits test, train; allowed: one of them; give {tmp_path}/both/SPLIT" in str(
        refusal.value
    )
    assert len(listing(found_at(tmp_path / "both/train", "edit"))) == 2


def test_an_arrow_file_that_is_cut_off_is_said(tmp_path: Path):
    edits(5).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is no arrow file .the file cannot be read"):
        found_at(tmp_path / "saved", "edit")

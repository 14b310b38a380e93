"""Who can write the bucket cannot run code: in each kind of stored file a payload is refused."""

import base64
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from flash_ray.data.cache import ConditionCache, ConditionsLost, condition_sets
from flash_ray.data.catalog import from_parquet
from flash_ray.data.source import Shard
from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.storage.manifest import write_manifest
from flash_ray.trainer import checkpoint
from tests.helpers.payload import Payload
from tests.helpers.storage import FolderStore

DIGEST = "0123456789abcdef"
STATES = [
    "student/part-00000.safetensors",
    "fake_score/adapter.safetensors",
    "ema-00000.safetensors",
    "student/state/mp_rank_00_model_states.pt",  # as earlier versions wrote it
]
READER = checkpoint.Reader("full 2")


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    path = tmp_path / "touched"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # so it would be seen
    path.rmdir()
    return path


def refused(words: str, call: Callable[..., object], *arguments: object) -> None:
    """The call raises a UserError of one line with the words in it."""
    with pytest.raises(UserError, match=words) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint that is whole by its manifest."""
    for state in STATES[:3]:
        path = folder / state
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weight": torch.zeros(3)}, path)
    write_manifest(folder, DIGEST, 12, {"weights": "w"})
    return folder


@pytest.mark.parametrize("kind", ["pickle", "torch", "torchscript"])
@pytest.mark.parametrize("name", STATES)
def test_resume_state_is_files_of_tensors(
    tmp_path: Path, touched: Path, name: str, kind: str
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(touched)))
    elif kind == "torch":
        torch.save({"weight": torch.zeros(3), "more": Payload(touched)}, path)
    else:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    write_manifest(folder, DIGEST, 12, {"weights": "w"})
    words = f"{name} is no file of tensors .*start a run with"
    refused(words, checkpoint.check, folder, DIGEST, "w", READER)
    assert not touched.exists()


def test_resume_state_of_tensors_passes(tmp_path: Path) -> None:
    checkpoint.check(write_checkpoint(tmp_path / "checkpoint"), DIGEST, "w", READER)


def test_lists_of_rows(touched: Path) -> None:
    # Importing it registers the type whose values are pickles.
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    column = ArrowPythonObjectArray.from_objects([Payload(touched)])
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"digest": column, "bad": ["x"]}), buffer)
    data = buffer.getvalue().to_pybytes()
    refused("remove that object, and it is made anew", from_parquet, "data.source.t2i", data)
    refused("is made anew", from_parquet, "data.source.t2i", pickle.dumps(Payload(touched)))
    assert not touched.exists()


def test_conditions(tmp_path: Path, touched: Path) -> None:
    key = tmp_path / "store/conditions/0123.safetensors"
    key.parent.mkdir(parents=True)
    key.write_bytes(pickle.dumps(Payload(touched)))
    cache = ConditionCache(FolderStore(tmp_path / "store"), tmp_path / "cache")
    shard = Shard(digest="0123", task="t2i", category="a", cases=("1",), rows=1, buckets=())
    with pytest.raises(ConditionsLost, match="which encodes them anew"):
        condition_sets(cache, [shard], {"a": 1})
    assert not touched.exists()


def test_recipes(tmp_path: Path, touched: Path) -> None:
    data = base64.b64encode(pickle.dumps(Payload(touched))).decode()
    for tag in (f"!!python/object/apply:os.mkdir [{touched}]", f"!!binary {data}"):
        (tmp_path / "recipe.yaml").write_text(f"base: {tag}\n")
        refused("allowed: |recipe.yaml", load_recipe, str(tmp_path / "recipe.yaml"))
    assert not touched.exists()

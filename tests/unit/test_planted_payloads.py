"""Who can write the bucket cannot run code: in each kind of stored file a payload is refused."""

import base64
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from flash_ray.data.cache import ConditionCache, ConditionsLost, condition_sets
from flash_ray.data.catalog import from_parquet
from flash_ray.data.source import Shard
from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.storage.manifest import write_manifest
from flash_ray.trainer import checkpoint
from flash_ray.trainer.learners import load_engine, only_tensors, reshard
from tests.helpers.payload import Payload
from tests.helpers.storage import FolderStore

DIGEST = "0123456789abcdef"
STATES = [
    "student/state/mp_rank_00_model_states.pt",
    "fake_score/state/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "ema-00000.pt",
]


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


def plant(folder: Path, name: str, touched: Path) -> Path:
    """A checkpoint that is whole by its manifest, with a payload in one file."""
    for state in STATES:
        path = folder / state
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.zeros(3)}, path)
    torch.save({"weight": torch.zeros(3), "more": Payload(touched)}, folder / name)
    write_manifest(folder, DIGEST, 12, {"weights": "w"})
    return folder


@pytest.mark.parametrize("name", STATES)
def test_resume_state(tmp_path: Path, touched: Path, name: str) -> None:
    folder = plant(tmp_path / "checkpoint", name, touched)
    refused(f"{name} would run posix.mkdir, .*start a run", checkpoint.check, folder, DIGEST, "w")
    assert not touched.exists()


@pytest.mark.parametrize("kind", ["pickle", "old torch", "torchscript"])
def test_resume_state_that_is_no_file_of_tensors(tmp_path: Path, touched: Path, kind: str) -> None:
    folder = plant(tmp_path / "checkpoint", STATES[0], touched)
    if kind == "pickle":
        (folder / STATES[0]).write_bytes(pickle.dumps(Payload(touched)))
    elif kind == "old torch":
        torch.save(Payload(touched), folder / STATES[0], _use_new_zipfile_serialization=False)
    else:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / STATES[0]))
    write_manifest(folder, DIGEST, 12, {"weights": "w"})
    refused(f"{STATES[0]} ", checkpoint.check, folder, DIGEST, "w")
    assert not touched.exists()


def test_state_of_tensors_passes(tmp_path: Path, touched: Path) -> None:
    folder = plant(tmp_path / "checkpoint", STATES[0], touched)
    torch.save({"weight": torch.zeros(3)}, folder / STATES[0])
    write_manifest(folder, DIGEST, 12, {"weights": "w"})
    assert checkpoint.check(folder, DIGEST, "w") == 1


class Engine:
    """Reads as DeepSpeed's does."""

    def load_universal_checkpoint(self) -> bool:
        return False

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str, dict]:
        path = Path(folder) / tag / "mp_rank_00_model_states.pt"
        return str(path), torch.load(path, weights_only=False)


def test_deepspeed_itself_runs_no_pickle(tmp_path: Path, touched: Path) -> None:
    folder = plant(tmp_path / "checkpoint", STATES[0], touched) / "student"
    optimizer = folder / "state/zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": Payload(touched)}, optimizer)
    with pytest.raises(pickle.UnpicklingError):
        load_engine(Engine(), folder)
    with pytest.raises(pickle.UnpicklingError):
        reshard(folder)
    assert not touched.exists()
    torch.load(folder / "state/mp_rank_00_model_states.pt", weights_only=False)
    assert touched.exists()  # elsewhere torch does as it is told


def test_the_records_of_deepspeed_are_read(tmp_path: Path) -> None:
    from deepspeed.utils.tensor_fragment import fragment_address

    torch.save(fragment_address(3, 4), tmp_path / "x.pt")
    with only_tensors():
        assert torch.load(tmp_path / "x.pt", weights_only=False).start == 4


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

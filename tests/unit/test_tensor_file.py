"""Files of tensors: safetensors reads what is written, and the digest is the file's."""

import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.tensor_file import open_tensors, write_tensors

TENSORS = {
    "weights/a": torch.arange(7.0),
    "weights/b.c": torch.randn(3, 5).t(),  # not contiguous
    "step": torch.tensor(3.0),
    "none": torch.zeros(0),
}


def test_safetensors_reads_what_is_written(tmp_path):
    path = tmp_path / "folder/file.safetensors"
    record = write_tensors(path, TENSORS, starts="{}", step="3")
    data = path.read_bytes()
    assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"starts": "{}", "step": "3"}


def test_ranges_are_read(tmp_path):
    write_tensors(tmp_path / "x", TENSORS)
    with open_tensors(tmp_path / "x") as file:
        assert torch.equal(file.get_slice("weights/a")[2:4], torch.tensor([2.0, 3.0]))


def test_other_dtypes_are_no_state(tmp_path):
    with pytest.raises(ValueError, match=r"a is torch.bfloat16"):
        write_tensors(tmp_path / "x", {"a": torch.zeros(2, dtype=torch.bfloat16)})


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 16, b"\x08\0\0\0\0\0\0\0{}      "[:12]])
def test_what_is_no_such_file_is_corrupt(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CorruptRecord, match="x is corrupt .* as a file of tensors"):
        with open_tensors(tmp_path / "x"):
            pass

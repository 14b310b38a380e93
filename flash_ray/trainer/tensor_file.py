"""Files of tensors in safetensors format, hashed while they are written and read in ranges."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flash_ray.storage.manifest import EARLIER, FileRecord
from flash_ray.storage.records import CorruptRecord

FP32 = "F32"  # safetensors' name of it


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> FileRecord:
    """Writes fp32 tensors of any device, one after the other, so that the host holds one of them.

    Returns:
        the file's size and digest.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; this file takes float32")
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": FP32, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:

        def write(data: Any) -> None:
            file.write(data)
            digest.update(data)

        write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return FileRecord(bytes=path.stat().st_size, sha256=digest.hexdigest())


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """safetensors' view of a file, whose slices alone are read.

    Raises:
        CorruptRecord: it is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = f"{type(error).__name__} as a file of tensors"
        raise CorruptRecord(f"checkpoint {path.parent}: {path.name}", reason, EARLIER) from error

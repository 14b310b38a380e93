"""From names in a recipe to a loaded backbone, and the digest of what encodes its conditions."""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flash_ray.errors import UserError

if TYPE_CHECKING:
    import torch

ENCODER_PARTS = ("text_encoder", "processor", "vae", "scheduler")
MINIATURE = resources.files("flash_ray.miniature") / "base"
SPECIALIZED = resources.files("flash_ray.miniature") / "specialized"
LORA = "pytorch_lora_weights.safetensors"
_MIB = 2**20


def resolve_base(base: str) -> str:
    """'miniature' -> the folder that ships with the package; else unchanged.

    Raises:
        UserError: `base` looks like a folder and holds no pipeline.
    """
    source = str(MINIATURE) if base == "miniature" else base
    is_hub_id = source.count("/") == 1 and not source.startswith((".", "/"))
    if not (Path(source) / "model_index.json").is_file() and not is_hub_id:
        raise UserError(
            f"base: no pipeline in {source} (model_index.json is missing); give a folder written "
            "by save_pretrained, a hub id, or 'miniature'"
        )
    return source


def is_lora(model: str) -> bool:
    """Whether a teacher's model is a LoRA: the shipped one, or a folder with one's weights."""
    return model == "miniature-specialized" or (Path(model) / LORA).is_file()


def resolve_lora(model: str) -> Path:
    """'miniature-specialized' -> the folder that ships with the package; else unchanged."""
    return Path(str(SPECIALIZED)) if model == "miniature-specialized" else Path(model)


def lora_digest(model: str) -> str:
    """16 hex digits of the SHA-256 of a LoRA's weights."""
    with (resolve_lora(model) / LORA).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_backbone(base: str, dtype: "torch.dtype", device: "torch.device | str", encoders: bool):
    """Loads the backbone; see `QwenImage21.from_pretrained` for arguments and errors."""
    from flash_ray.models.qwen_image_21 import QwenImage21

    return QwenImage21.from_pretrained(resolve_base(base), dtype, device, encoders)


def encoder_digest(base: str) -> str:
    """Digest (16 hex digits) of the files that decide how a case is encoded.

    Of a folder: names, sizes and contents, of files above 64 MiB the first, middle and last MiB.
    Of a hub id: the id and the commit that its cached or downloaded copy comes from.
    """
    return _digest(base, ENCODER_PARTS)


def base_digest(base: str) -> str:
    """The same of everything that decides which picture the base draws: its transformer too."""
    return _digest(base, (*ENCODER_PARTS, "transformer"))


def _digest(base: str, parts: tuple[str, ...]) -> str:
    source = resolve_base(base)
    digest = hashlib.sha256()
    folder = Path(source)
    if folder.is_dir():
        for part in parts:
            for path in sorted(p for p in (folder / part).rglob("*") if p.is_file()):
                digest.update(
                    json.dumps([str(path.relative_to(folder)), path.stat().st_size]).encode()
                )
                for block in _blocks(path):
                    digest.update(block)
    else:
        digest.update(f"{source}@{_hub_commit(source)}".encode())
    return digest.hexdigest()[:16]


def _blocks(path: Path):
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 64 * _MIB:
            yield file.read()
            return
        for start in (0, size // 2, size - _MIB):
            file.seek(start)
            yield file.read(_MIB)


def _hub_commit(model: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        # .../snapshots/<commit>/model_index.json
        return Path(hf_hub_download(model, "model_index.json")).parent.name
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"base: {model!r} is neither a folder nor a hub model that can be reached ({reason}); "
            "download it first, or give its folder"
        ) from error

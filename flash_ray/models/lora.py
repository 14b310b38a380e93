"""LoRAs as people have them, in diffusers' format: one reader for checking and for loading.

Taken are diffusers' and PEFT's keys, ComfyUI's (`diffusion_model.`), kohya's (`lora_unet_`,
`lora_down`, `lora_up`, `alpha`), keys without a prefix, and DoRA by output.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor

PREFIX = "transformer."
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", PREFIX)
_FLAT = ("lora_unet_", "lora_transformer_")  # kohya's: dots are underscores
_OTHER_KINDS = {"lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", ".diff": "full differences"}
_MAGNITUDE = ".lora_magnitude_vector"  # of DoRA, one for each output
_APART = (_MAGNITUDE, ".lora_B.bias")  # what diffusers' converter does not know, but its loader
_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


class BadLora(ValueError):
    """The file is no LoRA that fits; the message says why."""


def read_lora(
    file: Path, shapes: Mapping[str, Sequence[int]], headers_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A LoRA for a transformer: its matrices with diffusers' names, and settings of its adapter.

    Args:
        shapes: of the transformer's weights, by name.
        headers_only: reads no matrix: they come as tensors on the device "meta".

    Raises:
        BadLora: it cannot be read, is of another kind, or does not fit.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            given = {key: _tensor(opened, key, headers_only) for key in opened.keys()}
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BadLora(f"cannot be read ({error}); download it again") from error
    for mark, kind in _OTHER_KINDS.items():
        if any(mark in key for key in given):
            raise BadLora(f"holds {kind}, which is no LoRA")
    flat = {layer.replace(".", "_"): layer for layer in _layers(shapes)}
    named = {_without_prefix(key, flat): value for key, value in given.items()}
    matrices = _converted(named)
    _check_fit(matrices, shapes)
    has_alphas = any(key.endswith(".alpha") for key in named)
    return matrices, None if has_alphas else _settings(file, metadata, matrices)


def _tensor(opened: Any, key: str, headers_only: bool) -> Tensor:
    if headers_only and not key.endswith(".alpha"):
        return torch.empty(opened.get_slice(key).get_shape(), device="meta")
    tensor: Tensor = opened.get_tensor(key)
    return tensor


def _layers(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    return [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]


def _without_prefix(key: str, flat: Mapping[str, str]) -> str:
    for prefix in _FLAT:
        if key.startswith(prefix):
            layer, dot, rest = key.removeprefix(prefix).partition(".")
            return f"{flat.get(layer, layer)}{dot}{rest}"
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key.replace(".default.", ".")


def _converted(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By diffusers' converter: names of diffusers, alphas multiplied in."""
    apart = {key: value for key, value in named.items() if key.endswith(_APART)}
    for key, value in named.items():
        if key.endswith(".dora_scale"):
            if value.dim() == 2 and value.shape[1] != 1:
                raise BadLora("is a DoRA whose magnitudes are by input; those by output are taken")
            apart[key.removesuffix(".dora_scale") + _MAGNITUDE] = value.flatten()
    rest = {k: v for k, v in named.items() if k not in apart and not k.endswith(".dora_scale")}
    if not any(".lora_" in key for key in rest):
        raise BadLora("holds no LoRA")
    try:
        # The prefix has the converter run whatever else there is.
        matrices: dict[str, Tensor] = QwenImage21Pipeline.lora_state_dict(
            {f"diffusion_model.{key}": value for key, value in rest.items()}
        )
    except (ValueError, KeyError) as error:
        raise BadLora(
            f"is not as diffusers reads it ({' '.join(str(error).split())[:120]})"
        ) from error
    return matrices | {f"{PREFIX}{key}": value for key, value in apart.items()}


def _check_fit(matrices: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    for key, down in matrices.items():
        layer, is_down, _ = key.removeprefix(PREFIX).partition(".lora_A.")
        if not is_down:
            continue
        up = matrices[key.replace(".lora_A.", ".lora_B.")]
        own, expected = [up.shape[0], down.shape[-1]], shapes.get(f"{layer}.weight")
        if down.dim() != 2 or up.shape[1] != down.shape[0] or list(expected or ()) != own:
            has = "none" if expected is None else "x".join(map(str, expected))
            raise BadLora(
                f"has matrices for {layer} of {own[0]}x{own[1]}, the base has {has} there"
            )
        magnitude = matrices.get(f"{PREFIX}{layer}{_MAGNITUDE}")
        if magnitude is not None and list(magnitude.shape) != own[:1]:
            raise BadLora(f"has {magnitude.shape[0]} magnitudes for {layer}, which has {own[0]}")


def _settings(
    file: Path, metadata: Mapping[str, str], matrices: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """The adapter's settings in the file, or in PEFT's adapter_config.json beside it; None: there
    are none, and the LoRA's scale is 1."""
    try:
        if "lora_adapter_metadata" in metadata:
            settings: dict[str, Any] = json.loads(metadata["lora_adapter_metadata"])
            return settings
        beside = file.with_name("adapter_config.json")
        if not beside.is_file():
            return None
        config = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadLora(f"has settings that cannot be read ({type(error).__name__})") from error
    layers = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in matrices}
    settings = {name: config[name] for name in _SETTINGS if name in config}
    return {f"{PREFIX}{k}": v for k, v in {**settings, "target_modules": sorted(layers)}.items()}

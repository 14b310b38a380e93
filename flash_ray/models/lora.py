"""LoRAs as people have them, in diffusers' format: one reader for checking and for loading.

Taken are diffusers' and PEFT's keys, ComfyUI's (`diffusion_model.`), kohya's (`lora_unet_`,
`lora_down`, `lora_up`, `alpha`), keys without a prefix, and DoRA by output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flash_ray.models.lora_settings import (
    BIAS,
    MAGNITUDE,
    MOST_ALPHA,
    PREFIX,
    BadLora,
    read_settings,
)

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", PREFIX)
_FLAT = ("lora_unet_", "lora_transformer_")  # kohya's: dots are underscores
_OTHER_KINDS = {"lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", ".diff": "full differences"}
_APART = (MAGNITUDE, BIAS)  # what diffusers' converter does not know, but its loader
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_MOST_TENSORS = 8  # for each of the base's weights


def read_lora(
    file: Path, shapes: Mapping[str, Sequence[int]], check_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A LoRA for a transformer: its matrices with diffusers' names, and settings of its adapter.

    The header is checked before any matrix is read: what does not fit takes no memory.

    Args:
        shapes: of the transformer's weights, by name.
        check_only: keeps no matrix: they come as tensors on the device "meta".

    Raises:
        BadLora: it cannot be read, is of another kind, does not fit, or holds no finite numbers.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            keys, metadata = opened.keys(), opened.metadata() or {}
            if len(keys) > _MOST_TENSORS * len(shapes):
                raise BadLora(f"holds {len(keys)} tensors, too many for the base")
            matrices = _matrices({key: _header(opened, key) for key in keys}, shapes)
            values = {key: _finite(opened, key, keep=not check_only) for key in keys}
    except (OSError, RuntimeError, SafetensorError) as error:  # no memory to map it is torch's
        raise BadLora(f"cannot be read ({error}); download it again") from error
    ranks, extras = _ranks_and_extras(matrices)
    if not check_only:
        matrices = _matrices(values, shapes)
    has_alphas = any(key.endswith(".alpha") for key in values)
    return matrices, None if has_alphas else read_settings(file, metadata, ranks, extras)


def _header(opened: Any, key: str) -> Tensor:
    """The tensor without its values, but for an alpha."""
    found = opened.get_slice(key)
    shape, kind = found.get_shape(), found.get_dtype()
    if key.endswith(".alpha"):
        alpha: Tensor = opened.get_tensor(key) if shape in ([], [1]) else torch.zeros(())
        if not 0 < float(alpha) <= MOST_ALPHA:  # also NaN; diffusers' converter would not end
            raise BadLora(f"has an alpha that is no number above 0 and up to {MOST_ALPHA:g}: {key}")
        return alpha
    if kind not in _FLOATS:
        raise BadLora(f"holds numbers of kind {kind}, where LoRAs have floats: {key}")
    if 0 in shape or not 1 <= len(shape) <= 2:
        raise BadLora(f"holds a tensor of shape {shape}, which is no matrix: {key}")
    return torch.empty(shape, device="meta")


def _finite(opened: Any, key: str, keep: bool) -> Tensor:
    tensor: Tensor = opened.get_tensor(key)
    if not torch.isfinite(tensor.float()).all():
        raise BadLora(f"holds numbers that are not finite: {key}")
    return tensor if keep else torch.empty(tensor.shape, device="meta")


def _matrices(
    given: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """The matrices by diffusers' names, which fit the transformer."""
    for mark, kind in _OTHER_KINDS.items():
        if any(mark in key for key in given):
            raise BadLora(f"holds {kind}, which is no LoRA")
    flat = {layer.replace(".", "_"): layer for layer in _layers(shapes)}
    named = {_without_prefix(key, flat): value for key, value in given.items()}
    if len(named) < len(given):
        raise BadLora("names a matrix in two ways")
    matrices = _converted(named)
    _check_fit(matrices, shapes)
    return matrices


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
    from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline

    apart = {key: value for key, value in named.items() if key.endswith(_APART)}
    for key, value in named.items():
        if key.endswith(".dora_scale"):
            if value.dim() == 2 and value.shape[1] != 1:
                raise BadLora("is a DoRA whose magnitudes are by input; those by output are taken")
            apart[key.removesuffix(".dora_scale") + MAGNITUDE] = value.flatten()
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
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in matrices.items():
        layer, dot, part = key.removeprefix(PREFIX).partition(".lora_")
        parts.setdefault(layer, {})[f"{dot}{part}"] = value
    for layer, of in parts.items():
        down, up = of.pop(".lora_A.weight", None), of.pop(".lora_B.weight", None)
        if down is None or up is None or set(of) - set(_APART):
            raise BadLora(f"has no pair of matrices for {layer}, or more than that")
        expected = list(shapes.get(f"{layer}.weight", ()))
        if down.dim() != 2 or up.dim() != 2 or [up.shape[0], down.shape[1]] != expected:
            has = "x".join(map(str, expected)) or "none"
            own = f"{up.shape[0]}x{down.shape[-1]}"
            raise BadLora(f"has matrices for {layer} of {own}, the base has {has} there")
        if not up.shape[1] == down.shape[0] <= max(expected):
            ranks = f"{down.shape[0]} and {up.shape[1]}"
            raise BadLora(f"has matrices for {layer} of ranks {ranks}, for {max(expected)} at most")
        if wrong := [value for value in of.values() if list(value.shape) != expected[:1]]:
            raise BadLora(
                f"has {wrong[0].numel()} magnitudes or biases for {layer}, which has {expected[0]}"
            )


def _ranks_and_extras(matrices: Mapping[str, Tensor]) -> tuple[dict[str, int], set[str]]:
    """The rank of each layer's matrices, and which of `_APART` there are.

    Raises:
        BadLora: some layers have magnitudes and others do not, which PEFT cannot make.
    """
    ranks = {
        key.removeprefix(PREFIX).removesuffix(".lora_A.weight"): value.shape[0]
        for key, value in matrices.items()
        if key.endswith(".lora_A.weight")
    }
    counts = {ending: sum(key.endswith(ending) for key in matrices) for ending in _APART}
    if counts[MAGNITUDE] not in (0, len(ranks)):
        raise BadLora(f"has magnitudes for {counts[MAGNITUDE]} of its {len(ranks)} layers")
    return ranks, {ending for ending, count in counts.items() if count}

"""Prefixes of single rows as one batch's, without the rows changing each other.

`Condition.cat` pads a batch's texts to one length, and the transformer counts padding as positions,
so a row's result depends on the rows beside it. Prefixes that were filled row by row do not: the
text was alone. What remains is the target, which lies `extra` positions further on in the batch
than in the row alone, along the frame axis only. Rotary attention depends on differences of
positions, so a row's keys are turned by as many positions and every attention score is as it was.
"""

from collections.abc import Sequence

import torch
from diffusers import QwenImage21Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from torch import Tensor
from torch.nn.functional import pad

from flash_ray.backbones.base import Prefix


def rows_of(prefix: Prefix) -> list[Prefix]:
    """The rows of a filled prefix as prefixes of their own, copied: none keeps the batch alive."""
    layers = [layer.get() for layer in prefix.store.layer_caches]
    rows = layers[0][0].shape[0]
    return [
        _prefix([(k[row : row + 1].clone(), v[row : row + 1].clone()) for k, v in layers])
        for row in range(rows)
    ]


def join_prefixes(transformer: QwenImage21Transformer2DModel, rows: Sequence[Prefix]) -> Prefix:
    """One prefix of a batch, for the rows' conditions in the same order, joined by `Condition.cat`.

    Args:
        transformer: the one that filled the rows' prefixes.
        rows: filled prefixes of one row each, of one layout.
    """
    if len(rows) == 1:
        return rows[0]
    layers = [[layer.get() for layer in row.store.layer_caches] for row in rows]
    lengths = [layer[0][0].shape[1] for layer in layers]
    turns_P = transformer.pos_embed.freqs[0]  # of the frame axis: positions x pairs of channels
    joined = []
    for parts in zip(*layers, strict=True):
        keys, values = [], []
        for (k_1LHD, v_1LHD), length in zip(parts, lengths, strict=True):
            extra = max(lengths) - length
            keys.append(_longer(_turned(k_1LHD, turns_P[extra]), extra))
            values.append(_longer(v_1LHD, extra))
        joined.append((torch.cat(keys), torch.cat(values)))
    return _prefix(joined)


def size_of(prefix: Prefix) -> int:
    """Bytes of a filled prefix."""
    return sum(part.nbytes for layer in prefix.store.layer_caches for part in layer.get())


def _prefix(layers: Sequence[tuple[Tensor, Tensor]]) -> Prefix:
    prefix = Prefix()
    prefix.store = QwenImage21KVCache(len(layers))
    for number, (k_BLHD, v_BLHD) in enumerate(layers):
        prefix.store.get_layer(number).store(k_BLHD, v_BLHD)
    return prefix


def _turned(k_BLHD: Tensor, turn_P: Tensor) -> Tensor:
    """Keys with the pairs of channels of the frame axis turned by the complex numbers `turn_P`."""
    pairs = turn_P.shape[0]
    frame = torch.view_as_complex(k_BLHD[..., : 2 * pairs].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(frame * turn_P.to(k_BLHD.device)).flatten(-2)
    return torch.cat([turned.to(k_BLHD.dtype), k_BLHD[..., 2 * pairs :]], dim=-1)


def _longer(part_BLHD: Tensor, extra: int) -> Tensor:
    return pad(part_BLHD, (0, 0, 0, 0, 0, extra))

"""Fills, splits and joins prompt caches: joined rows do not change each other.

`Condition.cat` pads a batch's texts on the right to one length, and the transformer counts padding
as positions. That changes nothing for the texts, which are causal. But the target lies further on
than in the row alone, by as many positions as the row has padding, along the frame axis only, and
so a row's result depends on the rows beside it. Rotary attention depends on differences of
positions: keys that are turned by as many positions make every attention score what it was.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flash_ray.models.base import (
    PIXELS_PER_TOKEN,
    Condition,
    KeysValues,
    Layout,
    Model,
    PromptCache,
)

SLOT = 4  # latent tokens that stand for one token of the text encoder


@torch.no_grad()
def prefill(model: Model, transformer: nn.Module, condition: Condition) -> PromptCache:
    """The filled cache of a condition that is on the transformer's device."""
    # It does not depend on the target: the smallest one there is costs least.
    layout = condition.layout
    small = Layout(layout.task, 32, 32, layout.references)
    rows, cache = len(condition), PromptCache()
    device = condition.embeds_BLD.device
    x_BNC = torch.zeros(rows, small.tokens, model.latent_channels, device=device)
    t_B = torch.ones(rows, device=device)
    model.velocity(transformer, x_BNC, t_B, replace(condition, layout=small), cache)
    return cache


def split(cache: PromptCache, condition: Condition) -> list[PromptCache]:
    """The rows of a cache that was filled for `condition`, without its padding, copied.

    Texts are causal and padded on the right: padding changes no key or value before it.
    """
    layers = _layers(cache)
    padding = (~condition.mask_BL).sum(1).tolist()
    length = layers[0][0].shape[1]
    return [
        _filled(
            [
                (
                    k_BLHD[row : row + 1, : length - extra].clone(),
                    v_BLHD[row : row + 1, : length - extra].clone(),
                )
                for k_BLHD, v_BLHD in layers
            ]
        )
        for row, extra in enumerate(padding)
    ]


def join(transformer: nn.Module, rows: Sequence[PromptCache]) -> PromptCache:
    """One cache of a batch, for the rows' conditions in the same order, joined by `Condition.cat`.

    Args:
        transformer: the one that filled the rows' caches.
        rows: filled caches of one row each, of one layout.

    Raises:
        TypeError: the transformer is not one that turns its keys like Qwen-Image-2.1.
    """
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel

    if len(rows) == 1:
        return rows[0]
    module = getattr(transformer, "module", transformer)  # that of an adapted one
    if not isinstance(module, QwenImage21Transformer2DModel):
        raise TypeError(f"the caches of a {type(module).__name__} cannot be joined")
    layers = [_layers(row) for row in rows]
    lengths = torch.tensor([layer[0][0].shape[1] for layer in layers])
    extra_B = lengths.max() - lengths
    turns = module.pos_embed.freqs[0]  # of the frame axis: positions x pairs of channels
    turn_BP = turns[extra_B.to(turns.device)]
    joined = []
    for parts in zip(*layers, strict=True):
        k_BLHD = pad_sequence([k_1LHD[0] for k_1LHD, _ in parts], batch_first=True)
        v_BLHD = pad_sequence([v_1LHD[0] for _, v_1LHD in parts], batch_first=True)
        joined.append((_turned(k_BLHD, turn_BP) if extra_B.any() else k_BLHD, v_BLHD))
    return _filled(joined)


def size_of(cache: PromptCache) -> int:
    """Bytes of a filled cache."""
    return sum(part.nbytes for layer in _layers(cache) for part in layer)


def token_shapes(layout: Layout) -> list[tuple[int, int, int]]:
    """(frames, rows, columns) in latent tokens: the references, then the target."""
    sizes = [*layout.references, (layout.height, layout.width)]
    return [(1, height // PIXELS_PER_TOKEN, width // PIXELS_PER_TOKEN) for height, width in sizes]


def _layers(cache: PromptCache) -> Sequence[KeysValues]:
    assert cache.layers is not None, "it is filled"
    return cache.layers


def _filled(layers: Sequence[KeysValues]) -> PromptCache:
    """The cache that holds these keys and values, by layer."""
    cache = PromptCache()
    cache.layers = layers
    return cache


def _turned(k_BLHD: Tensor, turn_BP: Tensor) -> Tensor:
    """Keys with the pairs of channels of the frame axis turned by each row's complex numbers."""
    pairs = turn_BP.shape[1]
    frame = torch.view_as_complex(k_BLHD[..., : 2 * pairs].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(frame * turn_BP[:, None, None].to(k_BLHD.device)).flatten(-2)
    return torch.cat([turned.to(k_BLHD.dtype), k_BLHD[..., 2 * pairs :]], dim=-1)

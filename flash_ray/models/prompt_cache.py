"""Fills, splits, joins and uses prompt caches: joined rows do not change each other.

`Condition.cat` pads a batch's texts on the right to one length, and the transformer counts padding
as positions. That changes nothing for the texts, which are causal. But the target lies further on
than in the row alone, by as many positions as the row has padding, along the frame axis only, and
so a row's result depends on the rows beside it. Rotary attention depends on differences of
positions: keys that are turned by as many positions make every attention score what it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flash_ray.models.base import PIXELS_PER_TOKEN, Condition, Layout, Model, PromptCache

# Imported where it is used: seconds, which processes that load no model need not spend.
if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_qwenimage21 import (
        QwenImage21KVCache,
        QwenImage21Transformer2DModel,
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
    layers = [layer.get() for layer in cache.store.layer_caches]
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
    layers = [[layer.get() for layer in row.store.layer_caches] for row in rows]
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
    return sum(part.nbytes for layer in cache.store.layer_caches for part in layer.get())


def token_shapes(layout: Layout) -> list[tuple[int, int, int]]:
    """(frames, rows, columns) in latent tokens: the references, then the target."""
    sizes = [*layout.references, (layout.height, layout.width)]
    return [(1, height // PIXELS_PER_TOKEN, width // PIXELS_PER_TOKEN) for height, width in sizes]


@torch.no_grad()
def decoder(
    transformer: "QwenImage21Transformer2DModel", condition: Condition, cache: PromptCache
) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes (x_BNC, t_B) -> v_BNC, in x_BNC's dtype, for any number of steps of one batch.

    Args:
        transformer: the one that filled the cache, itself and not an engine around it.
        condition: the batch's, on the transformer's device.
        cache: filled.
    """
    layout = condition.layout
    # The rows share a layout, so the first one's slots are every row's.
    repeats_L = torch.where(condition.slots_BL[0], SLOT, 1)
    target_N = torch.ones(layout.tokens, dtype=torch.bool, device=repeats_L.device)
    pictures_S = torch.cat([condition.slots_BL[0].repeat_interleave(repeats_L), target_N])
    rotary_SP = transformer.pos_embed(token_shapes(layout), pictures_S, device=target_N.device)
    rotary_NP = rotary_SP[-layout.tokens :]
    keys = None
    if not condition.mask_BL.all():
        real_BP = condition.mask_BL.repeat_interleave(repeats_L, dim=1)
        keys = torch.cat([real_BP, target_N.expand(len(condition), -1)], dim=1)[:, None, None]
    dtype = transformer.proj_out.weight.dtype

    @torch.no_grad()
    def velocity(x_BNC: Tensor, t_B: Tensor) -> Tensor:
        hidden_BND = transformer.img_in(x_BNC.to(dtype))
        time_BD = transformer.time_text_embed(t_B.to(dtype), hidden_BND)
        modulation_BD = transformer.modulation(time_BD)
        for number, block in enumerate(transformer.transformer_blocks):
            hidden_BND = block(
                hidden_states=hidden_BND,
                modulation=modulation_BD,
                rotary_emb=rotary_NP,
                attention_mask=keys,
                layer_cache=cache.store.get_layer(number),
                kv_cache_mode="cached",
            )
        hidden_BND = transformer.norm_out(hidden_BND, time_BD)
        return transformer.proj_out(hidden_BND).to(x_BNC.dtype)

    return velocity


def kv_cache_of(
    module: "QwenImage21Transformer2DModel", cache: PromptCache | None
) -> "tuple[QwenImage21KVCache | None, str | None]":
    """The transformer's `kv_cache` and `kv_cache_mode` for this call; fills an empty cache."""
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    if cache is None:
        return None, None
    if cache.store is None:
        cache.store = QwenImage21KVCache(len(module.transformer_blocks))
        return cache.store, "extract"
    return cache.store, "cached"


def _filled(layers: Sequence[tuple[Tensor, Tensor]]) -> PromptCache:
    """The cache that holds these keys and values, by layer."""
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    cache = PromptCache()
    cache.store = QwenImage21KVCache(len(layers))
    for number, (k_BLHD, v_BLHD) in enumerate(layers):
        cache.store.get_layer(number).store(k_BLHD, v_BLHD)
    return cache


def _turned(k_BLHD: Tensor, turn_BP: Tensor) -> Tensor:
    """Keys with the pairs of channels of the frame axis turned by each row's complex numbers."""
    pairs = turn_BP.shape[1]
    frame = torch.view_as_complex(k_BLHD[..., : 2 * pairs].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(frame * turn_BP[:, None, None].to(k_BLHD.device)).flatten(-2)
    return torch.cat([turned.to(k_BLHD.dtype), k_BLHD[..., 2 * pairs :]], dim=-1)

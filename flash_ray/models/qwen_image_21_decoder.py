"""Velocities of a batch whose prompt cache is filled, without what each step would compute anew.

Its numbers are those of the transformer's own `kv_cache_mode="cached"`. That projects the texts,
labels the tokens and builds the rotary table in every step, which for small pictures takes as long
as the attention; here it is done once for all steps.
"""

from collections.abc import Callable

import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from torch import Tensor

from flash_ray.models.base import PIXELS_PER_TOKEN, Condition, Layout, PromptCache

SLOT = 4  # latent tokens that stand for one token of the text encoder


def token_shapes(layout: Layout) -> list[tuple[int, int, int]]:
    """(frames, rows, columns) in latent tokens: the references, then the target."""
    sizes = [*layout.references, (layout.height, layout.width)]
    return [(1, height // PIXELS_PER_TOKEN, width // PIXELS_PER_TOKEN) for height, width in sizes]


@torch.no_grad()
def decoder(
    transformer: QwenImage21Transformer2DModel, condition: Condition, cache: PromptCache
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x_BNC, t_B) -> v_BNC, in x_BNC's dtype, for any number of steps of one batch.

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

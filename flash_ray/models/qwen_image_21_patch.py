"""diffusers' transformer of Qwen-Image-2.1 (0.42.1) without the work that nobody reads.

Called with a `plan` it computes the velocity of the target's tokens as the original does; whoever
calls it without one calls the original. What differs:

- The last block computes keys and values alone of the text and the references: no more is read.
- Scales and gates are chosen for each token once a call, after tanh, not four times a block.
- Text and references may be computed by themselves for several calls, with the graph or without;
  a call that finds them computed touches nothing of theirs.
- What follows from the layout alone (segments, masks, rotary angles) is computed once for many
  calls, on the host: no call waits for the device.
- Within the text, which is causal and padded on the right, padding needs no mask.

No weight has another name, and every layer is called as a module: LoRAs, quantized layers and
DeepSpeed's hooks work as on the original.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers import transformer_qwenimage21 as original
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flash_ray.models.base import Condition, KeysValues, Layout, PromptCache
from flash_ray.models.prompt_cache import SLOT, token_shapes

# Keys up to which the backward pass of a CPU's fused kernel takes longer than plain products.
FEW_KEYS = 256
KINDS = 64  # of calls that are compiled


@dataclass(frozen=True)
class Segment:
    """A run of text tokens, or one reference: from token `start` to before `end`.

    `seen_QK` is bool, which keys up to `end` a later run of text sees; the first one is causal, and
    a reference sees all of them.
    """

    start: int
    end: int
    is_text: bool
    seen_QK: Tensor | None


@dataclass(frozen=True)
class Plan:
    """What follows from a batch's layout and the place of its slots.

    Args:
        segments: of text and references, together the prefix of P tokens; the target follows.
        rotary_SP: complex, of the S tokens of prefix and target.
    """

    layout: Layout
    segments: tuple[Segment, ...]
    rotary: Tensor

    @property
    def prefix(self) -> int:
        """Tokens of text and references."""
        return len(self.rotary) - self.layout.tokens

    def texts(self, values_BLX: Tensor) -> Tensor:
        """Of values of the text encoder's tokens, those that are no slots."""
        parts, at = [], 0
        for segment in self.segments:
            length = segment.end - segment.start
            if segment.is_text:
                parts.append(values_BLX[:, at : at + length])
            at += length if segment.is_text else length // SLOT
        return torch.cat(parts, dim=1)

    def prefix_of(self, texts_BTX: Tensor, pictures_BNX: Tensor) -> Tensor:
        """Values of the text's tokens and of the references', each in its place."""
        parts, text, picture = [], 0, 0
        for segment in self.segments:
            length = segment.end - segment.start
            if segment.is_text:
                parts.append(texts_BTX[:, text : text + length])
                text += length
            else:
                parts.append(pictures_BNX[:, picture : picture + length])
                picture += length
        return torch.cat(parts, dim=1)

    def keys(self, condition: Condition) -> Tensor | None:
        """Bool, (B, 1, 1, S): the keys that the target may see; None: all."""
        if not condition.is_padded:
            return None
        mask_BL = condition.mask_BL
        ones_BS = mask_BL.new_ones(len(condition), len(self.rotary))
        seen_BP = self.prefix_of(self.texts(mask_BL), ones_BS)
        return torch.cat([seen_BP, ones_BS[:, self.prefix :]], dim=1)[:, None, None]


class QwenImage21Transformer2DModel(original.QwenImage21Transformer2DModel):
    """The original and another way to call it; a checkpoint of it names the original."""

    compiled: Any = None  # what runs a block once `compile_blocks` was called

    def compile_blocks(self) -> None:
        """Has blocks compiled, for each kind of call when it first comes: slow at first, then with
        the numbers of before to rounding."""
        # An adapter, a rung with a cache or without, a layout, gradients or none: each is a kind.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
        self.compiled = torch.compile(_run_block)

    def forward(self, *args: Any, plan: Plan | None = None, **kwargs: Any) -> Any:
        """The original's result, or with a plan that of `velocity`."""
        if plan is None:
            return super().forward(*args, **kwargs)
        return self.velocity(plan=plan, **kwargs)

    def velocity(
        self,
        x_BNC: Tensor,
        t_B: Tensor,
        condition: Condition,
        plan: Plan,
        cache: PromptCache | None = None,
    ) -> Tensor:
        """v_BNC at x_BNC, which has the weights' device and dtype, as `condition` has.

        A filled cache is used, an empty one is filled.
        """
        target_BND, t_B, keys = self.img_in(x_BNC), t_B.to(x_BNC.dtype), plan.keys(condition)
        if cache and cache.layers is None and cache.graph and not torch.is_grad_enabled():
            with torch.enable_grad():
                cache.layers = self.fill(condition, plan)
        if cache and cache.layers is not None:
            time_BD = self.time_text_embed(t_B, target_BND)
            attend = _Attend(plan.rotary[plan.prefix :], keys=keys)
            modulation = [part[:, None] for part in self._modulation(time_BD)]
            hidden_BND = target_BND
            for block, before in zip(self.transformer_blocks, cache.layers, strict=True):
                hidden_BND, *_ = self._run(block, hidden_BND, modulation, attend, before)
        else:
            time_BD = self.time_text_embed(torch.cat([t_B, t_B.new_zeros(1)]), target_BND)
            modulation = [_by_token(part, plan) for part in self._modulation(time_BD)]
            attend = _Attend(plan.rotary, plan.segments, keys)
            joint_BSD = torch.cat([self._embed(condition, plan), target_BND], dim=1)
            hidden_BND, layers = self._run_all(joint_BSD, modulation, attend)
            time_BD = time_BD[:-1]
            if cache:
                # Those with a graph are kept by it anyway. Else a view would keep the target's too.
                cache.layers = (
                    layers if cache.graph else [(k.clone(), v.clone()) for k, v in layers]
                )
        return self.proj_out(self.norm_out(hidden_BND, time_BD))

    def fill(self, condition: Condition, plan: Plan) -> list[KeysValues]:
        """Keys and values of text and references, of each block."""
        prefix_BPD = self._embed(condition, plan)
        time_1D = self.time_text_embed(prefix_BPD.new_zeros(1), prefix_BPD)
        modulation = [part[:, None] for part in self._modulation(time_1D)]
        attend = _Attend(plan.rotary[: plan.prefix], plan.segments)
        return self._run_all(prefix_BPD, modulation, attend)[1]

    def _embed(self, condition: Condition, plan: Plan) -> Tensor:
        """The prefix's tokens before the first block."""
        texts_BTD = self.txt_in(plan.texts(condition.embeds_BLD))
        if condition.references_BNC is None:
            return texts_BTD
        return plan.prefix_of(texts_BTD, self.img_in(condition.references_BNC))

    def _modulation(self, time_BD: Tensor) -> list[Tensor]:
        """1 + scale and tanh(gate) of the attention, then of the feed-forward layers."""
        scale1, gate1, scale2, gate2 = self.modulation(time_BD).chunk(4, dim=-1)
        return [1 + scale1, gate1.tanh(), 1 + scale2, gate2.tanh()]

    def _run_all(
        self, hidden_BSD: Tensor, modulation: list[Tensor], attend: "_Attend"
    ) -> tuple[Tensor, list[KeysValues]]:
        """The target's tokens after all blocks, and the prefix's keys and values of each."""
        layers: list[KeysValues] = []
        for block in self.transformer_blocks:
            is_last = len(layers) + 1 == len(self.transformer_blocks)
            first = attend.prefix if is_last else 0
            hidden_BSD, *own = self._run(block, hidden_BSD, modulation, attend, None, first)
            layers.append((own[0], own[1]))
        return hidden_BSD, layers

    def _run(self, block: nn.Module, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        run = partial(self.compiled or _run_block, block)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(run, *args)
        return run(*args)


@dataclass(frozen=True)
class _Attend:
    """What the tokens of a call see, the same in every block.

    Args:
        rotary: of these tokens.
        segments: of the prefix, where that is among the tokens.
        keys: which keys the target sees.
    """

    rotary: Tensor
    segments: tuple[Segment, ...] = ()
    keys: Tensor | None = None

    @property
    def prefix(self) -> int:
        """Tokens of the prefix among these."""
        return self.segments[-1].end if self.segments else 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        """Attention of the tokens from `first` on, heads joined."""
        parts = []
        for segment in self.segments if first == 0 else ():
            rows, end = slice(segment.start, segment.end), segment.end
            is_causal = segment.is_text and segment.start == 0
            parts.append(_attention(q[:, rows], k[:, :end], v[:, :end], segment.seen_QK, is_causal))
        if len(self.rotary) > self.prefix:
            parts.append(_attention(q[:, self.prefix - first :], k, v, self.keys))
        return torch.cat(parts, dim=1).flatten(2) if len(parts) > 1 else parts[0].flatten(2)


def _run_block(
    block: Any,
    hidden_BSD: Tensor,
    modulation: list[Tensor],
    attend: _Attend,
    before: KeysValues | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A block of the original.

    Args:
        before: the prefix's keys and values, where it is not among the tokens.
        first: the first token that is read from here on.

    Returns:
        the tokens from `first` on, and the prefix's own keys and values.
    """
    attn, prefix = block.attn, attend.prefix
    scale1, gate1, scale2, gate2 = modulation
    tokens_BSD = block.img_norm1(hidden_BSD) * scale1
    k = _turned(attn.norm_k(_heads(attn, attn.to_k(tokens_BSD))), attend.rotary)
    v = _heads(attn, attn.to_v(tokens_BSD))
    own = k[:, :prefix], v[:, :prefix]
    if first == hidden_BSD.shape[1]:
        return hidden_BSD[:, first:], *own
    if first:
        hidden_BSD, tokens_BSD = hidden_BSD[:, first:], tokens_BSD[:, first:]
        gate1, scale2, gate2 = gate1[:, first:], scale2[:, first:], gate2[:, first:]
    q = _turned(attn.norm_q(_heads(attn, attn.to_q(tokens_BSD))), attend.rotary[first:])
    if before is not None:
        k, v = torch.cat([before[0], k], dim=1), torch.cat([before[1], v], dim=1)
    attended_BSD = attn.to_out[1](attn.to_out[0](attend(q, k, v, first)))
    hidden_BSD = hidden_BSD + gate1 * attended_BSD
    hidden_BSD = hidden_BSD + gate2 * block.img_mlp(block.img_norm2(hidden_BSD) * scale2)
    if hidden_BSD.dtype == torch.float16:
        hidden_BSD = hidden_BSD.clip(-65504, 65504)
    return hidden_BSD, *own


def _heads(attn: Any, values_BSD: Tensor) -> Tensor:
    return values_BSD.unflatten(-1, (-1, attn.inner_dim // attn.heads))


def _turned(values_BSHD: Tensor, rotary: Tensor) -> Tensor:
    turned: Any = original.apply_rotary_emb_qwen  # its annotation is of two results
    return turned(values_BSHD, rotary, use_real=False)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    is_plain = q.device.type == "cpu" and torch.is_grad_enabled() and k.shape[1] <= FEW_KEYS
    with sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext():
        return dispatch_attention_fn(q, k, v, attn_mask=seen, is_causal=is_causal)


def _by_token(rows: Tensor, plan: Plan) -> Tensor:
    """Of rows for each sample's time, then of t = 0: each token's, (B, S, D)."""
    batch = len(rows) - 1
    prefix_BPD = rows[-1].expand(batch, plan.prefix, -1)
    target_BND = rows[:-1, None].expand(-1, plan.layout.tokens, -1)
    return torch.cat([prefix_BPD, target_BND], dim=1)


def patched(
    transformer: original.QwenImage21Transformer2DModel,
) -> QwenImage21Transformer2DModel:
    """The same transformer, which can be called with a plan from now on."""
    transformer.__class__ = QwenImage21Transformer2DModel
    assert isinstance(transformer, QwenImage21Transformer2DModel)
    return transformer


def plan_of(transformer: original.QwenImage21Transformer2DModel, condition: Condition) -> Plan:
    """The plan of a batch, on its condition's device."""
    rope, device = transformer.pos_embed, condition.embeds_BLD.device
    return _plan(condition.layout, condition.slots, rope.theta, tuple(rope.axes_dim), device)


@lru_cache(maxsize=16)
def _plan(
    layout: Layout, slots: tuple[bool, ...], theta: int, axes: tuple[int, ...], device: torch.device
) -> Plan:
    # What is computed in inference mode could not be trained with later on.
    with torch.inference_mode(False), torch.no_grad():
        shapes = token_shapes(layout)
        segments = tuple(_segments(slots, [h * w for _, h, w in shapes], device))
        of_pictures = [not segment.is_text for segment in segments]
        lengths = [segment.end - segment.start for segment in segments]
        is_picture = torch.tensor([*of_pictures, True]).repeat_interleave(
            torch.tensor([*lengths, layout.tokens])
        )
        rotary = _rope(theta, axes)(shapes, is_picture, device=torch.device("cpu"))
        return Plan(layout, segments, rotary.to(device))


@lru_cache(maxsize=4)
def _rope(theta: int, axes: tuple[int, ...]) -> original.QwenImage21Rope:
    return original.QwenImage21Rope(theta, list(axes))


def _segments(
    slots: Sequence[bool], pictures: Sequence[int], device: torch.device
) -> list[Segment]:
    """The prefix's segments; `pictures` are the latent tokens of each reference, in order."""
    segments: list[Segment] = []
    at = start = 0
    sizes = iter(pictures)
    while at < len(slots):
        if slots[at]:
            end = start + next(sizes)
            segments.append(Segment(start, end, False, None))
            at += (end - start) // SLOT
        else:
            run = next((i for i in range(at, len(slots)) if slots[i]), len(slots)) - at
            end = start + run
            seen_QK = torch.ones(run, end, dtype=torch.bool, device=device).tril(start)
            segments.append(Segment(start, end, True, seen_QK if start else None))
            at += run
        start = end
    return segments

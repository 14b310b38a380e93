"""Trains the miniature's transformer: flow matching on T2I and editing in turn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flash_ray.methods.dmd import flow_matching_loss
from flash_ray.methods.flow import interpolate, shift_time
from flash_ray.miniature.training.loop import Journal, Stateful, cosine_lr, resumable
from flash_ray.models.base import Condition, Layout, PromptCache
from flash_ray.models.qwen_image_21 import QwenImage21

log = logging.getLogger(__name__)
LAYOUTS = {"t2i": Layout("t2i", 64, 64), "edit": Layout("edit", 64, 64, ((64, 64),))}
EMA = 0.998
PEAK_LR = {"muon": 1e-2, "adamw": 2e-3}
SHIFT = 4.0  # of training times: what is in a picture is decided at t > 0.6, below is polish
NOISINGS = 2  # of each picture in a step: its text, the longer part, is then paid once


class Lesson(NamedTuple):
    """A part of the training: steps on examples, by task as `encode_examples` makes them."""

    steps: int
    examples: dict[str, dict[str, Tensor]]


class Average:
    """An exponential moving average of what a model learns."""

    def __init__(self, model: torch.nn.Module):
        learnt = _learnt(model)
        self.names = list(learnt)
        self.values = [value.detach().clone() for value in learnt.values()]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, decay: float) -> None:
        """Moves to decay * average + (1 - decay) * the model's weights."""
        torch._foreach_lerp_(self.values, list(_learnt(model).values()), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return dict(zip(self.names, self.values, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes averaged weights up again."""
        self.values = [state[name] for name in self.names]


def _learnt(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def optimizers_of(transformer: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for all else.

    After 400 steps from nothing the loss was 0.64 at about these rates, 0.81 with AdamW alone.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in transformer.named_parameters():
        inner = name.startswith("transformer_blocks.") and weight.ndim == 2
        (matrices if inner else others).append(weight)
    return {
        "muon": torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01),
    }


def batch_of(examples: dict[str, Tensor], task: str, size: int) -> tuple[Tensor, Condition]:
    """A random micro-batch: latents x_BNC and their condition, cut to the longest caption."""
    rows = torch.randint(len(examples["x_BNC"]), (size,))
    tensors = {name: value[rows] for name, value in examples.items()}
    length = int(tensors["mask_BL"].sum(1).max())
    for name in ("embeds_BLD", "mask_BL", "slots_BL"):
        tensors[name] = tensors[name][:, :length]
    x_BNC = tensors.pop("x_BNC").float()
    return x_BNC, Condition.from_tensors(LAYOUTS[task], tensors).to(dtype=torch.float32)


def train_transformer(
    model: QwenImage21,
    lessons: Sequence[Lesson],
    folder: Path,
    batch: int = 64,
    bf16: bool = True,
) -> None:
    """Trains the base transformer in place, resumably in `folder`; leaves its averaged weights."""
    optimizers = optimizers_of(model.transformer.requires_grad_(True))
    fit(model, lessons, optimizers, PEAK_LR, folder, batch, bf16)


def fit(
    model: QwenImage21,
    lessons: Sequence[Lesson],
    optimizers: Mapping[str, torch.optim.Optimizer],
    peak_lr: Mapping[str, float],
    folder: Path,
    batch: int,
    bf16: bool,
) -> None:
    """Trains what requires gradients; see `train_transformer`.

    Args:
        optimizers, peak_lr: by name; together they hold every parameter that is learnt.
    """
    steps = sum(lesson.steps for lesson in lessons)
    transformer = model.transformer.train()
    average = Average(transformer)
    journal = Journal(folder / "transformer.jsonl")
    parts: dict[str, Stateful] = {"transformer": transformer, "average": average, **optimizers}
    for step in resumable(steps, parts, folder / "transformer"):
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(step, steps, peak_lr[name])
        task = ("t2i", "edit")[step % 2]
        examples = _lesson_at(step, lessons).examples[task]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = _loss(model, *batch_of(examples, task, batch))
        transformer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        average.update(transformer, min(EMA, (step + 1) / (step + 10)))
        journal.add(step, **{f"loss_{task}": 2 * loss.item()})
    transformer.load_state_dict(average.state_dict(), strict=False)
    transformer.requires_grad_(False).eval()


def _lesson_at(step: int, lessons: Sequence[Lesson]) -> Lesson:
    ends = accumulate(lesson.steps for lesson in lessons)
    return next(lesson for end, lesson in zip(ends, lessons, strict=True) if step < end)


def _loss(model: QwenImage21, x_BNC: Tensor, condition: Condition) -> Tensor:
    """The flow-matching loss, over several noisings of each picture behind one pass of the text."""
    prefix = PromptCache(graph=True)
    losses = []
    # So few tokens take the fused attention kernel of CPUs longer than plain products.
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(NOISINGS):
            eps_BNC, t_B = torch.randn_like(x_BNC), shift_time(torch.rand(len(x_BNC)), SHIFT)
            z_BNC = interpolate(x_BNC, eps_BNC, t_B)
            v_BNC = model.velocity(model.transformer, z_BNC, t_B, condition, prefix)
            losses.append(flow_matching_loss(v_BNC, x_BNC, eps_BNC))
    return torch.stack(losses).mean()

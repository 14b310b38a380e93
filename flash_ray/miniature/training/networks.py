"""Trains the networks of the miniature's teacher, resumably: the VAE and the transformer."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flash_ray.methods.dmd import flow_matching_loss
from flash_ray.methods.flow import interpolate, shift_time
from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import random_edit
from flash_ray.miniature.scenes import EDIT_CATEGORIES, T2I_CATEGORIES, random_scene
from flash_ray.models.base import Condition, Layout, PromptCache
from flash_ray.models.qwen_image_21 import QwenImage21

log = logging.getLogger(__name__)
KL_WEIGHT = 1e-4  # of the VAE's loss
LAYOUTS = {"t2i": Layout("t2i", 64, 64), "edit": Layout("edit", 64, 64, ((64, 64),))}
EMA = 0.998  # decay of the transformer's average
PEAK_LR = {"muon": 1e-2, "adamw": 2e-3}
SHIFT = 4.0  # of training times: what is in a picture is decided at t > 0.6, below is polish
NOISINGS = 2  # of each picture in a step: its text, the longer part, is then paid once


class Stateful(Protocol):
    """A model, an optimizer, or an average: what a resumed training needs again."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain data and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Takes a state up again."""
        ...


class Lesson(NamedTuple):
    """A part of the training: steps on examples, by task as `encode_examples` makes them."""

    steps: int
    examples: dict[str, dict[str, Tensor]]


class Average:
    """An exponential moving average of what a model learns."""

    def __init__(self, model: torch.nn.Module):
        learned = _learned(model)
        self.names = list(learned)
        self.values = [value.detach().clone() for value in learned.values()]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, decay: float) -> None:
        """Moves to decay * average + (1 - decay) * the model's weights."""
        torch._foreach_lerp_(self.values, list(_learned(model).values()), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return dict(zip(self.names, self.values, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes averaged weights up again."""
        self.values = [state[name] for name in self.names]


class Journal:
    """Averages measures and writes a line every so many steps, to the log and a JSONL file."""

    def __init__(self, file: Path, every: int = 100, clock: Callable[[], float] = time.monotonic):
        self.file, self.every, self.clock = file, every, clock
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, clock()

    def add(self, step: int, **measures: float) -> None:
        """Takes the measures of a step, counted from 0."""
        for name, value in measures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if (step + 1) % self.every:
            return
        line = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        line["seconds_per_step"] = round((self.clock() - self.since) / self.count, 4)
        log.info("step %d  %s", step + 1, "  ".join(f"{k} {v:g}" for k, v in line.items()))
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step + 1, **line}) + "\n")
        self.sums, self.count, self.since = {}, 0, self.clock()


def train_vae(
    vae: AutoencoderKLQwenImage21,
    folder: Path,
    steps: int = 10000,
    batch: int = 16,
    peak_lr: float = 1.5e-3,
    pool: int = 24000,
    bf16: bool = True,
) -> None:
    """Trains in place, resumably in `folder`, then sets the latents' mean and spread."""
    data = draw_pictures(pool, seed=1)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=peak_lr, betas=(0.9, 0.99), weight_decay=1e-3
    )
    journal = Journal(folder / "vae.jsonl")
    for step in resumable(steps, {"vae": vae, "optimizer": optimizer}, folder / "vae"):
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(step, steps, peak_lr)
        x = to_vae_input(data[torch.randint(pool, (batch,))])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, measures = vae_loss(vae, x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        journal.add(step, **measures)
    vae.eval()
    normalize_latents(vae, data[:1024])


def train_transformer(
    model: QwenImage21,
    lessons: Sequence[Lesson],
    folder: Path,
    batch: int = 64,
    bf16: bool = True,
) -> None:
    """Trains the base transformer in place, resumably in `folder`; leaves its averaged weights."""
    optimizers = optimizers_of(model.transformer.requires_grad_(True))
    fit_transformer(model, lessons, optimizers, PEAK_LR, folder, batch, bf16)


def fit_transformer(
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
        optimizers, peak_lr: by name; together they hold every parameter that is learned.
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


def resumable(
    steps: int, parts: Mapping[str, Stateful], folder: Path, every: int = 500
) -> Iterator[int]:
    """Yields the steps still to do; keeps the state of `parts` in `folder` as it goes.

    A step's random numbers come from its number (`torch.manual_seed(step)`), so a resumed run
    continues as the whole one would.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "state.pt"
    start = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        start = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log.info("resumed at step %d of %d", start, steps)
    for step in range(start, steps):
        torch.manual_seed(step)
        yield step
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"step": step + 1, **state}, file.with_suffix(".partial"))
            os.replace(file.with_suffix(".partial"), file)


def cosine_lr(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up to `peak`, then a cosine down to a fiftieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def draw_pictures(count: int, seed: int) -> Tensor:
    """Scenes of every category and both sides of edits, `(count, 3, 64, 64)` uint8."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, 3, 64, 64), np.uint8)
    for start in range(0, count, 30):
        drawn = list(draw([random_scene(T2I_CATEGORIES[i % 3], rng) for i in range(18)]))
        for category in EDIT_CATEGORIES:
            edit = random_edit(category, rng)
            drawn += [edit.source_picture(), edit.target_picture()]
        part = np.stack(drawn)[: count - start]
        out[start : start + len(part)] = np.round(part * 255)
    return torch.from_numpy(out)


def to_vae_input(pictures_B3HW: Tensor) -> Tensor:
    """uint8 RGB to what the VAE reads: `(B, 4, 1, H, W)` in [-1, 1], opaque."""
    rgb = pictures_B3HW.float() / 127.5 - 1
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1).unsqueeze(2)


def vae_loss(vae: AutoencoderKLQwenImage21, x: Tensor) -> tuple[Tensor, dict]:
    """Squared and absolute error, squared error of edges, and KL to the unit normal.

    Edges (differences of neighbors) carry letters and hair; the squared error finds them early,
    where an absolute error alone stays with the median color.
    """
    posterior = vae.encode(x).latent_dist
    error = vae.decode(posterior.sample()).sample.float() - x
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    l2, l1 = error.square().mean(), error.abs().mean()
    edges = error.diff(dim=3).square().mean() + error.diff(dim=4).square().mean()
    loss = l2 + 0.25 * l1 + edges + KL_WEIGHT * kl
    return loss, {"l1": l1.item(), "l2": l2.item(), "edges": edges.item(), "kl": kl.item()}


@torch.no_grad()
def normalize_latents(vae: AutoencoderKLQwenImage21, pictures_B3HW: Tensor) -> None:
    """Writes the latents' mean and standard deviation by channel into the VAE's configuration."""
    parts = [vae.encode(to_vae_input(part)).latent_dist.mean for part in pictures_B3HW.split(64)]
    latents = torch.cat(parts)
    vae.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(),
        latents_std=latents.std((0, 2, 3, 4)).tolist(),
    )


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


def _learned(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}

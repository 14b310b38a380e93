"""Trains the miniature's VAE on pictures of its world, clean, restyled and spoilt."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21

from flash_ray.miniature.categories import EDIT_CATEGORIES, T2I_CATEGORIES
from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import random_edit
from flash_ray.miniature.scenes import random_scene
from flash_ray.miniature.training.loop import Journal, cosine_lr, resumable

log = logging.getLogger(__name__)
KL_WEIGHT = 1e-4


def pictures(count: int, seed: int) -> torch.Tensor:
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


def to_vae_input(pictures_B3HW: torch.Tensor) -> torch.Tensor:
    """uint8 RGB to what the VAE reads: `(B, 4, 1, H, W)` in [-1, 1], opaque."""
    rgb = pictures_B3HW.float() / 127.5 - 1
    return torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1).unsqueeze(2)


def vae_loss(vae: AutoencoderKLQwenImage21, x: torch.Tensor) -> tuple[torch.Tensor, dict]:
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
    data = pictures(pool, seed=1)
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


@torch.no_grad()
def normalize_latents(vae: AutoencoderKLQwenImage21, pictures_B3HW: torch.Tensor) -> None:
    """Writes the latents' mean and standard deviation by channel into the VAE's configuration."""
    parts = [vae.encode(to_vae_input(part)).latent_dist.mean for part in pictures_B3HW.split(64)]
    latents = torch.cat(parts)
    vae.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(),
        latents_std=latents.std((0, 2, 3, 4)).tolist(),
    )

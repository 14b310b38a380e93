"""Sections that only infer: sampling against diffusers' pipeline, and the VAE's memory."""

from collections.abc import Callable, Iterator

import torch

from flash_ray.methods.flow import euler
from flash_ray.models.prompt_cache import prefill
from flash_ray.models.sampling import SamplerConfig, sample, velocity_under
from flash_ray.recipe.schema import sigma_schedule
from tests.benchmarks.gpu.measure import Row, free, peaks, timed
from tests.benchmarks.gpu.networks import (
    Size,
    as_model,
    build_transformer,
    build_vae,
    conditions_of,
    latent_noise,
)


def sampling(size: Size, device: torch.device) -> Iterator[Row]:
    """Denoising of one picture from given embeddings: diffusers' pipeline, `sample`, `decoder`."""
    transformer = build_transformer(size.transformer, size.dtype, device)
    model = as_model(transformer)
    conditions = conditions_of("t2i", size, transformer.config.context_in_dim, device)
    noise, positive = latent_noise(size.side, device), conditions.positive
    model.pipeline.set_progress_bar_config(disable=True)
    for steps in size.steps:
        sigmas = tuple(sigma_schedule(steps))

        def theirs(sigmas: tuple[float, ...] = sigmas) -> torch.Tensor:
            return model.pipeline(
                prompt_embeds=positive.embeds_BLD,
                prompt_embeds_mask=positive.mask_BL,
                height=size.side,
                width=size.side,
                sigmas=list(sigmas),
                latents=noise.to(size.dtype),
                output_type="latent",
            ).images

        def ours(sigmas: tuple[float, ...] = sigmas) -> torch.Tensor:
            return sample(model, transformer, conditions, noise, SamplerConfig(sigmas))

        @torch.no_grad()
        def decoded(sigmas: tuple[float, ...] = sigmas) -> torch.Tensor:
            cache = prefill(model, transformer, positive)
            velocity = velocity_under(model, transformer, positive, cache)
            return euler(velocity, noise, (*sigmas, 0.0))

        repeats = size.repeats if steps < 10 else 1
        yield from _compared(f"{steps} steps", device, repeats, theirs, ours, decoded)


def _compared(
    what: str,
    device: torch.device,
    repeats: int,
    theirs: Callable[[], torch.Tensor],
    *ours: Callable[[], torch.Tensor],
) -> Iterator[Row]:
    expected = theirs().float()
    free(device)
    base = timed(device, theirs, repeats)
    yield Row(f"{what}, diffusers' pipeline", base, **peaks(device))
    for run, name in zip(ours, ("sample", "decoder"), strict=True):
        got = run().float()
        free(device)
        seconds = timed(device, run, repeats)
        error = float((got - expected).norm() / expected.norm())
        note = f"{seconds / base:.3f} of diffusers'; latents differ by {error:.1e}"
        yield Row(f"{what}, {name}", seconds, **peaks(device), note=note)


def vae(size: Size, device: torch.device) -> Iterator[Row]:
    """Decoding and encoding, with and without slices and tiles."""
    network = build_vae(size, device)
    weights = sum(p.numel() for p in network.parameters())
    yield Row("weights", note=f"{weights:.4g}")
    ways = {"whole": (), "slices": ("slicing",), "slices and tiles": ("slicing", "tiling")}
    for rows, side in ((1, size.side), (4, size.side), (1, 2 * size.side)):
        for way, enabled in ways.items():
            if (rows == 1 and way == "slices") or ("tiling" in enabled and side < 1024):
                continue
            network.disable_slicing()
            network.disable_tiling()
            for name in enabled:
                getattr(network, f"enable_{name}")()
            latents = latent_noise(side, device).to(size.dtype).expand(rows, -1, -1)
            latents = latents.transpose(1, 2).reshape(rows, 64, 1, side // 16, side // 16)
            pixels = torch.rand(rows, 4, 1, side, side, device=device, dtype=size.dtype)
            for name, run in (
                ("decode", lambda z=latents: network.decode(z)),
                ("encode", lambda p=pixels: network.encode(p)),
            ):
                yield _vae_row(f"{name} {rows} x {side}², {way}", device, run)


def _vae_row(what: str, device: torch.device, run: Callable[[], object]) -> Row:
    free(device)
    try:
        with torch.no_grad():
            run()
            seconds = timed(device, run)
    except torch.OutOfMemoryError as error:
        return Row(what, **peaks(device), note=" ".join(str(error).split())[:90])
    return Row(what, seconds, **peaks(device))

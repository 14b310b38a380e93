"""`python -m tests.benchmarks.sampling`: sampling against diffusers' own pipeline, on one core.

The miniature's base draws from given embeddings and noise, in fp32: plain `QwenImage21Pipeline`
with its cache of keys and values, `sample` (what evaluations use), and a server's engine, whose
pictures are decoded, as the pipeline's are beside it. In turns in one process; the clock is the CPU
seconds of the process.
"""

from typing import Annotated, Any

import torch
import typer

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.base import ConditionPair
from flash_ray.models.loading import load_model
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe.schema import sigma_schedule
from flash_ray.serving.engine import Engine, LoadedModel, Prompt
from tests.benchmarks.turns import in_turns, ratio

GUIDANCE = 4.0


def compare(model: QwenImage21, batch: int, sampler: SamplerConfig, repeats: int) -> str:
    """A row of the table: `sample`'s and the engine's seconds over the pipeline's."""
    cases = MiniatureBenchmark().cases("t2i", batch)[:batch]
    size, seeds = cases[0].size, list(range(batch))
    # Each pays for what it keeps: nothing is kept from one call to the next.
    engine, served = Engine(model, 2**20, 0), LoadedModel("base", model.transformer)
    encoded = engine.encode([Prompt(case.prompt, (), size) for case in cases]).prompts
    conditions = ConditionPair.cat([prompt.conditions for prompt in encoded])
    shape = (conditions.layout.tokens, model.latent_channels)
    noise_BNC = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )

    def theirs(output: str) -> Any:
        return model.pipeline(
            prompt_embeds=conditions.positive.embeds_BLD,
            prompt_embeds_mask=conditions.positive.mask_BL,
            negative_prompt_embeds=conditions.negative.embeds_BLD,
            negative_prompt_embeds_mask=conditions.negative.mask_BL,
            true_cfg_scale=sampler.guidance_scale,
            height=size[0],
            width=size[1],
            sigmas=list(sampler.sigmas),
            latents=noise_BNC,
            output_type=output,
        ).images

    def ours() -> torch.Tensor:
        return sample(model, model.transformer, conditions, noise_BNC, sampler)

    error = float((ours() - theirs("latent")).abs().max())
    latents = in_turns({"theirs": lambda: theirs("latent"), "ours": ours}, repeats)
    pictures = in_turns(
        {
            "theirs": lambda: theirs("np"),
            "ours": lambda: engine.sample(served, sampler, encoded, seeds),
        },
        repeats,
    )
    guided = "guided " if sampler.guidance_scale != 1 else ""
    return (
        f"| {len(sampler.sigmas)} {guided}steps | {batch} | {repeats} | "
        f"{ratio(latents['ours'], latents['theirs'])} | "
        f"{ratio(pictures['ours'], pictures['theirs'])} | {error:.0e} |"
    )


def main(
    repeats: Annotated[int, typer.Option(help="Turns of 4 steps of one picture.")] = 21,
) -> None:
    """Prints flash_ray's seconds over the pipeline's, and how far the latents are apart."""
    torch.set_num_threads(1)
    model = load_model("miniature", torch.float32, "cpu", encoders=True)
    assert isinstance(model, QwenImage21)
    model.pipeline.set_progress_bar_config(disable=True)
    print("| | pictures | turns | `sample` | engine, to the picture | latents differ by |")
    print("|---|--:|--:|--:|--:|--:|")
    few, many = (tuple(sigma_schedule(steps)) for steps in (4, 40))
    for batch, sampler, times in (
        (1, SamplerConfig(few), repeats),
        (8, SamplerConfig(few), max(3, repeats // 2)),
        (1, SamplerConfig(many, GUIDANCE, False), max(3, repeats // 5)),
    ):
        print(compare(model, batch, sampler, times), flush=True)


if __name__ == "__main__":
    typer.run(main)

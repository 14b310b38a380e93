"""The iteration against NVIDIA Model-Optimizer's DMDPipeline, on the same blocks and learners."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from flash_ray.models.base import Condition, ConditionPair
from flash_ray.models.prompt_cache import SLOT, token_shapes
from tests.benchmarks.gpu.loop import Loop, full_loop
from tests.benchmarks.gpu.measure import Row, free, peaks, timed
from tests.benchmarks.gpu.networks import SIGMAS, Size, as_model, build_transformer, conditions_of


def peer(size: Size, device: torch.device) -> Iterator[Row]:
    """Full copies, backward simulation, R = 2, no guidance and no GAN on both sides, in turns."""
    transformer = build_transformer(size.full, size.dtype, device)
    loop = full_loop(as_model(transformer))
    for task in ("t2i", "edit"):
        conditions = conditions_of(task, size, transformer.config.context_in_dim, device)
        yield from _in_turns(f"{task} {size.side}²", loop, conditions, device)


def _in_turns(
    what: str, loop: Loop, conditions: ConditionPair, device: torch.device
) -> Iterator[Row]:
    """Both sides at each rung, one after the other."""
    theirs = pipeline_of(loop, conditions)
    seconds: dict[str, list[float]] = {"modelopt": [], "flash_ray": []}
    memory: dict[str, dict[str, float]] = {}
    for name in seconds:
        run_side(name, loop, theirs, conditions, len(SIGMAS) - 1)  # warms up
    for rung in range(len(SIGMAS)):
        for name, values in seconds.items():
            free(device)
            run = partial(run_side, name, loop, theirs, conditions, rung)
            values.append(timed(device, run))
            memory[name] = peaks(device)
    means = {name: sum(values) / len(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        note = f"rungs {', '.join(f'{value:.3g}' for value in values)} s"
        if name == "flash_ray":
            note += f"; {means[name] / means['modelopt']:.3f} of modelopt's"
        yield Row(f"{name}, {what}", means[name], **memory[name], note=note)


def run_side(name: str, loop: Loop, theirs: Any, conditions: ConditionPair, rung: int) -> None:
    """One iteration of "flash_ray" or of "modelopt", which draws the same rung."""
    if name == "flash_ray":
        loop.iteration(1, conditions, rung)
        return
    shape = (len(conditions), conditions.layout.tokens, loop.model.latent_channels)
    device = loop.student.device
    draw, real = torch.tensor([rung], device=device), torch.randint

    def chosen(*args: Any, **given: Any) -> torch.Tensor:
        return draw if args[:2] == (0, len(SIGMAS)) else real(*args, **given)

    with patch("torch.randint", chosen):
        latents, noise = torch.zeros(shape, device=device), torch.randn(shape, device=device)
        loop.student.backward(theirs.compute_student_loss(latents, noise)["total"])
        loop.student.step()
        loop.ema.update()
        for _ in range(loop.updates):
            noise = torch.randn(shape, device=device)
            loop.fake_score.backward(theirs.compute_fake_score_loss(latents, noise)["total"])
            loop.fake_score.step()


def plain_velocity(
    transformer: Any, x_BNC: torch.Tensor, t_B: torch.Tensor, condition: Condition
) -> torch.Tensor:
    """v_BNC as diffusers' own transformer computes it, and so whoever trains with a peer."""
    dtype = getattr(transformer, "module", transformer).dtype
    condition = condition.to(x_BNC.device, dtype)
    hidden_BNC, (batch, tokens, _) = x_BNC.to(dtype), x_BNC.shape
    if condition.references_BNC is not None:
        hidden_BNC = torch.cat([condition.references_BNC, hidden_BNC], dim=1)
    target_slots = condition.slots_BL.new_ones(batch, tokens // SLOT)  # after the text
    out_BNC: torch.Tensor = transformer(
        hidden_states=hidden_BNC,
        timestep=t_B,
        encoder_hidden_states=condition.embeds_BLD,
        encoder_hidden_states_mask=None if condition.mask_BL.all() else condition.mask_BL,
        img_shapes=[token_shapes(condition.layout)] * batch,
        img_mask=torch.cat([condition.slots_BL, target_slots], dim=1),
        return_dict=False,
    )[0]
    return out_BNC[:, -tokens:].to(x_BNC.dtype)


def pipeline_of(loop: Loop, conditions: ConditionPair) -> Any:
    """Theirs over the same networks; conditions as its docstring says: `_call_model` overridden."""
    from modelopt.torch.fastgen import DMDConfig, DMDPipeline
    from modelopt.torch.fastgen.config import SampleTimestepConfig

    class Pipeline(DMDPipeline):
        def _call_model(
            self, model: nn.Module, hidden_states: Any, timestep: Any, *_: Any, **__: Any
        ) -> torch.Tensor:
            return plain_velocity(model, hidden_states, timestep, conditions.positive)

    config = DMDConfig(
        pred_type="flow",
        fake_score_pred_type="flow",
        guidance_scale=None,
        student_sample_steps=len(SIGMAS),
        student_sample_type="ode",
        backward_simulation=True,
        sample_t_cfg=SampleTimestepConfig(max_t=1.0, t_list=[*SIGMAS, 0.0]),
        gan_loss_weight_gen=0.0,
        ema=None,
    )
    return Pipeline(loop.student.module, loop.base, loop.fake_score.module, config)

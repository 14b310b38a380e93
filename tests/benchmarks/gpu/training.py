"""Sections that train: LoRAs on one base, in several precisions and compiled, and full copies."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import PACKINGS, Architecture, Pipeline
from flash_ray.capacity.workload import Assumptions
from flash_ray.models.base import ConditionPair, Layout
from flash_ray.models.prompt_cache import SLOT
from flash_ray.models.quantized import Format, quantize
from flash_ray.recipe import load_recipe
from tests.benchmarks.gpu.loop import UPDATES, Loop, full_loop, lora_loop
from tests.benchmarks.gpu.measure import GB, Row, free, matmul_rate, peaks, timed
from tests.benchmarks.gpu.networks import (
    SIGMAS,
    Size,
    as_model,
    build_transformer,
    conditions_of,
)


def lora(size: Size, device: torch.device) -> Iterator[Row]:
    """LoRAs of student and fake score on one bf16 base."""
    transformer = build_transformer(size.transformer, size.dtype, device)
    loop = lora_loop(as_model(transformer), size.rank)
    parameters, trained = counts(loop)
    yield Row("weights", note=f"base {parameters:.4g}, a LoRA {trained:.4g} of rank {size.rank}")
    rate = matmul_rate(device, size.matmul)
    for task in ("t2i", "edit"):
        yield iterations(f"LoRA, {task} {size.side}²", loop, task, size, rate)


def quantized_base(kind: Format, size: Size, device: torch.device) -> Iterator[Row]:
    """The same with the base's blocks in fewer bits."""
    transformer = build_transformer(size.transformer, size.dtype, device)
    model = as_model(transformer)
    quantize(model, kind, device)
    free(device)
    loop = lora_loop(model, size.rank)
    rate = matmul_rate(device, size.matmul)
    for task in ("t2i", "edit"):
        yield iterations(f"LoRA on {kind}, {task} {size.side}²", loop, task, size, rate, kind)


def full(size: Size, device: torch.device) -> Iterator[Row]:
    """Full copies of a transformer with fewer blocks, each with fp32 weights and AdamW."""
    transformer = build_transformer(size.full, size.dtype, device)
    loop = full_loop(as_model(transformer))
    parameters, _ = counts(loop)
    yield Row("weights", note=f"{parameters:.4g}, three copies; 18 bytes more of the trained two")
    rate = matmul_rate(device, size.matmul)
    for task in ("t2i", "edit"):
        yield iterations(f"full, {task} {size.side}²", loop, task, size, rate)


def compiled(size: Size, device: torch.device) -> Iterator[Row]:
    """Regional compilation of the blocks: the LoRA iteration with and without it."""
    fewer = size.transformer | {"num_layers": min(8, size.transformer.get("num_layers", 32))}
    small = replace(size, transformer=fewer, repeats=1)
    before = None
    for name in ("eager", "compiled"):
        first, seconds = _two_rungs(small, device, compiled=name == "compiled")
        note = f"first two iterations {first:.1f} s"
        if before:
            note += f"; {seconds / before:.3f} of eager"
        before = seconds
        yield Row(f"{name}, {fewer['num_layers']} blocks, LoRA t2i", seconds, note=note)
        free(device)


def _two_rungs(size: Size, device: torch.device, compiled: bool) -> tuple[float, float]:
    """Seconds of the first two iterations, at the first and last rung; of one later."""
    transformer = build_transformer(size.transformer, size.dtype, device)
    loop = lora_loop(as_model(transformer), size.rank)
    conditions = conditions_of("t2i", size, width_of(loop), device)
    if compiled:
        loop.model.compile_blocks()

    def run() -> None:
        for rung in (0, len(SIGMAS) - 1):
            loop.iteration(1, conditions, rung)

    return timed(device, run), timed(device, run, repeats=3) / 2


def iterations(
    what: str, loop: Loop, task: str, size: Size, rate: float, kind: str = "bf16"
) -> Row:
    """Mean of one iteration at each rung, after a warm-up at the last."""
    device = loop.student.device
    conditions = conditions_of(task, size, width_of(loop), device)
    last = len(SIGMAS) - 1
    loop.iteration(0, conditions, last)
    free(device)
    seconds = [
        timed(device, partial(loop.iteration, 1 + rung, conditions, rung))
        for rung in range(len(SIGMAS))
    ]
    mean = sum(seconds) / len(seconds)
    losses = loop.iteration(9, conditions, last)
    finite = all(bool(torch.isfinite(loss)) for loss in losses.values())
    flops = iteration_flops(loop, conditions)
    return Row(
        what,
        mean,
        **peaks(device),
        plan_gb=planned_gb(loop, conditions.layout, size, kind),
        mfu=flops / mean / rate,
        note=f"{flops:.3g} FLOP; rungs {', '.join(f'{s:.3g}' for s in seconds)} s"
        + ("" if finite else "; LOSSES ARE NOT FINITE"),
    )


def width_of(loop: Loop) -> int:
    """Width of the text encoder that the transformer expects."""
    return int(loop.base.config.context_in_dim)


def counts(loop: Loop) -> tuple[int, int]:
    """Weights of the base without adapters; of what the student trains."""
    base = sum(p.numel() for n, p in loop.base.named_parameters() if "lora_" not in n)
    return base, loop.student.master.numel()


def planned_gb(loop: Loop, layout: Layout, size: Size, kind: str = "bf16") -> float:
    """Bytes in 1e9: weights of this loop, activations and keys and values by `capacity.memory`.

    Base: 2 a weight, in the blocks what `capacity.pipeline.PACKINGS` says. Trained: student and
    fake score each 2 + 4 (fp32) + 4 (gradient) + 8 (AdamW); average 4, of LoRAs also 2.
    The fake score's keys and values are gone before the backward pass, unlike in a run's worker.
    """
    architecture = Architecture.from_config(loop.base.config)
    packing = PACKINGS.get(kind)
    weights = 2.0 * architecture.parameters
    if packing:
        weights = architecture.packed_bytes(packing, 2)
    _, trained = counts(loop)
    weights += trained * (2 * 18 + 4 + (2 if loop.adapters else 0))
    tasks = {"t2i": 0, "edit": 0, layout.task: 1}
    sides = f"data.resolution=[{size.side}, {size.side}]"
    recipe = load_recipe("qwen-image-2.1-full", [f"tasks={tasks}", sides])
    assumed = Assumptions(text_tokens=size.text)
    model = MemoryModel(recipe, Pipeline(architecture), assumed, stage=2, workers=1)
    phases = model.trainer(teachers_inside=True).phases
    backward = phases["student's backward pass"]
    return (weights + backward.activations + backward.caches / 2) / GB


def iteration_flops(loop: Loop, conditions: ConditionPair) -> float:
    """FLOP of an iteration, mean over the rungs, without what is computed again.

    A product of (n, a) by (a, b) counts 2*n*a*b. Forward F = 2 * tokens * block weights
    + 4 * width * (pairs of query and key) * layers; with a filled cache the queries and tokens are
    the target's only. A backward pass counts F where the base is frozen, of attention 2 of its
    parts, and 2F where weights are trained. An iteration at rung k: k forwards of the rollout (all
    but the first with a cache), teacher, fake score, student with backward, R fake-score passes
    with backward. LoRAs, embeddings and the last layer are left out (1 to 3 %).
    """
    config = loop.base.config
    width = config.num_attention_heads * config.attention_head_dim
    blocks = config.num_layers * (4 * width**2 + 3 * width * width * config.mlp_ratio)
    length = conditions.positive.embeds_BLD.shape[1] - int(conditions.positive.slots_BL[0].sum())
    prefix, target = tokens_of(conditions.layout, length)
    pictures = prefix - length
    pairs = length * (length + pictures) / 2 + pictures * (pictures + length / 2)
    attention = 4 * width * config.num_layers
    linear, cached_linear = 2 * (prefix + target) * blocks, 2 * target * blocks
    cached_pairs = attention * target * (prefix + target)
    attended = attention * pairs + cached_pairs
    forward, cached = linear + attended, cached_linear + cached_pairs
    backward = (1 if loop.adapters else 2) * linear + 2 * attended
    rungs = range(len(SIGMAS))
    rollout = sum(forward * min(k, 1) + cached * max(0, k - 1) for k in rungs) / len(rungs)
    return rollout + 2 * forward + (1 + UPDATES) * (forward + backward)


def tokens_of(layout: Layout, text: int) -> tuple[int, int]:
    """Tokens of the prefix (text and references) and of the target, in the transformer."""
    assert layout.tokens % SLOT == 0
    references = sum((h // 16) * (w // 16) for h, w in layout.references)
    return text + references, layout.tokens

"""`python -m tests.benchmarks.memory`: the memory that is planned, beside what tensors take.

A random transformer of 2.2e8 weights, in the layout of Qwen-Image-2.1, is distilled for one
iteration on the CPU: as a full student in a DeepSpeed engine of one process, and as a LoRA on the
shared base, which may be quantized. The allocator's own records say what was held and the peak of
each phase.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from flash_ray.capacity.device import DeviceMemory
from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import Architecture, Pipeline, Vae
from flash_ray.capacity.tables import wide_console
from flash_ray.capacity.workload import Assumptions
from flash_ray.methods import DMD
from flash_ray.methods.base import VelocityFn
from flash_ray.models.base import ConditionPair, PromptCache
from flash_ray.models.quantized import Format, quantize
from flash_ray.models.sampling import velocity_under
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.teachers.scorer import Scorer, TeacherSpec
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.adapter_learner import AdapterEMA, AdapterLearner
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.learners import build_engine, ready_deepspeed
from tests.benchmarks.gpu.networks import TARGETS, Size, as_model, build_transformer, conditions_of
from tests.helpers.held import held_by_weights

CONFIG = {"num_layers": 16, "num_attention_heads": 8, "attention_head_dim": 128}
MB = 1e6
MARK = "phase: "
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        again: gradient checkpointing.
        base: how the base is quantized.
    """

    weights: str
    stage: int = 2
    again: bool = True
    base: Format | None = None

    @property
    def title(self) -> str:
        """The case in words."""
        kind = f"full, ZeRO {self.stage}" if self.weights == "full" else "LoRA of rank 64"
        kind += f" on {self.base}" if self.base else ""
        return f"{kind}, activations {'computed again' if self.again else 'kept'}"

    def recipe(self, size: Size) -> Recipe:
        """Edits alone, as `size` says."""
        return load_recipe(
            "qwen-image-2.1-full",
            [
                f"student.weights={self.weights}",
                f"training.base_precision={self.base or 'null'}",
                "teacher_defaults.quantized=true",
                f"runtime.zero_stage={self.stage}",
                f"runtime.gradient_checkpointing={str(self.again).lower()}",
                # A recipe may not ask for ZeRO 3 of one worker; the engine has one all the same.
                f"runtime.num_workers={2 if self.stage == 3 else 1}",
                "runtime.gradient_accumulation_steps=1",
                "runtime.global_batch_size=null",
                "runtime.gpu=false",
                f"data.resolution=[{size.side}, {size.side}]",
                "tasks={t2i: 0, edit: 1}",
            ],
        )


CASES = (
    Case("lora", again=False),
    Case("lora"),
    Case("lora", base="int8"),
    Case("lora", base="nf4"),
    Case("full"),
    Case("full", stage=3),
)


@dataclass(frozen=True)
class Measured:
    """Bytes: of the base, of all that was held between iterations, the peak of each phase."""

    base: float
    held: float
    peaks: dict[str, float]


class Loop:
    """One iteration in the order of `trainer.step`, each phase marked.

    Args:
        adapters: of the base; None for full students.
    """

    def __init__(self, case: Case, size: Size) -> None:
        recipe = case.recipe(size)
        config = {**CONFIG, **size.transformer}
        transformer = build_transformer(config, size.dtype, CPU)
        self.model = as_model(transformer)
        if case.base:
            quantize(self.model, case.base, CPU)
        self.method = DMD(tuple(recipe.student.rungs))
        self.student: Any
        self.fake_score: Any
        self.ema: Any
        if case.weights == "lora":
            self._adapters(recipe, size, case.again)
        else:
            networks = [self.model.copy_transformer() for _ in range(2)]
            adam = recipe.training.optimizer
            self.student, self.fake_score = (
                build_engine(network, adam, recipe) for network in networks
            )
            self.ema = EMA(self.student, recipe.training.ema_decay)
        self.scorer = Scorer(self.model, {0: TeacherSpec(None, 1.0, True)})

    def _adapters(self, recipe: Recipe, size: Size, again: bool) -> None:
        adapters = self.model.adapters  # the scorer asks for the same
        for number, name in enumerate(("student", "fake", "ema")):
            adapters.add(name, size.rank, size.rank, TARGETS, name != "ema", number)
        if again:
            adapters.enable_gradient_checkpointing()
        adam = recipe.training.optimizer
        self.student, self.fake_score = (
            AdapterLearner(adapters, name, adam, 1.0) for name in ("student", "fake")
        )
        self.ema = AdapterEMA(self.student, recipe.training.ema_decay)

    def iteration(self, conditions: ConditionPair) -> None:
        """A student step at the last rung, and one of the fake score."""
        channels = self.model.latent_channels
        noise, xi = (torch.randn(1, conditions.layout.tokens, channels) for _ in range(2))
        t = torch.full((1,), 0.5)
        fake_score = self._velocity(self.fake_score, conditions)
        x = self._student_step(conditions, noise, t, xi, fake_score)
        with record_function(MARK + "fake score's backward pass"):
            loss = self.method.fake_score_loss(fake_score, x, t, xi)
            self.fake_score.backward(loss)
        with record_function(MARK + "an optimizer's step"):
            self.fake_score.step()

    def _student_step(
        self,
        conditions: ConditionPair,
        noise: Tensor,
        t: Tensor,
        xi: Tensor,
        fake_score: VelocityFn,
    ) -> Tensor:
        self.scorer.announce(0, conditions, [0])
        x = self.method.student_x(self._velocity(self.student, conditions), noise, 1)
        x_t = self.method.renoise(x, t, xi)
        with record_function(MARK + "teachers' scores"):
            v_real = self.scorer.score(0, x_t, t)[0]
        with torch.no_grad():
            v_fake = fake_score(x_t, t)
        with record_function(MARK + "student's backward pass"):
            loss, _ = self.method.student_loss(x, t, xi, v_real, v_fake)
            self.student.backward(loss)
        self.student.step()
        self.ema.update()
        return x.detach()

    def _velocity(self, network: Callable[..., Any], conditions: ConditionPair) -> VelocityFn:
        """As the trainer's step: text and references once, with gradients."""
        cache = PromptCache(graph=True)
        return velocity_under(self.model, network, conditions.positive, cache)


def measure(case: Case, size: Size) -> Measured:
    """Runs a case in this process: a small iteration, and one that counts."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if case.weights == "full":
        ready_alone()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loop = Loop(case, size)
        width = int(loop.model.transformer.config.context_in_dim)
        small = replace(size, side=32, text=8)  # it makes what an optimizer keeps
        loop.iteration(conditions_of("edit", small, width, CPU))
        conditions = conditions_of("edit", size, width, CPU)
        with record_function(MARK + "held"):
            pass
        loop.iteration(conditions)
    base = held_by_weights(loop.model.transformer)
    return _read(profiled, base)


def ready_alone() -> None:
    """Has DeepSpeed work in this process alone."""
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    ready_deepspeed(gpu=False)


def _read(profiled: profile, base: float) -> Measured:
    """The peaks of the marked phases, the last time each was there."""
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    marked = {e.name(): (e.start_ns(), e.end_ns()) for e in events if e.name().startswith(MARK)}
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peaks = dict.fromkeys(marked, 0)
    now = 0
    for (moment, change), (after, _) in zip(memory, [*memory[1:], (2**63, 0)], strict=True):
        now += change
        for name, (start, end) in marked.items():
            if moment <= end and after > start:  # what was there holds until the next change
                peaks[name] = max(peaks[name], now)
    held = peaks.pop(MARK + "held")
    return Measured(base, held, {name.removeprefix(MARK): peak for name, peak in peaks.items()})


def planned(case: Case, size: Size) -> DeviceMemory:
    """The plan of a case, of its transformer alone."""
    with torch.device("meta"):
        config = QwenImage21Transformer2DModel(**CONFIG, **size.transformer).config
    pipeline = Pipeline(Architecture.from_config(config), Vae(0))
    assumed = Assumptions(text_tokens=size.text, negative_text_tokens=size.text)
    model = MemoryModel(case.recipe(size), pipeline, assumed, case.stage, 1)
    return model.trainer(teachers_inside=True)


def compared(case: Case, size: Size, got: Measured) -> Iterator[tuple[str, float, float]]:
    """Yields (what, planned bytes, measured bytes)."""
    plan = planned(case, size)
    base = plan.held["base"].total
    yield "base", base, got.base
    yield "student, fake score and average", plan.resident - base, got.held - got.base
    for name, peak in got.peaks.items():
        yield f"peak: {name}", plan.resident + plan.phases[name].total, peak
        yield "  for a while", plan.phases[name].total, peak - got.held


def command(
    side: Annotated[int, typer.Option(min=64, help="Of the picture and its reference.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Of the transformer.")] = 16,
) -> None:
    """Compare the plan with what tensors take on this machine (35 minutes)."""
    size = Size({"num_layers": layers}, side=side, text=32)
    table = Table("case", "what", "planned MB", "MB", "ratio")
    with (
        Steps() as steps,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        for case in CASES:
            steps.say(f"measure {case.title}")
            for what, plan, real in compared(case, size, pool.submit(measure, case, size).result()):
                cells = (f"{plan / MB:,.0f}", f"{real / MB:,.0f}", f"{plan / real:.3f}")
                table.add_row(case.title, what, *cells)
            table.add_section()
    wide_console().print(table)


if __name__ == "__main__":
    typer.run(command)

"""`python -m tests.benchmarks.shared_base`: what a student costs beside its teacher, in memory.

The teacher alone scores one edit. Then it distills a LoRA on its own weights, as runs do; LoRAs on
three copies of them, one each for teacher, student and fake score; and a full student. All on the
CPU, in bf16 and with gradient checkpointing, with a random transformer of 2.3e8 weights in the
layout of Qwen-Image-2.1. Peaks are of torch's allocator, over the teacher's.
"""

import copy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from flash_ray.capacity.tables import wide_console
from flash_ray.models.adapters import Adapters
from flash_ray.models.base import ConditionPair
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe import Recipe
from flash_ray.teachers.scorer import Scorer, TeacherSpec
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.adapter_learner import AdapterEMA, AdapterLearner
from tests.benchmarks.gpu.networks import TARGETS, Size, as_model, build_transformer, conditions_of
from tests.benchmarks.memory import CONFIG, CPU, MB, Case, Loop, ready_alone

AIM = 1.3
COUNTED, MEMORY = "counted", "[memory]"  # events of the profiler
KINDS = {"shared": "LoRA, one base", "separate": "LoRA, three copies", "full": "full"}


class SeparateLoop(Loop):
    """Student and fake score each have a copy of the base for themselves."""

    def _adapters(self, recipe: Recipe, size: Size, again: bool) -> None:
        learners = []
        for number, name in enumerate(("student", "fake")):
            adapters = Adapters(copy.deepcopy(self.model.transformer))
            adapters.add(name, size.rank, size.rank, TARGETS, True, number)
            if again:
                adapters.enable_gradient_checkpointing()
            learners.append(AdapterLearner(adapters, name, recipe.training.optimizer, 1.0))
        self.student, self.fake_score = learners
        self.ema = AdapterEMA(self.student, recipe.training.ema_decay)


def peak(kind: str, size: Size) -> float:
    """Bytes at most at the same time, of weights and all; in a process of its own."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if kind == "full":
        ready_alone()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        if kind == "teacher":
            model = as_model(build_transformer({**CONFIG, **size.transformer}, size.dtype, CPU))
            conditions = _conditions(model, size)
            with record_function(COUNTED):
                _score(model, conditions)
        else:
            case = Case("full" if kind == "full" else "lora")
            loop = (SeparateLoop if kind == "separate" else Loop)(case, size)
            conditions = _conditions(loop.model, size)
            loop.iteration(conditions)  # makes the optimizers' moments
            with record_function(COUNTED):
                loop.iteration(conditions)
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    start = next(e.start_ns() for e in events if e.name() == COUNTED)
    now = most = 0
    for moment, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == MEMORY):
        now += change
        most = max(most, now) if moment >= start else now
    return most


def _conditions(model: QwenImage21, size: Size) -> ConditionPair:
    return conditions_of("edit", size, int(model.transformer.config.context_in_dim), CPU)


def _score(model: QwenImage21, conditions: ConditionPair) -> None:
    scorer = Scorer(model, {0: TeacherSpec(None, 1.0, True)})
    scorer.prefill(0, conditions, [0])
    x_BNC = torch.randn(1, conditions.layout.tokens, model.latent_channels)
    scorer.score(0, x_BNC, torch.full((1,), 0.5))


def command(
    ranks: Annotated[list[int], typer.Option("--rank", help="Of the LoRAs.")] = [4, 16, 64],  # noqa: B006
    side: Annotated[int, typer.Option(min=64, help="Of the picture and its reference.")] = 64,
) -> None:
    """Print peaks over the teacher's own (20 minutes)."""
    table = Table("student", "rank", "peak MB", "of the teacher alone", f"aim {AIM}")
    with (
        Steps() as steps,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool,
    ):

        def measured(kind: str, rank: int) -> float:
            steps.say(f"measure {kind}, rank {rank}")
            return pool.submit(peak, kind, Size(side=side, text=32, rank=rank)).result()

        alone = measured("teacher", ranks[0])
        table.add_row("none: the teacher alone", "", f"{alone / MB:,.0f}", "1", "")
        for kind, title in KINDS.items():
            for rank in ranks if kind != "full" else ranks[:1]:
                ratio = (got := measured(kind, rank)) / alone
                met = ("met" if ratio <= AIM else "not met") if kind == "shared" else ""
                shown = "" if kind == "full" else str(rank)
                table.add_row(title, shown, f"{got / MB:,.0f}", f"{ratio:.2f}", met)
    wide_console().print(table)


if __name__ == "__main__":
    typer.run(command)

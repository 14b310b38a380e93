"""`python -m tests.benchmarks.capacity`: what the model predicts against what runs here measure.

The rates of a trainer and of a teacher are measured alone, in a process with one thread; the model
knows nothing else of this machine. Then the miniature is distilled for a few updates on a local
Ray, in several setups, and seconds an update and the share waited for teachers are compared.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import numpy as np
import ray
import torch
import typer
from rich.table import Table
from torch import Tensor

from flash_ray.capacity.estimate import stage_seconds
from flash_ray.capacity.pipeline import Architecture, pipeline_of
from flash_ray.capacity.tables import wide_console
from flash_ray.capacity.timeline import Timing, simulate
from flash_ray.capacity.workload import Assumptions, workload
from flash_ray.cluster.environment import environment
from flash_ray.cluster.session import local_cluster
from flash_ray.data.cache import ConditionCache
from flash_ray.data.encode import prepare
from flash_ray.data.stream import Stream
from flash_ray.models.base import Condition, Layout, Model
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.models.prompt_cache import prefill
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.storage.embedded import embedded_store
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.driver import distill
from flash_ray.trainer.metrics import UpdateMetrics

WARM = 2  # updates that are not counted: the first ones allocate memory
SIZES = (4, 16)  # rows, of the passes that are timed alone
TEXT_TOKENS, NEGATIVE_TEXT_TOKENS = 24, 8  # of those passes


@dataclass(frozen=True)
class Setup:
    """One configuration that is run and predicted."""

    trainers: int
    teachers: int
    guidance: float
    accumulation: int

    @property
    def processes(self) -> int:
        return self.trainers + self.teachers

    def recipe(self, updates: int) -> Recipe:
        """The miniature's own, with few cases and no checkpoint on the setup."""
        return load_recipe(
            "miniature",
            [
                "data.num_cases=32",
                f"runtime.num_workers={self.trainers}",
                f"teacher_defaults.replicas={self.teachers}",
                f"teacher_defaults.guidance_scale={self.guidance}",
                f"runtime.gradient_accumulation_steps={self.accumulation}",
                f"training.iterations={max(2, updates // self.accumulation) + WARM}",
                "runtime.checkpoint_every=0",
                "evaluation.benchmark=null",
                "runtime.max_failures=0",
            ],
        )


SETUPS = (Setup(1, 1, 1.0, 1), Setup(1, 1, 4.0, 1), Setup(1, 1, 4.0, 4), Setup(2, 1, 4.0, 1))


@dataclass(frozen=True)
class Rates:
    """What one thread reaches: FLOP/s, and the fixed cost of a pass in s."""

    flops_per_s: float
    pass_seconds: float


def fitted(flops: list[float], passes: list[float], seconds: list[float]) -> Rates:
    """Least squares, each measurement weighed by 1 / seconds, neither rate below 0."""
    matrix = np.array([flops, passes]).T / np.array(seconds)[:, None]
    solved, *_ = np.linalg.lstsq(matrix, np.ones(len(seconds)), rcond=None)
    if solved[1] < 0:
        only = matrix[:, 0]
        solved = np.array([only.sum() / (only**2).sum(), 0.0])
    return Rates(1 / float(solved[0]), float(solved[1]))


@ray.remote(num_cpus=1)
def calibrate(recipe: Recipe) -> tuple[Rates, Rates, float]:
    """A trainer's rates, a teacher's, and seconds of an optimizer's step; nothing else may run."""
    torch.set_num_threads(1)
    model = load_model(recipe.base, dtype_of(recipe), "cpu", encoders=False)
    architecture = pipeline_of(recipe.base).transformer
    trainer, teacher = zip(*(_times(model, architecture, recipe, n) for n in SIZES), strict=True)
    return (
        fitted(*map(list, zip(*(row for rows in trainer for row in rows), strict=True))),
        fitted(*map(list, zip(*(row for rows in teacher for row in rows), strict=True))),
        _optimizer_seconds(model),
    )


Row = tuple[float, float, float]  # FLOPs, passes, seconds


def _times(
    model: Model, architecture: Architecture, recipe: Recipe, rows: int
) -> tuple[list[Row], list[Row]]:
    """Measures a trainer's passes and a teacher's, over text and target."""
    layout = Layout("t2i", *recipe.data.resolution)
    condition = _condition(layout, architecture, rows, TEXT_TOKENS)
    x_BNC = torch.randn(rows, layout.tokens, architecture.in_channels)
    t_B = torch.full((rows,), 0.5)
    student = model.copy_transformer()

    def forward() -> Tensor:
        return model.velocity(student, x_BNC, t_B, condition)

    def both() -> None:
        forward().square().mean().backward()
        student.zero_grad()

    prefix = prefill(model, model.transformer, condition)
    full = rows * architecture.full_flops(TEXT_TOKENS, layout.tokens)
    ahead = rows * architecture.prefill_flops(TEXT_TOKENS)
    now = rows * architecture.cached_flops(TEXT_TOKENS, layout.tokens)
    with torch.no_grad():
        quick = _seconds(forward)
        asked = _seconds(lambda: model.velocity(model.transformer, x_BNC, t_B, condition, prefix))
        announced = _seconds(lambda: prefill(model, model.transformer, condition))
    trained = _seconds(both)
    return (
        [(full, 1.0, quick), (3 * full, 3.0, trained)],
        [(ahead, 1.0, announced), (now, 1.0, asked)],
    )


def _condition(layout: Layout, architecture: Architecture, rows: int, tokens: int) -> Condition:
    return Condition(
        layout,
        torch.randn(rows, tokens, architecture.context_width),
        torch.ones(rows, tokens, dtype=torch.bool),
        torch.zeros(rows, tokens, dtype=torch.bool),
    )


def _optimizer_seconds(model: Model) -> float:
    weights = [p.detach().float().requires_grad_() for p in model.copy_transformer().parameters()]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    return _seconds(optimizer.step)


def _seconds(call: Callable[[], object], times: int = 7) -> float:
    """Median, after one call that is not counted."""
    call()
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        measured.append(time.perf_counter() - start)
    return median(measured)


def assumptions(rates: tuple[Rates, Rates, float], texts: tuple[float, float]) -> Assumptions:
    """What the model is told: rates alone, and the lengths of this machine's texts."""
    trainer, teacher, step = rates
    peak = max(trainer.flops_per_s, teacher.flops_per_s)
    return Assumptions(
        device_flops_per_s=peak,
        mfu=trainer.flops_per_s / peak,
        teacher_mfu=teacher.flops_per_s / peak,
        pass_seconds=trainer.pass_seconds,
        teacher_pass_seconds=teacher.pass_seconds,
        optimizer_step_seconds=step,
        gpu_link_gb_per_s=1.0,  # gloo over loopback
        overlap=0.0,
        text_tokens=texts[0],
        negative_text_tokens=texts[1],
    )


def predicted(setup: Setup, recipe: Recipe, assumed: Assumptions, cores: int) -> Timing:
    """What the model says of one setup on a machine with so many cores."""
    architecture = pipeline_of(recipe.base).transformer
    work = workload(recipe, architecture, assumed)
    stage = recipe.runtime.zero_stage
    stages = stage_seconds(
        recipe, architecture, assumed, work, stage, setup.trainers, setup.accumulation
    )
    return simulate(stages, setup.trainers, setup.teachers, setup.accumulation, cores)


@dataclass(frozen=True)
class Measured:
    """Means over a run's updates.

    Args:
        cpu_share: of a core, that a trainer had while it did not wait for teachers; well below 1
            where other programs, or the run's own processes, wanted the cores too.
    """

    seconds: float
    wait_share: float
    cpu_share: float


def measured(history: Sequence[UpdateMetrics], trainers: int) -> Measured:
    """Means over the updates after the first `WARM`."""
    counted = history[WARM:]
    seconds = mean(update.seconds for update in counted)
    waited = mean(update.seconds * update.teacher_wait_share for update in counted)
    busy = mean(update.cpu_seconds for update in counted) / trainers
    return Measured(seconds, waited / seconds, busy / (seconds - waited))


def run_setups(updates: int, steps: Steps) -> Iterator[tuple[Setup, Timing, Measured]]:
    """Each setup with what is predicted and what is measured."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FLASH_RAY_CACHE"] = str(folder / "cache")
        with embedded_store(folder / "store") as store, local_cluster(4, 2, 2):
            recipe = SETUPS[0].recipe(updates)
            steps.say("encode the cases")
            shards = prepare(recipe, store).shards
            batch = Stream(recipe, ConditionCache.at(store), shards, 0, 1)[0]
            texts = tuple(
                float(side.mask_BL.shape[1])
                for side in (batch.conditions.positive, batch.conditions.negative)
            )
            steps.say("measure a trainer and a teacher alone")
            alone = calibrate.options(runtime_env={"env_vars": environment(1)})
            assumed = assumptions(ray.get(alone.remote(recipe)), texts)
            steps.say(json.dumps(assumed.model_dump(include=set(assumed.model_fields_set))))
            for number, setup in enumerate(SETUPS):
                steps.say(f"run {setup}")
                recipe = setup.recipe(updates)
                result = distill(recipe, store, f"setup-{number}", folder / f"student-{number}")
                model = predicted(setup, recipe, assumed, cores)
                run = measured(result.history, setup.trainers)
                steps.say(
                    f"{model.seconds:.2f} s an update predicted, {run.seconds:.2f} measured; "
                    f"waited {model.wait_share:.1%} predicted, {run.wait_share:.1%} measured; "
                    f"{run.cpu_share:.0%} of a core for each trainer"
                )
                yield setup, model, run


def result_table(rows: list[tuple[Setup, Timing, Measured]]) -> Table:
    """Predicted beside measured; * marks more processes than cores.

    Where trainers had much less than a core each, the machine was busy otherwise, or too small: the
    model cannot know.
    """
    table = Table(
        *("trainers", "teachers", "guidance", "passes"),
        *("s/update predicted", "measured", "wait predicted", "measured", "of a core"),
    )
    cores = os.cpu_count() or 1
    for setup, model, run in rows:
        mark = "*" if setup.processes > cores else ""
        table.add_row(
            *(f"{setup.trainers}{mark}", str(setup.teachers)),
            *(f"{setup.guidance:g}", str(setup.accumulation)),
            *(f"{model.seconds:.2f}", f"{run.seconds:.2f}"),
            *(f"{model.wait_share:.1%}", f"{run.wait_share:.1%}", f"{run.cpu_share:.0%}"),
        )
    return table


def command(
    updates: Annotated[
        int, typer.Option(min=2, help="Counted, of one micro-batch each; even.")
    ] = 6,
) -> None:
    """Compare the model's predictions with runs of the miniature on this machine (5 minutes)."""
    with Steps() as steps:
        rows = list(run_setups(updates, steps))
    wide_console().print(result_table(rows))


if __name__ == "__main__":
    typer.run(command)

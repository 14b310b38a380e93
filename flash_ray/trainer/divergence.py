"""Detects a student that diverges or collapses, by its samples' scale and by what grows."""

import math
from collections import deque
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.data.stream import Stream
from flash_ray.methods import Method
from flash_ray.models.base import Model
from flash_ray.models.sampling import velocity_of
from flash_ray.trainer import rng
from flash_ray.trainer.metrics import UpdateMetrics, sum_over_workers
from flash_ray.trainer.protocol import Learner

WINDOW = 10  # iterations: of the beginning that later ones are compared with, and of an alarm
GROWTH = 10.0  # a metric this many times its beginning has diverged
SPREAD = (0.2, 4.0)  # range of the student samples' scale, relative to the base's
# Metrics that may not grow, where the method has them, and what their beginning counts for at
# least: where the student starts as good as the teacher, the gradient starts at zero.
GROWING = {"dmd_gradient": 0.5, "fake_score_loss": 0.3}


class Diverged(RuntimeError):
    """The student is lost; the message names the metric and since when."""


class SampleScale:
    """Compares standard deviations by channel with those of the untrained student, the base.

    Args:
        base_KC: standard deviations of the base's samples at each rung.
    """

    def __init__(self, base_KC: Tensor) -> None:
        self._base_KC = base_KC

    def __call__(self, x_BNC: Tensor, rung: int) -> dict[str, Tensor]:
        """Mean ratios over the channels: `spread` to the base's samples at this rung, `excess` to
        the base's finished samples."""
        std_C = _std(x_BNC.detach())
        return {
            "spread": (std_C / self._base_KC[rung]).mean(),
            "excess": (std_C / self._base_KC[-1]).mean(),
        }


class DivergenceMonitor:
    """Watches the metrics of every iteration; raises Diverged.

    - Any loss, diagnostic, scale or gradient norm that is not finite: at once.
    - `spread`, the scale of the student's samples by channel relative to the base model's at the
      same rung, below `SPREAD[0]` (the samples shrink to a constant), or `excess`, relative to the
      base's finished samples, above `SPREAD[1]`: over `WINDOW` iterations in a row.
    - The median over `WINDOW` iterations of one of `GROWING` above `GROWTH` times that of the first
      `WINDOW` iterations.
    """

    def __init__(self) -> None:
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, deque[float]] = {}
        self._since: dict[str, int] = {}
        self._alarm_level: dict[str, float] = {}

    @property
    def alarm_level(self) -> dict[str, float]:
        """How near each watched metric is to what ends the run, 1 being there; a growing metric
        has one once there are enough iterations to compare."""
        return dict(self._alarm_level)

    def observe(self, metrics: UpdateMetrics) -> None:
        """Takes the metrics of the next iteration; there are no gaps.

        Raises:
            Diverged: the student is lost.
        """
        iteration, spread, excess = metrics.iteration, metrics.spread, metrics.excess
        watched = {
            "student_loss": metrics.student_loss,
            "fake_score_loss": metrics.fake_score_loss,
            **metrics.diagnostics,
            "spread": spread,
            "excess": excess,
            "student_grad_norm": metrics.student_grad_norm,
            "fake_score_grad_norm": metrics.fake_score_grad_norm,
        }
        for name, value in watched.items():
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} is {value} at iteration {iteration}: the student has diverged"
                )
        self._alarm_level |= {"spread": SPREAD[0] / max(spread, 1e-6), "excess": excess / SPREAD[1]}
        self._outside("spread", spread < SPREAD[0], iteration, "collapsed", spread)
        self._outside("excess", excess > SPREAD[1], iteration, "blown up", excess)
        for name in GROWING:
            if name in watched:
                self._growth(name, iteration, watched[name])

    def _outside(self, name: str, outside: bool, iteration: int, fate: str, value: float) -> None:
        if not outside:
            self._since.pop(name, None)
            return
        since = self._since.setdefault(name, iteration)
        if iteration - since + 1 >= WINDOW:
            raise Diverged(
                f"{name} is outside {SPREAD[0]:g} to {SPREAD[1]:g} since iteration {since} "
                f"({value:.3g} at iteration {iteration}): the student's samples have {fate}"
            )

    def _growth(self, name: str, iteration: int, value: float) -> None:
        first = self._first.setdefault(name, [])
        if len(first) < WINDOW:
            first.append(value)
            return
        last = self._last.setdefault(name, deque(maxlen=WINDOW))
        last.append(value)
        start = max(median(first), GROWING[name])
        if len(last) < WINDOW:
            return
        self._alarm_level[name] = median(last) / (GROWTH * start)
        if self._alarm_level[name] > 1:
            since = iteration - WINDOW + 1
            raise Diverged(
                f"{name} is {median(last) / start:.3g} times its beginning since iteration {since} "
                f"({value:.3g} at iteration {iteration}): the student has diverged"
            )


@torch.no_grad()
def measure_base(
    method: Method, model: Model, student: Learner, stream: Stream, seed: int
) -> SampleScale:
    """Samples the student at every rung before it is trained; a collective."""
    rungs, scales = range(len(method.sigmas)), []
    for n in range(stream.passes):
        batch = stream[n]
        noise_BNC = rng.noise(batch, model.latent_channels, seed, "scale").to(student.device)
        velocity = velocity_of(model, student, batch.conditions)
        std_KC = torch.stack([_std(method.student_x(velocity, noise_BNC, rung)) for rung in rungs])
        scales.append(std_KC * batch.weight)
    base_KC = torch.stack(scales).mean(0)
    return SampleScale(sum_over_workers(base_KC) / dist.get_world_size())


def _std(x_BNC: Tensor) -> Tensor:
    return x_BNC.float().std(dim=(0, 1)).clamp_min(1e-6)

"""What one update measured: losses, times, memory, and what the teachers did."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from flash_ray.methods.guidance import score_gap
from flash_ray.recipe import Recipe
from flash_ray.teachers.scorer import spec_of


class StageTimer:
    """Seconds by stage, of this process; a stage inside another does not count for the outer one.

    On a GPU a stage ends when its work is queued, unless it waits for a result.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """The block is of that stage."""
        start, counted = self._clock(), self._total()
        try:
            yield
        finally:
            inside = self._total() - counted
            own = self._clock() - start - inside
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own

    def _total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class TaskLosses:
    """Mean losses of one task's micro-batches in an iteration."""

    student_loss: float
    fake_score_loss: float


@dataclass(frozen=True)
class TeacherStats:
    """One teacher at one rung in an iteration.

    Args:
        weight: mean λ over the samples.
        norm, cosine: as `guidance.score_gap` has them, means over samples; None where the teacher
            or the base was not asked.
    """

    weight: float
    norm: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class UpdateMetrics:
    """What one iteration measured, means over the workers: the same record on all of them.

    Progress lines, the history, divergence, metrics, records and reports read it by attribute.

    Args:
        iteration: from 1.
        num_workers: that made it.
        student_loss, fake_score_loss: means over the micro-batches and passes.
        diagnostics: what the method watches, by name, e.g. `dmd_gradient`.
        spread: scale of the student's samples, relative to the base's at the same rung.
        excess: the same, relative to the base's finished samples.
        student_grad_norm, fake_score_grad_norm: before clipping.
        seconds: of the iteration.
        stages: seconds of each of `STAGES`; "teachers" is the wait for them.
        teacher_wait_share: the part of the seconds that is the wait for teachers, 0 to 1.
        memory_mib: the device's peak, or what the process holds.
        images: samples of the student, of all workers.
        teacher_calls: evaluations of teachers' transformers for one picture, of all workers.
        cpu_seconds: of all workers.
        tasks: losses by task, of those that the iteration held.
        teachers: by name and rung (from 1).
        scores: of the averaged student by task, where it was evaluated; else None.
    """

    iteration: int
    num_workers: int
    student_loss: float
    fake_score_loss: float
    diagnostics: dict[str, float]
    spread: float
    excess: float
    student_grad_norm: float
    fake_score_grad_norm: float
    seconds: float
    stages: dict[str, float]
    teacher_wait_share: float
    memory_mib: float
    images: int
    teacher_calls: int
    cpu_seconds: float
    tasks: dict[str, TaskLosses]
    teachers: dict[str, dict[int, TeacherStats]]
    scores: dict[str, float] | None = None

    @property
    def images_per_second(self) -> float:
        """Samples of the student a second, of all workers."""
        return self.images / self.seconds

    def to_json(self) -> str:
        """One line; `from_json` reads it back to an equal record."""
        return _RECORD.dump_json(self).decode()

    @staticmethod
    def from_json(line: str) -> "UpdateMetrics":
        """The record of a line that `to_json` wrote; pydantic.ValidationError for any other."""
        return _RECORD.validate_json(line)


_RECORD = TypeAdapter(UpdateMetrics)


FIELDS = ("weight", "samples", "norm", "cosine", "compared")


class TeacherLog:
    """Sums over an update's samples. Their size is fixed, so that workers whose samples asked
    different teachers can add them."""

    def __init__(self, recipe: Recipe):
        self._names = [teacher.name for teacher in recipe.teachers]
        models = [teacher.model for teacher in recipe.teachers]
        base = [index for index, model in enumerate(models) if model in ("base", recipe.base)]
        self._base = base[0] if base else None
        self._calls = [spec_of(recipe, index).calls for index in range(len(models))]
        self.calls = 0  # of the teachers' transformers for one picture, by this worker
        rungs = len(recipe.student.rungs)
        self._sums_MKF = torch.zeros(len(models), rungs, len(FIELDS), dtype=torch.float64)

    def add(
        self,
        rung: int,
        weights_BM: Tensor,
        velocities: Mapping[int, Tensor],
        v_real_BNC: Tensor,
        v_fake_BNC: Tensor,
        t_B: Tensor,
    ) -> None:
        """Takes a micro-batch: the teachers' weights, and the velocities of those asked."""
        self._sums_MKF[:, rung, 0] += weights_BM.double().sum(0)
        self._sums_MKF[:, rung, 1] += len(weights_BM)
        self.calls += len(weights_BM) * sum(self._calls[index] for index in velocities)
        if self._base not in velocities:
            return
        for index, v_BNC in velocities.items():
            if index != self._base:
                norm_B, cosine_B = score_gap(
                    v_BNC, velocities[self._base], v_fake_BNC, v_real_BNC, t_B
                )
                sums = (norm_B.sum(), cosine_B.sum(), torch.tensor(float(len(t_B))))
                self._sums_MKF[index, rung, 2:] += torch.stack([s.double().cpu() for s in sums])

    def result(self, device: torch.device) -> dict[str, dict[str, dict[str, Any]]]:
        """A collective. By teacher and rung (from 1): the mean `weight`; and where it and the base
        were asked, `norm` and `cosine` as `guidance.score_gap` has them, means over samples."""
        sums_MKF = self._sums_MKF.to(device)
        dist.all_reduce(sums_MKF)
        table: dict[str, dict[str, dict[str, Any]]] = {}
        for name, rows in zip(self._names, sums_MKF.tolist(), strict=True):
            table[name] = {
                str(rung): _means(dict(zip(FIELDS, row, strict=True)))
                for rung, row in enumerate(rows, 1)
                if row[1]
            }
        return table


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    means = {"weight": sums["weight"] / sums["samples"]}
    if sums["compared"]:
        means |= {name: sums[name] / sums["compared"] for name in ("norm", "cosine")}
    return means

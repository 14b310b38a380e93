"""What one iteration measured: losses, times, memory, and what the teachers did."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from flash_ray.methods.guidance import score_gap
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.teachers.scorer import spec_of
from flash_ray.trainer.protocol import Learner

if TYPE_CHECKING:
    from PIL import Image

STAGES = ("data", "student", "teachers", "ema", "fake_score")


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
        norm, cosine: of `guidance.score_gap`, means over samples; None where the teacher or the
            base was not asked.
    """

    weight: float
    norm: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """What the averaged student drew between iterations.

    Args:
        scores: by task; {} if nothing scores it.
        sheet: its pictures with their prompts; None without cases.
        categories: the scores by task and category.
    """

    scores: dict[Task, float]
    sheet: "Image.Image | None"
    categories: dict[Task, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class UpdateMetrics:
    """What one iteration measured, means over the workers: the same record on all of them.

    Progress lines, the history, divergence, metrics, records and reports read it by attribute.

    Args:
        iteration: from 1.
        num_workers: how many workers made it.
        student_loss, fake_score_loss: means over the micro-batches and passes.
        diagnostics: the method's, by name, e.g. `dmd_gradient`.
        spread: scale of the student's samples, relative to the base's at the same rung.
        excess: the same, relative to the base's finished samples.
        student_grad_norm, fake_score_grad_norm: before clipping.
        seconds: wall time.
        stages: seconds of each of `STAGES`; "teachers" is the wait for them. After an iteration
            whose student was evaluated, "evaluate" too, which `seconds` does not hold.
        teacher_wait_share: the part of the seconds that is the wait for teachers, 0 to 1.
        memory_mib: the device's peak, or what the process holds.
        images: samples that the student was trained on, of all workers.
        teacher_calls: evaluations of teachers' transformers for one picture, of all workers.
        cpu_seconds: CPU time, of all workers together.
        tasks: losses of each task that the iteration held.
        teachers: by name and rung (from 1).
        scores: of the averaged student by task; None where it was not scored.
        categories: its scores by task and category; None where it was not scored.
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
    tasks: dict[Task, TaskLosses]
    teachers: dict[str, dict[int, TeacherStats]]
    scores: dict[Task, float] | None = None
    categories: dict[Task, dict[str, float]] | None = None

    @property
    def images_per_second(self) -> float:
        """Samples of the student a second, of all workers."""
        return self.images / self.seconds

    def scalars(self) -> dict[str, float]:
        """Every number of the record but the iteration, by its path, as `scores/t2i`."""
        numbers = dict(_numbers(_RECORD.dump_python(self)))
        del numbers["iteration"]
        return numbers

    def to_json(self) -> str:
        """One line; `from_json` reads it back to an equal record."""
        return _RECORD.dump_json(self).decode()

    @staticmethod
    def from_json(line: str) -> "UpdateMetrics":
        """The record of a line that `to_json` wrote; pydantic.ValidationError for any other."""
        return _RECORD.validate_json(line)


_RECORD = TypeAdapter(UpdateMetrics)


def _numbers(node: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{name}/")
        elif value is not None:
            yield f"{path}{name}", float(value)


class StageTimer:
    """Seconds by stage, of this process; a stage inside another does not count for the outer one.

    On a GPU a stage ends when its work is queued, unless it waits for a result.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the block's seconds to the stage."""
        start, counted = self._clock(), self._total()
        try:
            yield
        finally:
            inside = self._total() - counted
            elapsed = self._clock() - start - inside
            self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed

    def _total(self) -> float:
        return sum(self.seconds.values())


class IterationRecorder:
    """Takes what one worker measures in an iteration; `result` averages it over the workers.

    Made when the iteration begins: its clock starts then.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.stage = StageTimer()
        self.teachers = TeacherLog(recipe)
        self._start, self._cpu_start = time.monotonic(), time.process_time()
        self._tasks: list[Task] = []
        # Of all passes: weights and tensors, which are read when the iteration ends: no pass waits.
        self._passes: list[tuple[float, dict[str, Tensor]]] = []
        self._diagnostics: tuple[str, ...] = ()
        self._fake_score_losses: list[Tensor] = []  # of all passes, for each repeat in turn

    def add_student(
        self,
        task: Task,
        weight: float,
        loss: Tensor,
        diagnostics: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
    ) -> None:
        """Takes a pass of the student.

        Args:
            weight: of the pass in a mean over all passes and workers.
            scale: `spread` and `excess` of `SampleScale`.
        """
        values = {"student_loss": loss.detach(), **diagnostics, **scale}
        self._tasks.append(task)
        self._diagnostics = tuple(diagnostics)
        self._passes.append((weight, values))

    def add_fake_score(self, loss: Tensor) -> None:
        """Takes the weighted loss of a pass of the fake score; passes come in the same order."""
        self._fake_score_losses.append(loss.detach())

    def result(
        self, iteration: int, images: int, student: Learner, fake_score: Learner
    ) -> UpdateMetrics:
        """Ends the iteration; a collective, the same record on all workers."""
        device, count = student.device, len(self._passes)
        seconds = time.monotonic() - self._start
        stages = {stage: self.stage.seconds.get(stage, 0.0) for stage in STAGES}
        passes = []
        for number, (weight, values) in enumerate(self._passes):
            losses = [float(loss) for loss in self._fake_score_losses[number::count]]
            passes.append({name: float(value) * weight for name, value in values.items()})
            passes[-1]["fake_score_loss"] = sum(losses) / len(losses)
        measured = {
            **_means(passes),
            "student_grad_norm": float(student.grad_norm),
            "fake_score_grad_norm": float(fake_score.grad_norm),
            "seconds": seconds,
            "teacher_wait_share": stages["teachers"] / seconds,
            "memory_mib": _memory_mib(device),
        }
        mean = _mean_of_workers(measured, device)
        spent = [self.teachers.calls, time.process_time() - self._cpu_start]
        calls, cpu_seconds = sum_over_workers(
            torch.tensor(spent, dtype=torch.float64).to(device)
        ).tolist()
        return UpdateMetrics(
            iteration=iteration,
            num_workers=dist.get_world_size(),
            student_loss=mean["student_loss"],
            fake_score_loss=mean["fake_score_loss"],
            diagnostics={name: mean[name] for name in self._diagnostics},
            spread=mean["spread"],
            excess=mean["excess"],
            student_grad_norm=mean["student_grad_norm"],
            fake_score_grad_norm=mean["fake_score_grad_norm"],
            seconds=mean["seconds"],
            stages=_mean_of_workers(stages, device),
            teacher_wait_share=mean["teacher_wait_share"],
            memory_mib=mean["memory_mib"],
            images=images,
            teacher_calls=int(calls),
            cpu_seconds=cpu_seconds,
            tasks={task: self._losses(task, passes, device) for task in sorted(set(self._tasks))},
            teachers=self.teachers.result(device),
        )

    def _losses(
        self, task: Task, passes: list[dict[str, float]], device: torch.device
    ) -> TaskLosses:
        of_task = zip(self._tasks, passes, strict=True)
        means = _means([values for name, values in of_task if name == task])
        mean = _mean_of_workers(
            {name: means[name] for name in ("student_loss", "fake_score_loss")}, device
        )
        return TaskLosses(mean["student_loss"], mean["fake_score_loss"])


FIELDS = ("weight", "samples", "norm", "cosine", "compared")


class TeacherLog:
    """Sums over an iteration's samples, by teacher and rung.

    Their size is fixed, so that workers whose samples asked different teachers can add them.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._names = [teacher.name for teacher in recipe.teachers]
        models = [teacher.model for teacher in recipe.teachers]
        plain = [index for index, model in enumerate(models) if model in ("base", recipe.base)]
        self._base = plain[0] if plain else None
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
        """Takes a pass: the teachers' weights, and the velocities of those that were asked."""
        self._sums_MKF[:, rung, 0] += weights_BM.double().sum(0)
        self._sums_MKF[:, rung, 1] += len(weights_BM)
        self.calls += len(weights_BM) * sum(self._calls[index] for index in velocities)
        if self._base is None or self._base not in velocities:
            return
        for index, v_BNC in velocities.items():
            if index != self._base:
                norm_B, cosine_B = score_gap(
                    v_BNC, velocities[self._base], v_fake_BNC, v_real_BNC, t_B
                )
                sums = (norm_B.sum(), cosine_B.sum(), torch.tensor(float(len(t_B))))
                self._sums_MKF[index, rung, 2:] += torch.stack([s.double().cpu() for s in sums])

    def result(self, device: torch.device) -> dict[str, dict[int, TeacherStats]]:
        """The means by teacher and rung (from 1), of the rungs that occurred; a collective."""
        sums_MKF = sum_over_workers(self._sums_MKF.to(device))
        return {
            name: {rung: _teacher_stats(*sums) for rung, sums in enumerate(rows, 1) if sums[1]}
            for name, rows in zip(self._names, sums_MKF.tolist(), strict=True)
        }


def _teacher_stats(
    weight: float, samples: float, norm: float, cosine: float, compared: float
) -> TeacherStats:
    """The means of one row of sums, `FIELDS`."""
    if not compared:
        return TeacherStats(weight / samples)
    return TeacherStats(weight / samples, norm / compared, cosine / compared)


def sum_over_workers(values: Tensor) -> Tensor:
    """Adds the workers' tensors, in place; a collective."""
    dist.all_reduce(values)
    return values


def _mean_of_workers(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Averages over the workers, so that all of them see, and stop at, the same; a collective."""
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    mean = (sum_over_workers(numbers.to(device)) / dist.get_world_size()).tolist()
    return dict(zip(values, mean, strict=True))


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _memory_mib(device: torch.device) -> float:
    """The device's peak, or what the process holds of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20

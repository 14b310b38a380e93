"""One update of the run: `student_step` is the DMD step; `dmd.py` holds its mathematics."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.data.stream import MicroBatch, Stream
from flash_ray.methods.dmd import DMD
from flash_ray.methods.guidance import combine_scores
from flash_ray.models.base import Model
from flash_ray.models.sampling import guided
from flash_ray.recipe import Recipe
from flash_ray.recipe.teacher_weights import Moment, weights_at
from flash_ray.teachers.protocol import Answer, Teachers
from flash_ray.trainer import rng
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.metrics import StageTimer, TeacherLog

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

Samples = list[tuple[MicroBatch, Tensor]]
LOSSES = ("student_loss", "fake_loss")
STAGES = ("data", "student", "teachers", "ema", "fake")


@dataclass(frozen=True)
class _Announced:
    """A micro-batch that the teachers know of.

    Args:
        rung: of the student's rollout, from 0; the same on all workers.
        weights_BM: λ of the teachers for this worker's samples.
        asked: the teachers, by their positions in the recipe, that will be.
    """

    batch: MicroBatch
    rung: int
    weights_BM: Tensor
    asked: tuple[int, ...]


class DistillationStep:
    """Distills the student by DMD; on every worker the same calls in the same order."""

    def __init__(
        self,
        recipe: Recipe,
        backbone: Model,
        student: "DeepSpeedEngine",
        fake: "DeepSpeedEngine",
        teachers: Teachers,
        stream: Stream,
    ):
        objective = recipe.objective
        self.recipe, self.backbone, self.stream = recipe, backbone, stream
        self.student, self.fake, self.teachers = student, fake, teachers
        self.dmd = DMD(
            tuple(recipe.student.rungs), objective.t_min, objective.t_max, objective.timestep_shift
        )
        self.ema = EMA(student, recipe.training.ema_decay)
        self.scale_KC = self._base_scale()
        self._announced: dict[int, _Announced] = {}
        self._stage = StageTimer()

    def update(self, number: int) -> dict[str, dict[str, Any]]:
        """Update `number` (from 0): one student step, then the fake score's.

        Returns:
            `measures` of the whole update; `tasks`, losses of each task that it held; `teachers`,
            what `TeacherLog.result` says; `stages`, seconds of each of `STAGES`, by which
            `teachers` is the wait for them, mean over the workers.
        """
        start, cpu_start, self._stage = time.monotonic(), time.process_time(), StageTimer()
        log, repeats = (
            TeacherLog(self.recipe),
            range(self.recipe.training.fake_score.updates_per_iteration),
        )
        with self._stage("student"):
            samples, parts = self.student_step(number, log)
        with self._stage("ema"):
            self.ema.update()
        with self._stage("fake"):
            losses_RB = [self.fake_step(samples, repeat) for repeat in repeats]
        for part, losses in zip(parts, zip(*losses_RB, strict=True), strict=True):
            part["fake_loss"] = sum(losses) / len(losses)
        seconds = time.monotonic() - start
        stages = {stage: self._stage.seconds.get(stage, 0.0) for stage in STAGES}
        mine = {
            **_means(parts),
            "student_norm": float(self.student.get_global_grad_norm() or 0.0),
            "fake_norm": float(self.fake.get_global_grad_norm() or 0.0),
            "seconds": seconds,
            "teacher_wait_share": stages["teachers"] / seconds,
            "memory_mib": _memory_mib(self.student.device),
        }
        measures = self._averaged(mine)
        images = self.recipe.runtime.gradient_accumulation_steps * self.stream.size
        mine = torch.tensor([log.calls, time.process_time() - cpu_start], dtype=torch.float64)
        calls, cpu_seconds = _sum_over_workers(mine.to(self.student.device)).tolist()
        measures |= {"images": images, "teacher_calls": int(calls), "cpu_seconds": cpu_seconds}
        measures["images_per_second"] = images / measures["seconds"]
        return {
            "measures": measures,
            "tasks": self._by_task([batch.task for batch, _ in samples], parts),
            "teachers": log.result(self.student.device),
            "stages": self._averaged(stages),
        }

    def student_step(self, number: int, log: TeacherLog) -> tuple[Samples, list[dict[str, float]]]:
        """One optimizer step on the DMD gradient; the samples and measures of each micro-batch."""
        samples, parts = [], []
        for n in self._turns(number):
            announced = self._announce(n)
            batch, rung, weights_BM = announced.batch, announced.rung, announced.weights_BM
            noise, t, xi = self._draw_student(batch)
            student = guided(self.backbone, self.student, batch.conditioned)
            fake = guided(self.backbone, self.fake, batch.conditioned)

            x = self.dmd.student_x(student, noise, rung)
            x_t = self.dmd.renoise(x, t, xi)
            answer = self.teachers.score(n, x_t, t)
            self._announce_next(n)
            with torch.no_grad():
                v_fake = fake(x_t, t)
            velocities = self._await(answer)
            v_real = combine_scores(weights_BM, velocities)
            loss, diagnostics = self.dmd.student_loss(x, t, xi, v_real, v_fake)
            self.student.backward(loss * batch.weight)
            self.student.step()

            if batch.weight:
                log.add(rung, weights_BM, velocities, v_real, v_fake, t)
            samples.append((batch, x.detach()))
            part = {"student_loss": loss.detach(), **diagnostics, **self._scale(x, rung)}
            parts.append({name: float(value) * batch.weight for name, value in part.items()})
            del self._announced[n]
        return samples, parts

    def fake_step(self, samples: Samples, repeat: int) -> list[float]:
        """One step of the fake score on the student's samples, freshly noised each time; the loss
        of each micro-batch."""
        losses = []
        for batch, x in samples:
            labels = (self.recipe.seed, batch.number, "fake", repeat)
            t = self.dmd.sample_t(batch.size, rng.generator(*labels, "t"))[batch.mine].to(x)
            eps = rng.noise(batch, x.shape[-1], *labels, "eps").to(x)
            fake = guided(self.backbone, self.fake, batch.conditioned)
            loss = self.dmd.fake_loss(fake, x, t, eps) * batch.weight
            self.fake.backward(loss)
            self.fake.step()
            losses.append(float(loss.detach()))
        return losses

    @property
    def _turns_per_update(self) -> int:
        return self.recipe.runtime.gradient_accumulation_steps * self.stream.passes

    def _turns(self, update: int) -> Iterator[int]:
        """The numbers of an update's passes over its micro-batches."""
        turns = self._turns_per_update
        return iter(range(update * turns, (update + 1) * turns))

    def _draw_student(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(initial noise, re-noising time, re-noising noise) of a micro-batch."""
        labels, device = (self.recipe.seed, batch.number), self.student.device
        channels = self.backbone.latent_channels
        noise = rng.noise(batch, channels, *labels, "noise").to(device)
        t = self.dmd.sample_t(batch.size, rng.generator(*labels, "t"))[batch.mine].to(device)
        xi = rng.noise(batch, channels, *labels, "xi").to(device)
        return noise, t, xi

    def _announce(self, n: int) -> _Announced:
        """Takes the part of turn n and tells its teachers, unless that was done a step ahead."""
        if n not in self._announced:
            recipe = self.recipe
            with self._stage("data"):
                batch = self.stream[n]
            rung = self.dmd.sample_rung(rng.generator(recipe.seed, batch.number, "rung"))
            update = n // self._turns_per_update
            progress = update / recipe.training.iterations
            weights_BM = teacher_weights(recipe, rung, progress, batch.task, batch.categories)
            every = recipe.teacher_defaults.diagnose_every
            wanted_M = (weights_BM > 0).any(0) | bool(every and update % every == 0)
            asked = tuple(wanted_M.nonzero().flatten().tolist())
            self._announced[n] = _Announced(batch, rung, weights_BM, asked)
            self.teachers.prefill(n, batch.conditioned, asked)
        return self._announced[n]

    def _announce_next(self, n: int) -> None:
        last = self.recipe.training.iterations * self._turns_per_update - 1
        if n < last and self.teachers.has_capacity:
            self._announce(n + 1)

    def _await(self, answer: Answer) -> dict[int, Tensor]:
        with self._stage("teachers"):
            return answer.result()

    @torch.no_grad()
    def _base_scale(self) -> Tensor:
        """Standard deviation by rung and channel of what the untrained student (the base) rng."""
        rungs, scales = range(len(self.dmd.sigmas)), []
        for turn in range(self.stream.passes):
            batch = self.stream[turn]
            noise = rng.noise(batch, self.backbone.latent_channels, self.recipe.seed, "scale")
            velocity = guided(self.backbone, self.student, batch.conditioned)
            z = noise.to(self.student.device)
            own_KC = torch.stack([_std(self.dmd.student_x(velocity, z, rung)) for rung in rungs])
            scales.append(own_KC * batch.weight)
        return _mean_over_workers(torch.stack(scales).mean(0))

    def _scale(self, x: Tensor, rung: int) -> dict[str, Tensor]:
        """The samples' scale, relative to the base's at this rung and to its finished samples."""
        std_C = _std(x.detach())
        return {
            "spread": (std_C / self.scale_KC[rung]).mean(),
            "excess": (std_C / self.scale_KC[-1]).mean(),
        }

    def _averaged(self, measures: dict[str, float]) -> dict[str, float]:
        """Over the workers, so that all of them see, and stop at, the same."""
        values = torch.tensor(list(measures.values()), dtype=torch.float64)
        mean = _mean_over_workers(values.to(self.student.device)).tolist()
        return dict(zip(measures, mean, strict=True))

    def _by_task(
        self, tasks: Sequence[str], parts: Sequence[dict[str, float]]
    ) -> dict[str, dict[str, float]]:
        """The losses of each task that the update held, over its micro-batches and the workers."""
        table = {}
        for task in sorted(set(tasks)):
            means = _means([part for of, part in zip(tasks, parts, strict=True) if of == task])
            table[task] = self._averaged({name: means[name] for name in LOSSES})
        return table


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _std(x_BNC: Tensor) -> Tensor:
    return x_BNC.float().std(dim=(0, 1)).clamp_min(1e-6)


def _sum_over_workers(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values


def _mean_over_workers(values: Tensor) -> Tensor:
    return _sum_over_workers(values) / dist.get_world_size()


def _memory_mib(device: torch.device) -> float:
    """The device's peak, or what the process holds of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20


def teacher_weights(
    recipe: Recipe, rung: int, progress: float, task: str, categories: Sequence[str]
) -> Tensor:
    """lambda_BM, fp32: how much each teacher counts for each sample.

    Args:
        rung: of the student's rollout, 0 to K-1.
        progress: share of the run's updates that are done, in [0, 1).
        categories: of the samples.
    """
    rows = {c: weights_at(recipe, Moment(rung + 1, progress, task, c)) for c in set(categories)}
    return torch.tensor([rows[category] for category in categories])

"""One update of the run: `student_step` is the DMD step; `dmd.py` holds its mathematics."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.backbones.base import Backbone
from flash_ray.backbones.sampling import guided
from flash_ray.data.stream import MicroBatch, Stream
from flash_ray.distill import draws
from flash_ray.distill.dmd import DMD
from flash_ray.distill.ema import EMA
from flash_ray.recipe import Recipe
from flash_ray.teachers.base import Answer, Teacher

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

Samples = list[tuple[MicroBatch, Tensor]]


class Distiller:
    """Distils the student by DMD; on every worker the same calls in the same order."""

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        student: "DeepSpeedEngine",
        fake: "DeepSpeedEngine",
        teacher: Teacher,
        stream: Stream,
    ):
        objective = recipe.objective
        self.recipe, self.backbone, self.stream = recipe, backbone, stream
        self.student, self.fake, self.teacher = student, fake, teacher
        self.dmd = DMD(
            tuple(recipe.student.rungs), objective.t_min, objective.t_max, objective.shift
        )
        self.ema = EMA(student, recipe.optimisation.ema)
        self.scale_KC = self._base_scale()
        self._announced: dict[int, MicroBatch] = {}
        self._waited = 0.0

    def update(self, number: int) -> dict[str, float]:
        """Update `number` (from 0): one student step, then the fake score's. Returns measures."""
        start, self._waited = time.monotonic(), 0.0
        samples, measures = self.student_step(number)
        self.ema.update()
        losses = [self.fake_step(samples, r) for r in range(self.recipe.optimisation.fake_updates)]
        measures["fake_loss"] = sum(losses) / len(losses)
        seconds = time.monotonic() - start
        measures["seconds"] = seconds
        measures["teacher_wait_share"] = self._waited / seconds
        measures["memory_mib"] = _memory_mib(self.student.device)
        measures = self._averaged(measures)
        images = sum(batch.size for batch, _ in samples)
        return {**measures, "images_per_second": images / measures["seconds"]}

    def student_step(self, number: int) -> tuple[Samples, dict[str, Any]]:
        """One optimiser step on the DMD gradient; returns the student's samples and measures."""
        samples, parts = [], []
        for n in self._micro_batches(number):
            batch = self._announce(n)
            rung, noise, t, xi = self._draw_student(batch)
            student = guided(self.backbone, self.student, batch.conditioned)
            fake = guided(self.backbone, self.fake, batch.conditioned)

            x = self.dmd.student_x(student, noise, rung)
            x_t = self.dmd.renoise(x, t, xi)
            answer = self.teacher.score(n, x_t, t)
            self._announce_next(n)
            with torch.no_grad():
                v_fake = fake(x_t, t)
            v_real = self._await(answer)
            loss, diagnostics = self.dmd.student_loss(x, t, xi, v_real, v_fake)
            self.student.backward(loss)
            self.student.step()

            samples.append((batch, x.detach()))
            parts.append({"student_loss": loss.detach(), **diagnostics, **self._scale(x, rung)})
            del self._announced[n]
        measures = {name: sum(float(p[name]) for p in parts) / len(parts) for name in parts[0]}
        measures["student_norm"] = float(self.student.get_global_grad_norm() or 0.0)
        return samples, measures

    def fake_step(self, samples: Samples, repeat: int) -> float:
        """One step of the fake score on the student's samples, freshly noised each time."""
        losses = []
        for batch, x in samples:
            labels = (self.recipe.seed, batch.number, "fake", repeat)
            t = self.dmd.sample_t(batch.size, draws.generator(*labels, "t"))[batch.mine].to(x)
            eps = draws.noise(batch, x.shape[-1], *labels, "eps").to(x)
            fake = guided(self.backbone, self.fake, batch.conditioned)
            loss = self.dmd.fake_loss(fake, x, t, eps)
            self.fake.backward(loss)
            self.fake.step()
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    def _micro_batches(self, update: int) -> Iterator[int]:
        passes = self.recipe.runtime.accumulation
        return iter(range(update * passes, (update + 1) * passes))

    def _draw_student(self, batch: MicroBatch) -> tuple[int, Tensor, Tensor, Tensor]:
        """(rung, initial noise, re-noising time, re-noising noise) of a micro-batch."""
        labels, device = (self.recipe.seed, batch.number), self.student.device
        channels = self.backbone.latent_channels
        rung = self.dmd.sample_rung(draws.generator(*labels, "rung"))
        noise = draws.noise(batch, channels, *labels, "noise").to(device)
        t = self.dmd.sample_t(batch.size, draws.generator(*labels, "t"))[batch.mine].to(device)
        xi = draws.noise(batch, channels, *labels, "xi").to(device)
        return rung, noise, t, xi

    def _announce(self, n: int) -> MicroBatch:
        """Takes micro-batch n and tells the teacher, unless that was done a step ahead."""
        if n not in self._announced:
            self._announced[n] = self.stream[n]
            self.teacher.prefill(n, self._announced[n].conditioned)
        return self._announced[n]

    def _announce_next(self, n: int) -> None:
        last = self.recipe.optimisation.updates * self.recipe.runtime.accumulation - 1
        if n < last and self.teacher.room:
            self._announce(n + 1)

    def _await(self, answer: Answer) -> Tensor:
        start = time.monotonic()
        v_real = answer.result()
        self._waited += time.monotonic() - start
        return v_real

    @torch.no_grad()
    def _base_scale(self) -> Tensor:
        """Standard deviation by rung and channel of what the untrained student (the base) draws."""
        batch = self.stream[0]
        noise = draws.noise(batch, self.backbone.latent_channels, self.recipe.seed, "scale")
        velocity = guided(self.backbone, self.student, batch.conditioned)
        z = noise.to(self.student.device)
        rungs = range(len(self.dmd.sigmas))
        scale_KC = torch.stack([_std(self.dmd.student_x(velocity, z, rung)) for rung in rungs])
        return _mean_over_workers(scale_KC)

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


def _std(x_BNC: Tensor) -> Tensor:
    return x_BNC.float().std(dim=(0, 1)).clamp_min(1e-6)


def _mean_over_workers(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values / dist.get_world_size()


def _memory_mib(device: torch.device) -> float:
    """The device's peak, or what the process holds of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20

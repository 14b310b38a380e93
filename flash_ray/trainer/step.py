"""One iteration of a run: the student's step, then the fake score's.

`methods/dmd.py` holds the mathematics; averages over workers and times are in `metrics.py`, what
the teachers are told ahead in `lookahead.py`.
"""

import torch
from torch import Tensor

from flash_ray.data.stream import MicroBatch, Stream
from flash_ray.methods import METHODS
from flash_ray.methods.guidance import combine_scores
from flash_ray.models.base import Model
from flash_ray.models.sampling import velocity_of
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import Teachers
from flash_ray.trainer import rng
from flash_ray.trainer.divergence import measure_base
from flash_ray.trainer.lookahead import Lookahead
from flash_ray.trainer.metrics import IterationRecorder, UpdateMetrics
from flash_ray.trainer.protocol import Learner

Samples = list[tuple[MicroBatch, Tensor]]


class DistillationStep:
    """Distills the student; on every worker the same calls in the same order."""

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        student: Learner,
        fake_score: Learner,
        teachers: Teachers,
        stream: Stream,
    ) -> None:
        objective = recipe.objective
        self.recipe, self.model, self.stream = recipe, model, stream
        self.student, self.fake_score, self.teachers = student, fake_score, teachers
        self.method = METHODS[objective.name](
            tuple(recipe.student.rungs), objective.t_min, objective.t_max, objective.timestep_shift
        )
        self.ema = student.average(recipe.training.ema_decay)
        self._lookahead = Lookahead(recipe, self.method, teachers, stream)
        self._scale = measure_base(self.method, model, student, stream, recipe.seed)

    def __call__(self, iteration: int) -> UpdateMetrics:
        """Iteration number `iteration`, from 1: a student step, then the fake score's."""
        record = IterationRecorder(self.recipe)
        with record.stage("student"):
            samples = self.student_step(iteration, record)
        with record.stage("ema"):
            self.ema.update()
        with record.stage("fake_score"):
            for repeat in range(self.recipe.training.fake_score.updates_per_iteration):
                self.fake_score_step(samples, repeat, record)
        images = self.recipe.runtime.gradient_accumulation_steps * self.stream.size
        return record.result(iteration, images, self.student, self.fake_score)

    def student_step(self, iteration: int, record: IterationRecorder) -> Samples:
        """One optimizer step on the method's gradient; returns the samples of each pass."""
        samples = []
        for n in self._lookahead.passes(iteration):
            announced = self._lookahead.take(n, record.stage)
            batch, rung, weights_BM = announced.batch, announced.rung, announced.weights_BM
            noise, t, xi = self._draw_student(batch)
            student = velocity_of(self.model, self.student, batch.conditions)
            fake_score = velocity_of(self.model, self.fake_score, batch.conditions)

            x = self.method.student_x(student, noise, rung)
            x_t = self.method.renoise(x, t, xi)
            answer = self.teachers.score(n, x_t, t)
            self._lookahead.announce_next(n, record.stage)
            with torch.no_grad():
                v_fake = fake_score(x_t, t)
            with record.stage("teachers"):
                velocities = answer.result()
            v_real = combine_scores(weights_BM, velocities)
            loss, diagnostics = self.method.student_loss(x, t, xi, v_real, v_fake)
            self.student.backward(loss * batch.weight)
            self.student.step()

            if batch.weight:
                record.teachers.add(rung, weights_BM, velocities, v_real, v_fake, t)
            record.add_student(batch.task, batch.weight, loss, diagnostics, self._scale(x, rung))
            samples.append((batch, x.detach()))
        return samples

    def fake_score_step(self, samples: Samples, repeat: int, record: IterationRecorder) -> None:
        """One optimizer step of the fake score on the student's samples, noised afresh."""
        for batch, x in samples:
            t, eps = self._draw_fake_score(batch, x, repeat)
            fake_score = velocity_of(self.model, self.fake_score, batch.conditions)
            loss = self.method.fake_score_loss(fake_score, x, t, eps) * batch.weight
            self.fake_score.backward(loss)
            self.fake_score.step()
            record.add_fake_score(loss)

    def _draw_student(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(initial noise, re-noising time, re-noising noise) of a micro-batch."""
        labels, device = (self.recipe.seed, batch.number), self.student.device
        channels = self.model.latent_channels
        noise = rng.noise(batch, channels, *labels, "noise").to(device)
        t = self.method.sample_t(batch.size, rng.generator(*labels, "t"))[batch.rows].to(device)
        xi = rng.noise(batch, channels, *labels, "xi").to(device)
        return noise, t, xi

    def _draw_fake_score(self, batch: MicroBatch, x: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
        """(time, noise) of a micro-batch's samples x in one of the fake score's steps."""
        # "fake" is part of the seed: another word draws other numbers.
        labels = (self.recipe.seed, batch.number, "fake", repeat)
        t = self.method.sample_t(batch.size, rng.generator(*labels, "t"))[batch.rows].to(x)
        return t, rng.noise(batch, x.shape[-1], *labels, "eps").to(x)

"""One iteration of a run: the student's step, then the fake score's.

`methods/dmd.py` holds the mathematics; averages over workers and times are in `metrics.py`, what
the teachers are told ahead in `lookahead.py`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from flash_ray.data.stream import MicroBatch, Stream
from flash_ray.methods import METHODS
from flash_ray.methods.base import VelocityFn
from flash_ray.methods.guidance import combine_scores
from flash_ray.models.base import Model, PromptCache
from flash_ray.models.sampling import velocity_under
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
        with record.stage("student"):  # and the fake score's first step
            samples = self.student_step(iteration, record)
        with record.stage("ema"):
            self.ema.update()
        with record.stage("fake_score"):
            for repeat in range(1, self.recipe.training.fake_score.updates_per_iteration):
                self.fake_score_step(samples, repeat, record)
        images = self.recipe.runtime.gradient_accumulation_steps * self.stream.size
        return record.result(iteration, images, self.student, self.fake_score)

    def student_step(self, iteration: int, record: IterationRecorder) -> Samples:
        """One optimizer step on the method's gradient, and the fake score's first one.

        Returns:
            the samples of each pass.
        """
        samples = []
        for n in self._lookahead.passes(iteration):
            announced = self._lookahead.take(n, record.stage)
            rung, weights_BM = announced.rung, announced.weights_BM
            conditions = announced.batch.conditions.to(self.student.device)
            batch = replace(announced.batch, conditions=conditions)
            t, xi = self._draw_renoise(batch)
            fake_score = self._velocity(self.fake_score, batch, again=True)

            x = self._student_x(batch, rung)
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
            x = x.detach()
            with record.stage("fake_score"):  # its text is as it was when it was asked
                self._fake_score_pass(fake_score, batch, x, 0, record)

            if batch.weight:
                record.teachers.add(rung, weights_BM, velocities, v_real, v_fake, t)
            record.add_student(batch.task, batch.weight, loss, diagnostics, self._scale(x, rung))
            samples.append((batch, x))
        return samples

    def fake_score_step(self, samples: Samples, repeat: int, record: IterationRecorder) -> None:
        """One optimizer step of the fake score on the student's samples, noised afresh."""
        for batch, x in samples:
            fake_score = self._velocity(self.fake_score, batch)
            self._fake_score_pass(fake_score, batch, x, repeat, record)

    def _fake_score_pass(
        self,
        velocity: VelocityFn,
        batch: MicroBatch,
        x: Tensor,
        repeat: int,
        record: IterationRecorder,
    ) -> None:
        t, eps = self._draw_fake_score(batch, x, repeat)
        loss = self.method.fake_score_loss(velocity, x, t, eps) * batch.weight
        self.fake_score.backward(loss)
        self.fake_score.step()
        record.add_fake_score(loss)

    def _student_x(self, batch: MicroBatch, rung: int) -> Tensor:
        """The student's samples; what it keeps of the text is its graph's alone once it returns."""
        noise = rng.noise(
            batch, self.model.latent_channels, self.recipe.seed, batch.number, "noise"
        )
        student = self._velocity(self.student, batch, again=rung > 0)
        return self.method.student_x(student, noise.to(self.student.device), rung)

    def _velocity(self, learner: Learner, batch: MicroBatch, again: bool = False) -> VelocityFn:
        """A learner's velocity under the batch's conditions, before its next step.

        Args:
            again: whether it is asked more than once: text and references are computed once then,
                with gradients.
        """
        cache = PromptCache(graph=True) if again else None
        return velocity_under(self.model, learner, batch.conditions.positive, cache)

    def _draw_renoise(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """(time, noise) at which a micro-batch's samples are judged."""
        labels, device = (self.recipe.seed, batch.number), self.student.device
        t = self.method.sample_t(batch.size, rng.generator(*labels, "t"))[batch.rows].to(device)
        xi = rng.noise(batch, self.model.latent_channels, *labels, "xi").to(device)
        return t, xi

    def _draw_fake_score(self, batch: MicroBatch, x: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
        """(time, noise) of a micro-batch's samples x in one of the fake score's steps."""
        # "fake" is part of the seed: another word draws other numbers.
        labels = (self.recipe.seed, batch.number, "fake", repeat)
        t = self.method.sample_t(batch.size, rng.generator(*labels, "t"))[batch.rows].to(x)
        return t, rng.noise(batch, x.shape[-1], *labels, "eps").to(x)

"""The passes of a run in order, each announced to its teachers before it is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_ray.data.stream import MicroBatch, Stream
from flash_ray.methods import Method
from flash_ray.recipe import Recipe
from flash_ray.recipe.teacher_weights import Moment, weights_at
from flash_ray.teachers.protocol import Teachers
from flash_ray.trainer import rng
from flash_ray.trainer.metrics import StageTimer


@dataclass(frozen=True)
class Announced:
    """A micro-batch that its teachers know of.

    Args:
        rung: of the student's rollout, from 0; the same on all workers.
        weights_BM: λ of the teachers for this worker's samples.
    """

    batch: MicroBatch
    rung: int
    weights_BM: Tensor


class Lookahead:
    """Takes passes from the stream, and announces each to the teachers that will be asked.

    Teachers with capacity hear of the next pass while the student still works on this one.
    """

    def __init__(self, recipe: Recipe, method: Method, teachers: Teachers, stream: Stream) -> None:
        self._recipe, self._method = recipe, method
        self._teachers, self._stream = teachers, stream
        self._per_iteration = recipe.runtime.gradient_accumulation_steps * stream.passes
        self._announced: dict[int, Announced] = {}

    def passes(self, iteration: int) -> range:
        """The numbers of an iteration's (from 1) passes over its micro-batches, from 0."""
        return range((iteration - 1) * self._per_iteration, iteration * self._per_iteration)

    def take(self, n: int, stage: StageTimer) -> Announced:
        """Pass n, announced now unless that was done ahead; each is taken once."""
        self._announce(n, stage)
        return self._announced.pop(n)

    def announce_next(self, n: int, stage: StageTimer) -> None:
        """Announces the pass after n, if there is one and the teachers have capacity."""
        last = self._recipe.training.iterations * self._per_iteration - 1
        if n < last and self._teachers.has_capacity:
            self._announce(n + 1, stage)

    def _announce(self, n: int, stage: StageTimer) -> None:
        if n in self._announced:
            return
        recipe = self._recipe
        with stage("data"):
            batch = self._stream[n]
        rung = self._method.sample_rung(rng.generator(recipe.seed, batch.number, "rung"))
        iteration = n // self._per_iteration  # from 0: the part of the run that is done
        progress = iteration / recipe.training.iterations
        weights_BM = teacher_weights(recipe, rung, progress, batch.task, batch.categories)
        every = recipe.teacher_defaults.diagnose_every
        if recipe.runtime.base == "sharded":  # all workers make the same passes
            asking_BM = teacher_weights(recipe, rung, progress, batch.task, batch.all_categories)
        else:
            asking_BM = weights_BM
        wanted_M = (asking_BM > 0).any(0) | bool(every and iteration % every == 0)
        self._announced[n] = Announced(batch, rung, weights_BM)
        self._teachers.prefill(n, batch.conditions, tuple(wanted_M.nonzero().flatten().tolist()))


def teacher_weights(
    recipe: Recipe, rung: int, progress: float, task: str, categories: Sequence[str]
) -> Tensor:
    """lambda_BM, fp32: how much each teacher counts for each sample.

    Args:
        rung: of the student's rollout, 0 to K-1.
        progress: share of the run's iterations that are done, in [0, 1).
        categories: of the samples.
    """
    rows = {c: weights_at(recipe, Moment(rung + 1, progress, task, c)) for c in set(categories)}
    return torch.tensor([rows[category] for category in categories])

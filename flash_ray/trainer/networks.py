"""The two networks of a run before they learn: full copies of the base, or LoRAs on it."""

from pathlib import Path
from typing import Protocol

from flash_ray.models.base import Model
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Adam, Lora
from flash_ray.storage.s3 import Store
from flash_ray.teachers.scorer import fingerprint
from flash_ray.trainer.adapter_learner import AVERAGE, AdapterLearner
from flash_ray.trainer.full_learner import FullLearner
from flash_ray.trainer.learners import build_engine, ready_deepspeed, reshard
from flash_ray.trainer.protocol import Learner
from flash_ray.trainer.student_init import initial_lora, initial_student

NAMES = ("student", "fake_score")


class Networks(Protocol):
    """Student and fake score, loaded: what may be rejected has been.

    `fingerprints` tell the weights that the student starts from, where those are not the base's.
    """

    fingerprints: list[str]

    def reshard(self, folder: Path) -> None:
        """Makes a checkpoint loadable by any number of workers; once for a folder."""

    def learners(self, passes: int, resharded: bool) -> tuple[Learner, Learner]:
        """The student and the fake score, ready to learn; a collective.

        Args:
            passes: over a micro-batch; more than one where there are fewer workers than at most.
            resharded: they will load what `reshard` made.
        """


def load_networks(recipe: Recipe, model: Model, store: Store) -> Networks:
    """The networks that the recipe trains; call it before any LoRA is added to the model.

    Raises:
        UserError: what the student starts from is not there, or does not fit.
    """
    if recipe.student.weights == "lora":
        return _Adapters(recipe, model, store)
    return _Copies(recipe, model, store)


class _Copies:
    """Two copies of the base's transformer under DeepSpeed."""

    def __init__(self, recipe: Recipe, model: Model, store: Store) -> None:
        self._recipe = recipe
        self._student = initial_student(model, recipe, store)
        self._fake_score = model.copy_transformer()
        self.fingerprints = [] if recipe.student.init == "base" else [fingerprint(self._student)]

    def reshard(self, folder: Path) -> None:
        for name in NAMES:
            reshard(folder / name)

    def learners(self, passes: int, resharded: bool) -> tuple[Learner, Learner]:
        training = self._recipe.training
        ready_deepspeed(self._recipe.runtime.gpu)
        how = (self._recipe, passes, resharded)
        student = build_engine(self._student, training.optimizer, *how)
        fake_score = build_engine(self._fake_score, training.fake_score.optimizer, *how)
        return FullLearner(student), FullLearner(fake_score)


class _Adapters:
    """Two LoRAs on the base's own transformer, and a third for the student's average."""

    def __init__(self, recipe: Recipe, model: Model, store: Store) -> None:
        self._recipe, self._adapters = recipe, model.adapters
        student = recipe.student.lora or Lora()
        fake_score = recipe.training.fake_score.lora or student
        for name, lora in (*zip(NAMES, (student, fake_score), strict=True), (AVERAGE, student)):
            self._adapters.add(
                name,
                lora.rank,
                lora.alpha or lora.rank,
                lora.targets or model.lora_targets,
                trainable=name != AVERAGE,
                seed=recipe.seed,
            )
        self.fingerprints = initial_lora(model, recipe, store, NAMES[0])

    def reshard(self, folder: Path) -> None:
        """Every worker has the whole of a LoRA: there is nothing to do."""

    def learners(self, passes: int, resharded: bool) -> tuple[Learner, Learner]:
        training = self._recipe.training
        if self._recipe.runtime.gradient_checkpointing:
            self._adapters.enable_gradient_checkpointing()
        passes *= self._recipe.runtime.gradient_accumulation_steps

        def learner(name: str, adam: Adam) -> AdapterLearner:
            return AdapterLearner(self._adapters, name, adam, training.max_grad_norm, passes)

        student, fake_score = NAMES
        return (
            learner(student, training.optimizer),
            learner(fake_score, training.fake_score.optimizer),
        )

"""The two networks of a run before they learn: full copies of the base, or LoRAs on it."""

from typing import Protocol

from flash_ray.models.base import Model
from flash_ray.models.vae import kind
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Adam, Lora
from flash_ray.storage.s3 import Store
from flash_ray.teachers.scorer import fingerprint
from flash_ray.trainer.adapter_learner import AVERAGE, AdapterLearner
from flash_ray.trainer.blueprint import Blueprint
from flash_ray.trainer.full_learner import FullLearner
from flash_ray.trainer.learners import build_engine, engine_config, ready_deepspeed
from flash_ray.trainer.protocol import Learner
from flash_ray.trainer.student_init import initial_lora, initial_student

NAMES = ("student", "fake_score")


class Networks(Protocol):
    """Student and fake score, loaded: what may be rejected has been.

    `fingerprints` tell the weights that the student starts from, where those are not the base's.
    """

    fingerprints: list[str]

    def learners(self, passes: int) -> tuple[Learner, Learner]:
        """The student and the fake score, ready to learn; a collective.

        Args:
            passes: over a micro-batch; more than one where there are fewer workers than at most.
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
    """Two copies of the base's transformer under DeepSpeed, made one after the other.

    Beside the base and what the engines hold, there is one whole copy at most, or under ZeRO 3 one
    weight.
    """

    def __init__(self, recipe: Recipe, model: Model, store: Store) -> None:
        self._recipe = recipe
        base, device = model.transformer, kind(model.transformer)[0]
        initial = initial_student(model, recipe, store)
        self._student = Blueprint(base if initial is None else initial, device)
        self._fake_score = Blueprint(base, device)
        self.fingerprints = [] if initial is None else [fingerprint(initial)]

    def learners(self, passes: int) -> tuple[Learner, Learner]:
        training = self._recipe.training
        ready_deepspeed(self._recipe.runtime.gpu)
        student = self._learner(self._student, training.optimizer, passes)
        return student, self._learner(self._fake_score, training.fake_score.optimizer, passes)

    def _learner(self, blueprint: Blueprint, adam: Adam, passes: int) -> FullLearner:
        sharded_as = None
        if self._recipe.runtime.zero_stage == 3:
            sharded_as = engine_config(blueprint.weights, self._recipe, passes)
        return FullLearner(build_engine(blueprint.build(sharded_as), adam, self._recipe, passes))


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

    def learners(self, passes: int) -> tuple[Learner, Learner]:
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

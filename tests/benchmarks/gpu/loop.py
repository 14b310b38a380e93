"""The bare loop of distillation, without Ray and DeepSpeed: LoRAs on one base, or full copies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flash_ray.methods import DMD
from flash_ray.methods.base import VelocityFn
from flash_ray.models.adapters import Adapters
from flash_ray.models.base import ConditionPair, PromptCache
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.models.sampling import velocity_under
from flash_ray.recipe.sections import Adam
from flash_ray.trainer.adapter_learner import AdapterEMA, AdapterLearner
from tests.benchmarks.gpu.networks import SIGMAS, TARGETS

ADAM = Adam(lr=1e-5, betas=(0.0, 0.999), weight_decay=0.01)
METHOD = DMD(SIGMAS, t_max=1.0, shift=5.0)
UPDATES = 2


class Whole:
    """All weights of a copy of its own, as a learner takes an adapter's."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer.requires_grad_(True)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """All of them, whatever the name."""
        return list(self.transformer.parameters())

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """There is nothing to choose."""
        yield


class Loop:
    """Distills a student; the teacher is the base.

    Args:
        base: of the teacher, or where student and fake score are adapters of all three.
        updates: of the fake score in an iteration.
    """

    def __init__(
        self,
        model: QwenImage21,
        base: nn.Module,
        adapters: Adapters | None,
        student: AdapterLearner,
        fake_score: AdapterLearner,
        decay: float = 0.99,
        method: DMD = METHOD,
        updates: int = UPDATES,
    ) -> None:
        self.model, self.base, self.adapters = model, base, adapters
        self.student, self.fake_score = student, fake_score
        self.ema = AdapterEMA(student, decay)
        self.method, self.updates = method, updates

    def iteration(self, number: int, conditions: ConditionPair, rung: int) -> dict[str, Tensor]:
        """A student step and the fake score's; losses, on the device."""
        generator = torch.Generator().manual_seed(number)
        layout = conditions.layout
        shape = (len(conditions), layout.tokens, self.model.latent_channels)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.student.device)

        def time() -> Tensor:
            return self.method.sample_t(len(conditions), generator).to(self.student.device)

        student = self._velocity(self.student, conditions, again=rung > 0)
        fake_score = self._velocity(self.fake_score, conditions, again=True)
        x = self.method.student_x(student, noise(), rung)
        t, xi = time(), noise()
        x_t = self.method.renoise(x, t, xi)
        with torch.no_grad():
            v_real = self._teacher(conditions, x_t, t)
            v_fake = fake_score(x_t, t)
        del student
        loss, _ = self.method.student_loss(x, t, xi, v_real, v_fake)
        self.student.backward(loss)
        self.student.step()
        self.ema.update()
        losses = {"student": loss.detach()}
        for update in range(self.updates):
            if update:
                fake_score = self._velocity(self.fake_score, conditions)
            loss = self.method.fake_score_loss(fake_score, x.detach(), time(), noise())
            self.fake_score.backward(loss)
            self.fake_score.step()
        return losses | {"fake": loss.detach()}

    def _teacher(self, conditions: ConditionPair, x_t: Tensor, t: Tensor) -> Tensor:
        with self.adapters.use(None) if self.adapters else nullcontext():
            return self._velocity(self.base, conditions)(x_t, t)

    def _velocity(
        self, network: Callable[..., Any], conditions: ConditionPair, again: bool = False
    ) -> VelocityFn:
        """As the trainer's step: text and references once where it asks again."""
        cache = PromptCache(graph=True) if again else None
        return velocity_under(self.model, network, conditions.positive, cache)


def lora_loop(
    model: QwenImage21,
    rank: int,
    adams: tuple[Adam, Adam] = (ADAM, ADAM),
    recompute: bool = True,
    **given: Any,
) -> Loop:
    """Student, fake score and average as LoRAs of the model's transformer, which is the teacher.

    Args:
        adams: of the student and of the fake score.
        given: to `Loop`.
    """
    adapters = Adapters(model.transformer)
    for number, name in enumerate(("student", "fake", "ema")):
        adapters.add(name, rank, rank, TARGETS, trainable=name != "ema", seed=number)
    if recompute:
        adapters.enable_gradient_checkpointing()
    learners = [
        AdapterLearner(adapters, name, adam, 1.0)
        for name, adam in zip(("student", "fake"), adams, strict=True)
    ]
    return Loop(model, model.transformer, adapters, *learners, **given)


def full_loop(
    model: QwenImage21,
    adams: tuple[Adam, Adam] = (ADAM, ADAM),
    recompute: bool = True,
    **given: Any,
) -> Loop:
    """Student and fake score as copies of the model's transformer, which is the teacher."""
    learners = []
    for adam in adams:
        copy = model.copy_transformer()
        if recompute:
            copy.enable_gradient_checkpointing()
        learners.append(AdapterLearner(Whole(copy), "all", adam, 1.0))
    return Loop(model, model.transformer, None, *learners, **given)

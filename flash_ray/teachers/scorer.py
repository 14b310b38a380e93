"""Scores as teachers compute them, shared by actors and in-process teachers: the same numbers."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flash_ray.errors import UserError
from flash_ray.methods.guidance import guided_velocity
from flash_ray.models.base import Condition, ConditionPair, Model, PromptCache, own_weights
from flash_ray.models.lora_source import is_lora, lora_digest, lora_file
from flash_ray.models.prompt_cache import prefill
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import Group, UnknownRequest


@dataclass(frozen=True)
class TeacherSpec:
    """How one teacher uses the pipeline that its group shares.

    Args:
        lora: name of its LoRA among the model's adapters; None is the plain base.
        guidance_scale: of classifier-free guidance; 1 asks the transformer once a request, any
            other scale twice.
        guidance_rescale: whether guided velocities keep the conditional one's norm per token.
    """

    lora: str | None
    guidance_scale: float
    guidance_rescale: bool

    @property
    def calls(self) -> int:
        """Evaluations of the transformer for one request: 1, or 2 under guidance."""
        return 1 if self.guidance_scale == 1.0 else 2


Cached = tuple[Condition, PromptCache | None]


class Scorer:
    """Guided velocities of a group's teachers, each request announced before it is scored.

    Args:
        specs: by the teachers' positions in the recipe.
    """

    def __init__(self, model: Model, specs: Mapping[int, TeacherSpec]):
        self._model, self._specs = model, specs
        self._device = next(model.transformer.parameters()).device
        self._open: dict[Hashable, dict[int, list[Cached]]] = {}

    def announce(
        self, request_id: Hashable, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        """Takes a request whose score nobody waits for until it is asked for."""
        positive = conditions.positive.to(self._device)
        negative = conditions.negative.to(self._device)
        self._open[request_id] = {
            index: [(side, None) for side in (positive, negative)[: self._specs[index].calls]]
            for index in teacher_ids
        }

    @torch.no_grad()
    def prefill(
        self, request_id: Hashable, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        """Announces a request, and computes the keys and values of its text and references."""
        self.announce(request_id, conditions, teacher_ids)
        model = self._model
        for index, sides in self._open[request_id].items():
            with model.adapters.use(self._specs[index].lora):
                sides[:] = [(side, prefill(model, model.transformer, side)) for side, _ in sides]

    @torch.no_grad()
    def score(self, request_id: Hashable, x_BNC: Tensor, t_B: Tensor) -> dict[int, Tensor]:
        """v_BNC at x_t = x_BNC, fp32, of every announced teacher; uses the request up.

        Raises:
            UnknownRequest: it was not announced.
        """
        if request_id not in self._open:
            raise UnknownRequest(f"request {request_id} was not announced, or is used up")
        x_BNC, t_B = x_BNC.to(self._device), t_B.to(self._device)
        announced = self._open.pop(request_id)
        return {
            index: self._velocity(self._specs[index], sides, x_BNC, t_B)
            for index, sides in announced.items()
        }

    def _velocity(
        self, spec: TeacherSpec, sides: list[Cached], x_BNC: Tensor, t_B: Tensor
    ) -> Tensor:
        transformer = self._model.transformer
        with self._model.adapters.use(spec.lora):
            v_BNC, *v_uncond_BNC = [
                self._model.velocity(transformer, x_BNC, t_B, condition, cache).float()
                for condition, cache in sides
            ]
        if not v_uncond_BNC:
            return v_BNC
        return guided_velocity(v_BNC, v_uncond_BNC[0], spec.guidance_scale, spec.guidance_rescale)


def spec_of(recipe: Recipe, index: int) -> TeacherSpec:
    """The spec of the recipe's teacher number `index`."""
    teacher = recipe.teachers[index]
    lora = f"teacher-{index}" if is_lora(teacher.model) else None
    return TeacherSpec(lora, *recipe.guidance_of(teacher))


def group_scorer(recipe: Recipe, group: Group, model: Model) -> Scorer:
    """The scorer of a group over its loaded pipeline, to which the LoRAs are added.

    Raises:
        UserError: a LoRA does not fit.
    """
    specs = {index: spec_of(recipe, index) for index in group.members}
    for index, spec in specs.items():
        if spec.lora:
            file = lora_file(recipe.teachers[index].model, recipe.runtime.storage.endpoint)
            try:
                model.add_lora(file, spec.lora)
            except UserError as error:
                raise UserError(f"teachers: {error}") from error
    return Scorer(model, specs)


def group_fingerprint(recipe: Recipe, group: Group, weights: str) -> str:
    """Tells a group's weights from others: its pipeline's without LoRAs, then its LoRAs'.

    Args:
        weights: the fingerprint of the pipeline's.
    """
    models = [recipe.teachers[index].model for index in group.members]
    endpoint = recipe.runtime.storage.endpoint
    loras = [lora_digest(model, endpoint) for model in models if is_lora(model)]
    return "+".join([weights, *loras])


def fingerprint(transformer: nn.Module) -> str:
    """16 hex digits that tell weights apart: names, shapes and up to 65,536 values a tensor.

    Adapters do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in own_weights(transformer).items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 65_536)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]

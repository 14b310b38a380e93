"""The teachers' work itself, shared by actors and in-process teachers: hence the same numbers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flash_ray.methods.guidance import guided_velocity
from flash_ray.models.base import Condition, ConditionPair, Model, PromptCache
from flash_ray.models.loading import is_lora, lora_digest, resolve_lora
from flash_ray.models.prompt_cache import prefill
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import Group, UnknownRequest


@dataclass(frozen=True)
class TeacherSpec:
    """How one teacher asks the pipeline that its group shares.

    Args:
        lora: name of its LoRA in the backbone; None is the plain base.
        guidance: classifier-free guidance scale; 1 asks the model once a question, else twice.
        rescale: whether guided velocities keep the conditional one's norm per token.
    """

    lora: str | None
    guidance: float
    rescale: bool

    @property
    def calls(self) -> int:
        """Evaluations of the transformer for one question."""
        return 1 if self.guidance == 1.0 else 2


class Scorer:
    """Guided velocities of a group's teachers, keyed by tickets.

    Args:
        specs: by the teachers' positions in the recipe.
    """

    def __init__(self, backbone: Model, specs: Mapping[int, TeacherSpec]):
        self._backbone, self._voices = backbone, specs
        self._device = next(backbone.transformer.parameters()).device
        self._open: dict[object, dict[int, list[tuple[Condition, PromptCache]]]] = {}

    @torch.no_grad()
    def prefill(self, request_id: object, conditioned: ConditionPair, asked: Sequence[int]) -> None:
        """Computes the keys and values of text and references, ahead of the question."""
        positive = conditioned.positive.to(self._device)
        negative = conditioned.negative.to(self._device)
        self._open[request_id] = {}
        for index in asked:
            spec = self._voices[index]
            sides = [positive, negative][: spec.calls]
            with self._backbone.lora(spec.lora):
                self._open[request_id][index] = [
                    (side, prefill(self._backbone, self._backbone.transformer, side))
                    for side in sides
                ]

    @torch.no_grad()
    def score(self, request_id: object, x_BNC: Tensor, t_B: Tensor) -> dict[int, Tensor]:
        """v_BNC at x_t = x_BNC, fp32, of every teacher that was announced; uses the request_id up.

        Raises:
            UnknownRequest: it was not announced.
        """
        if request_id not in self._open:
            raise UnknownRequest(f"request_id {request_id} was not announced, or is used up")
        x_BNC, t_B = x_BNC.to(self._device), t_B.to(self._device)
        announced = self._open.pop(request_id)
        return {
            index: self._velocity(self._voices[index], sides, x_BNC, t_B)
            for index, sides in announced.items()
        }

    def _velocity(
        self,
        spec: TeacherSpec,
        sides: list[tuple[Condition, PromptCache]],
        x_BNC: Tensor,
        t_B: Tensor,
    ) -> Tensor:
        transformer = self._backbone.transformer
        with self._backbone.lora(spec.lora):
            velocities = [
                self._backbone.velocity(transformer, x_BNC, t_B, condition, prefix).float()
                for condition, prefix in sides
            ]
        if len(velocities) == 1:
            return velocities[0]
        return guided_velocity(*velocities, spec.guidance, spec.rescale)


def spec_of(recipe: Recipe, index: int) -> TeacherSpec:
    """How the recipe's teacher number `index` speaks; its LoRA goes by its own name."""
    teacher = recipe.teachers[index]
    lora = teacher.name if is_lora(teacher.model) else None
    return TeacherSpec(lora, *recipe.guidance_of(teacher))


def group_scorer(recipe: Recipe, group: Group, backbone: Model) -> Scorer:
    """The scorer of a group over its loaded pipeline, to which the LoRAs are added.

    Raises:
        UserError: a LoRA does not fit.
    """
    for index in group.members:
        teacher = recipe.teachers[index]
        if is_lora(teacher.model):
            backbone.add_lora(resolve_lora(teacher.model), teacher.name)
    return Scorer(backbone, {index: spec_of(recipe, index) for index in group.members})


def group_fingerprint(recipe: Recipe, group: Group, transformer: nn.Module) -> str:
    """Tells a group's weights from others: those of the pipeline, before LoRAs are added, and of
    its LoRAs."""
    models = [recipe.teachers[index].model for index in group.members]
    loras = [lora_digest(model) for model in models if is_lora(model)]
    return "+".join([fingerprint(transformer), *loras])


def fingerprint(transformer: nn.Module) -> str:
    """16 hex digits that tell weights apart: names, shapes and up to 65,536 values a tensor."""
    digest = hashlib.sha256()
    for name, tensor in transformer.state_dict().items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 65_536)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]

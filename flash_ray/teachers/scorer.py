"""The teacher's work itself, shared by actors and in-process teachers: hence the same numbers."""

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from flash_ray.backbones.base import Backbone, Condition, Conditioned, Layout, Prefix
from flash_ray.backbones.guidance import guided_velocity
from flash_ray.teachers.base import UnknownTicket


class Scorer:
    """Guided velocities of a backbone's base model, keyed by tickets.

    Args:
        guidance: classifier-free guidance scale; 1 asks the model once a question, else twice.
        rescale: whether guided velocities keep the conditional one's norm per token.
    """

    def __init__(self, backbone: Backbone, guidance: float, rescale: bool):
        self._backbone, self._guidance, self._rescale = backbone, guidance, rescale
        self._device = next(backbone.transformer.parameters()).device
        self._open: dict[object, list[tuple[Condition, Prefix]]] = {}

    @torch.no_grad()
    def prefill(self, ticket: object, conditioned: Conditioned) -> None:
        """Computes the keys and values of text and references, ahead of the question."""
        sides = [conditioned.positive]
        if self._guidance != 1.0:
            sides.append(conditioned.negative)
        self._open[ticket] = [self._prefilled(side.to(self._device)) for side in sides]

    @torch.no_grad()
    def score(self, ticket: object, x_BNC: Tensor, t_B: Tensor) -> Tensor:
        """v_BNC at x_t = x_BNC, fp32; the ticket is used up. UnknownTicket if not announced."""
        if ticket not in self._open:
            raise UnknownTicket(f"ticket {ticket} was not announced, or is used up")
        sides = self._open.pop(ticket)
        x_BNC, t_B = x_BNC.to(self._device), t_B.to(self._device)
        transformer = self._backbone.transformer
        velocities = [
            self._backbone.velocity(transformer, x_BNC, t_B, condition, prefix).float()
            for condition, prefix in sides
        ]
        if self._guidance == 1.0:
            return velocities[0]
        return guided_velocity(*velocities, self._guidance, self._rescale)

    def _prefilled(self, condition: Condition) -> tuple[Condition, Prefix]:
        # The prefix does not depend on the target: the smallest one there is costs least.
        layout = condition.layout
        small = Layout(layout.task, 32, 32, layout.references)
        rows, prefix = len(condition), Prefix()
        x_BNC = torch.zeros(rows, small.tokens, self._backbone.latent_channels, device=self._device)
        t_B = torch.ones(rows, device=self._device)
        self._backbone.velocity(
            self._backbone.transformer, x_BNC, t_B, replace(condition, layout=small), prefix
        )
        return condition, prefix


def fingerprint(transformer: nn.Module) -> str:
    """16 hex digits that tell weights apart: names, shapes and up to 65,536 values a tensor."""
    digest = hashlib.sha256()
    for name, tensor in transformer.state_dict().items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 65_536)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]

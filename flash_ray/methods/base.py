"""What a distillation method is, and the names of tensors everywhere in flash_ray.

A tensor's name ends in its dimensions, one capital letter each:

    B  samples of a batch             L  tokens of the text encoder, padding included
    N  latent tokens of a picture     D  width of the text encoder
    C  channels of a latent token     H, W  height and width in pixels
    M  teachers of the recipe         K  rungs: the student's sampling steps
    R  fake-score updates of an iteration
    F  fields of a table

So `x_BNC` is a batch of latents, `t_B` a time for each sample, `weights_BM` λ by sample and
teacher.
A rung is a step k of the student's sampler, at the noise level σ_k; code counts rungs from 0,
recipes and reports from 1.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# (z_BNC, t_B) -> v_BNC
VelocityFn = Callable[[Tensor, Tensor], Tensor]


class Method(Protocol):
    """The mathematics of a distillation: what is drawn, what is asked of whom, and the losses.

    It holds plain numbers and no state: networks come in as functions, randomness as a generator.
    """

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The student's rungs, noise levels that descend in (0, 1]."""
        ...

    def sample_rung(self, generator: torch.Generator) -> int:
        """Draws the rung, 0 to K-1, at which a micro-batch leaves the rollout."""
        ...

    def sample_t(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draws the re-noising times t_B in [0, 1], fp32, on the generator's device."""
        ...

    def student_x(self, velocity_student: VelocityFn, noise_BNC: Tensor, rung: int) -> Tensor:
        """Returns the student's samples x_BNC at a rung, with gradients."""
        ...

    def renoise(self, x_BNC: Tensor, t_B: Tensor, xi_BNC: Tensor) -> Tensor:
        """Returns x_t, detached: where teachers and fake score are asked for their velocities."""
        ...

    def student_loss(
        self, x_BNC: Tensor, t_B: Tensor, xi_BNC: Tensor, v_real_BNC: Tensor, v_fake_BNC: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the student's scalar loss, and diagnostics: detached fp32 scalars by name.

        Args:
            x_BNC: from `student_x`.
            t_B, xi_BNC: the time and the noise of `renoise`.
            v_real_BNC, v_fake_BNC: velocities of the teachers and of the fake score at x_t.
        """
        ...

    def fake_score_loss(
        self, velocity_fake: VelocityFn, x_BNC: Tensor, t_B: Tensor, eps_BNC: Tensor
    ) -> Tensor:
        """Returns the scalar loss of the fake score on samples x_BNC, noised by eps_BNC to t_B."""
        ...

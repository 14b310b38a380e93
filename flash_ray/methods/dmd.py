"""Distribution matching distillation (DMD): the method, without optimizer, device or model.

One iteration, with `student`, `teacher` and `fake` functions (z_BNC, t_B) -> v_BNC; the teacher may
be a remote one whose answer is awaited only where `student_loss` needs it:

    x = dmd.student_x(student, noise, dmd.sample_rung(generator))
    t, xi = dmd.sample_t(len(x), generator), torch.randn_like(x)
    x_t = dmd.renoise(x, t, xi)
    v_real, v_fake = teacher(x_t, t), fake(x_t, t)                  # no gradients
    loss, diagnostics = dmd.student_loss(x, t, xi, v_real, v_fake)  # -> student optimizer

    then a few times, with samples x of the student and fresh t, eps:
    loss = dmd.fake_score_loss(fake, x, t, eps)                     # -> fake-score optimizer

Sources: DMD, Yin et al., arXiv 2311.18828; DMD2, arXiv 2405.14867; in velocity form,
Qwen-Image-Flash, arXiv 2606.03746.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from flash_ray.methods.base import VelocityFn
from flash_ray.methods.flow import (
    euler,
    interpolate,
    shift_time,
    velocity_target,
    velocity_to_x,
)


@dataclass(frozen=True)
class DMD:
    """The objective, as plain numbers; a `methods.base.Method`.

    Args:
        sigmas: the student's rungs, descending in (0, 1].
        t_min, t_max: range of the re-noising time before the shift, 0 < t_min < t_max <= 1.
        shift: time shift of the re-noising time; above 1 favors noise.
    """

    sigmas: tuple[float, ...]
    t_min: float = 0.02
    t_max: float = 0.98
    shift: float = 1.0

    def sample_rung(self, generator: torch.Generator) -> int:
        """A rung, uniformly. All ranks need the same one: the rung sets the number of forwards."""
        return int(
            torch.randint(len(self.sigmas), (), generator=generator, device=generator.device)
        )

    def sample_t(self, batch: int, generator: torch.Generator) -> Tensor:
        """Times t_B, fp32, on the generator's device: uniform on [t_min, t_max], then shifted."""
        u_B = torch.rand(batch, generator=generator, device=generator.device)
        return shift_time(self.t_min + (self.t_max - self.t_min) * u_B, self.shift)

    def student_x(self, velocity_student: VelocityFn, noise_BNC: Tensor, rung: int) -> Tensor:
        """x_theta = z_k - sigma_k * v(z_k, sigma_k), with gradients through this last call only.

        z_k is the student's own state at rung k. At the last rung x_theta is the sampler's output.
        """
        z_BNC, sigma = rollout(velocity_student, noise_BNC, self.sigmas, rung)
        t_B = torch.full((len(z_BNC),), sigma, device=z_BNC.device)
        return velocity_to_x(z_BNC, t_B, velocity_student(z_BNC, t_B))

    def renoise(self, x_BNC: Tensor, t_B: Tensor, xi_BNC: Tensor) -> Tensor:
        """x_t = (1-t)*x + t*xi, detached: where teacher and fake score are evaluated."""
        return interpolate(x_BNC.detach(), xi_BNC, t_B)

    def student_loss(
        self, x_BNC: Tensor, t_B: Tensor, xi_BNC: Tensor, v_real_BNC: Tensor, v_fake_BNC: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss whose gradient is the DMD gradient at x_theta, and what to watch.

        Args:
            x_BNC: x_theta of `student_x`, with gradients.
            t_B, xi_BNC: the time and noise of `renoise`.
            v_real_BNC, v_fake_BNC: velocities of the (guided) teacher and of the fake score at x_t.

        Returns:
            scalar loss; diagnostics, detached fp32 scalars: `dmd_gradient` (RMS), `real_gap`
            (mean |x_theta - x_real_hat|, the normalizer) and `x_rms` (the scale of the samples).
        """
        x = x_BNC.detach().float()
        x_t = self.renoise(x, t_B, xi_BNC.float())
        x_real_hat = velocity_to_x(x_t, t_B, v_real_BNC.float())
        x_fake_hat = velocity_to_x(x_t, t_B, v_fake_BNC.float())
        gradient = dmd_gradient(x, x_real_hat, x_fake_hat)
        diagnostics = {
            "dmd_gradient": gradient.square().mean().sqrt(),
            "real_gap": (x - x_real_hat).abs().mean(),
            "x_rms": x.square().mean().sqrt(),
        }
        return dmd_loss(x_BNC, gradient), {k: v.detach() for k, v in diagnostics.items()}

    def fake_score_loss(
        self, velocity_fake: VelocityFn, x_BNC: Tensor, t_B: Tensor, eps_BNC: Tensor
    ) -> Tensor:
        """Flow-matching loss of the fake score on student samples x_BNC, which stay constant."""
        x_BNC = x_BNC.detach()
        v_pred_BNC = velocity_fake(interpolate(x_BNC, eps_BNC, t_B), t_B)
        return flow_matching_loss(v_pred_BNC, x_BNC, eps_BNC)


@torch.no_grad()
def rollout(
    velocity: VelocityFn, noise_BNC: Tensor, sigmas: Sequence[float], exit_rung: int
) -> tuple[Tensor, float]:
    """Runs the student's sampler down to rung `exit_rung` (0 to K-1), without gradients.

    Source: DMD2, arXiv 2405.14867, section 4.4, with the deterministic Euler sampler that is used
    at inference.

    Returns:
        z_BNC at that rung (`noise_BNC` itself at rung 0) and the rung's sigma.

    Raises:
        ValueError: `exit_rung` is no rung.
    """
    if not 0 <= exit_rung < len(sigmas):
        raise ValueError(f"exit_rung {exit_rung} is not one of the {len(sigmas)} rungs")
    return euler(velocity, noise_BNC, sigmas[: exit_rung + 1]), sigmas[exit_rung]


def dmd_gradient(x: Tensor, x_real_hat: Tensor, x_fake_hat: Tensor) -> Tensor:
    """Gradient of KL(student || teacher) at the student's samples, normalized per sample, fp32.

    s_fake - s_real = (1-t)/t^2 * (x_fake_hat - x_real_hat); DMD replaces the factor by
    1 / mean|x - x_real_hat|, the mean over one sample (Yin et al., arXiv 2311.18828, equations 7-8;
    arXiv 2405.14867).

    Args:
        x: student samples, (B, ...).
        x_real_hat, x_fake_hat: clean predictions of teacher and fake score at the re-noised x.
    """
    x, real, fake = x.detach().float(), x_real_hat.detach().float(), x_fake_hat.detach().float()
    scale = (x - real).abs().mean(dim=tuple(range(1, x.dim())), keepdim=True)
    return (fake - real) / scale.clamp_min(1e-6)


def dmd_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x is `gradient` / x.numel(), in fp32."""
    x = x.float()
    return 0.5 * mse_loss(x, (x - gradient).detach())


def flow_matching_loss(v_pred: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """mean |v_pred - (eps - x)|^2 in fp32, x and eps being constants."""
    return mse_loss(v_pred.float(), velocity_target(x.float(), eps.float()).detach())

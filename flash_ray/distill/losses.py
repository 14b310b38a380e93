"""The distillation losses, as pure functions of tensors. Only torch."""

from torch import Tensor
from torch.nn.functional import mse_loss


def dmd_gradient(x: Tensor, x_real_hat: Tensor, x_fake_hat: Tensor) -> Tensor:
    """Gradient of KL(student || teacher) at the student's samples, normalised per sample, fp32.

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
    return mse_loss(v_pred.float(), (eps.float() - x.float()).detach())

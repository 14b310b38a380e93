"""AdamW's numbers are torch's, and with beta1 = 0 it keeps one moment."""

import pytest
import torch

from flash_ray.recipe.sections import Adam
from flash_ray.trainer.optimizer import AdamW


@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.0, 0.9), (0.9, 0.99)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_numbers_are_torchs_to_the_last_bit(betas, decay):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1003, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    adam = Adam(lr=1e-2, betas=betas, weight_decay=decay)
    optimizer = AdamW([ours], adam)
    reference = torch.optim.AdamW([theirs], fused=True, **adam.model_dump())
    for step in range(20):
        gradient = torch.randn(1003, generator=generator) * 10.0 ** (step % 5 - 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        assert torch.equal(ours.grad, gradient)
        assert torch.equal(ours, theirs), step
    moments = {"exp_avg_sq"} if betas[0] == 0 else {"exp_avg", "exp_avg_sq"}
    state = optimizer.state_of(ours)
    assert state.keys() == {"step", *moments}
    for name in state:
        assert torch.equal(state[name], reference.state[theirs][name]), name


def test_what_has_no_gradient_stays():
    weights = torch.ones(3, requires_grad=True)
    AdamW([weights], Adam(lr=0.5, weight_decay=0.5)).step()
    assert torch.equal(weights, torch.ones(3))

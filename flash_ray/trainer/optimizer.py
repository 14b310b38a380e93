"""AdamW, without a first moment where beta1 is 0."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from flash_ray.recipe.sections import Adam


class AdamW(torch.optim.Optimizer):
    """torch's fused AdamW to the last bit, on flat fp32 weights.

    With beta1 = 0 the first moment is the gradient, so none is kept: 4 bytes a weight instead of 8.
    The fused kernel has no temporaries, and on CPUs takes a quarter of the other's time.
    """

    def __init__(self, weights: Iterable[Tensor], adam: Adam) -> None:
        super().__init__(weights, adam.model_dump())

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every weight that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state_of(weight)
                adamw(
                    [weight],
                    [weight.grad],
                    # Of a gradient and itself the new first moment is that gradient.
                    [state.get("exp_avg", weight.grad)],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                    foreach=False,
                    fused=True,
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )

    def state_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The steps and moments of a weight, zeros where it has none yet."""
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            # DeepSpeed hands the weights of a step over one at a time: settings are the group's.
            group = self.param_groups[0]
            state["step"] = torch.zeros((), device=weight.device)
            if group["betas"][0]:
                state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state

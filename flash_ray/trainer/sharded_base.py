"""The frozen base of LoRA students, shared out: each worker holds its part of every weight.

DeepSpeed's ZeRO 3 without an optimizer gathers a layer's weights while it works and drops them
then. So a pass through the base is a collective: all workers make the same passes in the same
order, also where only one of them wants the result.
"""

from torch import nn

from flash_ray.recipe import Recipe
from flash_ray.trainer.learners import ready_deepspeed

#: Weights that are gathered at the same time, and those that are fetched ahead of their layer.
LIVE, AHEAD = 500_000_000, 50_000_000
#: Smaller tensors, such as those of norms, stay whole on every worker.
WHOLE = 100_000


def shard_base(transformer: nn.Module, recipe: Recipe) -> None:
    """Leaves each worker its part of the weights; a collective, before any LoRA is added.

    Call the transformer itself as before: its layers gather what they need.
    """
    import deepspeed

    ready_deepspeed(recipe.runtime.gpu)
    transformer.requires_grad_(False)
    count = sum(weight.numel() for weight in transformer.parameters())
    deepspeed.initialize(
        model=transformer,
        config={
            "train_micro_batch_size_per_gpu": recipe.runtime.micro_batch_size,
            "bf16": {"enabled": recipe.training.precision == "bf16"},
            "zero_optimization": {
                "stage": 3,
                "stage3_max_live_parameters": min(count, LIVE),
                "stage3_max_reuse_distance": min(count, LIVE),
                "stage3_prefetch_bucket_size": min(count, AHEAD),
                "stage3_param_persistence_threshold": min(count // 10_000, WHOLE),
            },
            "steps_per_print": 2**31,
        },
    )


def is_sharded(transformer: nn.Module) -> bool:
    """Whether `shard_base` was called for it."""
    return any(hasattr(weight, "ds_id") for weight in transformer.parameters())

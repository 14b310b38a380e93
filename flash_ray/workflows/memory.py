"""Refuses a recipe that cannot fit the GPUs it would run on, as far as they are known."""

from flash_ray.cluster.session import in_cluster_job
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe


def validate_memory(recipe: Recipe, is_here: bool) -> None:
    """Checks the recipe's plan against the GPUs of this machine.

    Nothing is checked that is not known: in a job of a cluster, without a GPU here, or for a base
    of unknown sizes.

    Args:
        is_here: whether the recipe is run on this machine; else one for more GPUs than it has is
            taken to be meant for a cluster.

    Raises:
        UserError: it does not fit; the message has the smallest change that makes it fit.
    """
    if not recipe.runtime.gpu or in_cluster_job() or not (memories := _visible_gpus()):
        return
    from flash_ray.capacity.changes import smallest_changes
    from flash_ray.capacity.pipeline import known_pipeline
    from flash_ray.capacity.plan import Hardware, make_plan
    from flash_ray.capacity.workload import Assumptions

    pipeline, assumed = known_pipeline(recipe.base), Assumptions()
    if pipeline is None:
        return
    hardware = Hardware(len(memories), min(memories))
    plan = make_plan(recipe, pipeline, assumed, hardware)
    if not plan.problems or (plan.gpus > len(memories) and not is_here):
        return
    changes = smallest_changes(recipe, pipeline, assumed, hardware)
    cure = f"set {' '.join(changes[0])}" if changes else "take more or larger GPUs"
    raise UserError(
        f"runtime: {plan.problems[0]}; allowed: what fits this machine's {hardware.words}; {cure}, "
        "or see `flash-ray recipe plan`"
    )


def _visible_gpus() -> list[int]:
    """Bytes of each GPU that torch finds here."""
    import torch

    if not torch.cuda.is_available():
        return []
    devices = range(torch.cuda.device_count())
    return [torch.cuda.get_device_properties(device).total_memory for device in devices]

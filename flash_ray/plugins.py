"""What installed packages add to flash_ray, by entry points: names -> "module:attribute".

A module is imported when its name is used, not before. Groups: `flash_ray.models` (model families),
`flash_ray.checkpoints` (folders of pipelines and LoRAs that a package ships), `flash_ray.sources`
(training data), `flash_ray.benchmarks`, `flash_ray.judges`.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flash_ray.errors import UserError, unknown

MODELS = "flash_ray.models"
CHECKPOINTS = "flash_ray.checkpoints"
SOURCES = "flash_ray.sources"
BENCHMARKS = "flash_ray.benchmarks"
JUDGES = "flash_ray.judges"


def names(group: str) -> list[str]:
    """The names that installed packages register in a group, in order."""
    return sorted(_registered(group))


def load(group: str, name: str, field: str) -> Any:
    """The object that a name stands for in a group.

    Args:
        field: what named it, for the message.

    Raises:
        UserError: no installed package registers the name, or its module cannot be imported.
    """
    found = _registered(group)
    if name not in found:
        raise UserError(unknown(field, name, sorted(found), group.rpartition(".")[2][:-1]))
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{field}: {name!r} is registered as {found[name].value}, which cannot be loaded "
            f"({error}); repair or remove the package that registers it"
        ) from error


def require(module: str, extra: str, field: str) -> None:
    """Raises UserError if an optional module is not installed, with what to install.

    Args:
        field: what needs it, for the message.
    """
    if find_spec(module) is None:
        raise UserError(
            f"{field}: {module} is not installed; run `pip install 'flash-ray[{extra}]'`, or "
            "choose another"
        )


def packages() -> set[str]:
    """The top-level packages that register anything: what the user has installed for flash_ray."""
    groups = (MODELS, CHECKPOINTS, SOURCES, BENCHMARKS, JUDGES)
    points = (point for group in groups for point in _registered(group).values())
    return {point.module.partition(".")[0] for point in points}


def folders() -> dict[str, Path]:
    """The folders of the packages whose modules are registered, by the packages' names; of a module
    in no package, the file itself by the module's name."""
    groups = (MODELS, CHECKPOINTS, SOURCES, BENCHMARKS, JUDGES)
    found: dict[str, Path] = {}
    for module in {point.module for group in groups for point in _registered(group).values()}:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            continue  # whoever names it is told
        package, file = module.rpartition(".")[0], Path(spec.origin)
        found[package or module] = file.parent if package else file
    return found


@cache
def _registered(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}

"""From names in a recipe to a loaded model, and the digests of the files that decide its numbers.

Torch and diffusers are imported where they are used: commands check names before they load either.
"""

import functools
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from flash_ray.models.base import Model, ModelFamily

ENCODER_PARTS = ("text_encoder", "processor", "vae", "scheduler")
INDEX = "model_index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
_ON_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
_MIB = 2**20
# diffusers imports torchao where it is installed; they warn of parts that nobody has asked for.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def resolve_base(base: str) -> str:
    """The folder or the hub id of a base: that of a registered checkpoint, else `base` itself.

    Raises:
        UserError: `base` is a checkpoint or looks like a folder, and holds no pipeline.
    """
    source = str(checkpoint_folder(base) or base)
    if not (Path(source) / INDEX).is_file() and not _ON_HUB.fullmatch(source):
        folders = {name: checkpoint_folder(name) for name in plugins.names(plugins.CHECKPOINTS)}
        shipped = [name for name, at in folders.items() if at and (at / INDEX).is_file()]
        raise UserError(
            f"base: no pipeline in {source} ({INDEX} is missing); give a folder written by "
            "save_pretrained, a hub id, owner/name or owner/name@revision, or one of "
            f"{', '.join(map(repr, shipped))}"
        )
    return source


def validate_base(base: str) -> None:
    """Raises UserError if there is no pipeline, neither in a folder nor within reach of the hub."""
    index_file(resolve_base(base))


def on_hub(source: str | Path) -> tuple[str, str | None]:
    """A hub id without its revision, and the revision: a branch, tag or commit; None: the newest.

    Of a folder its path and None, so that from_pretrained(name, revision=revision) reads either.
    """
    found = None if Path(source).is_dir() else _ON_HUB.fullmatch(str(source))
    return (found[1], found[2]) if found else (str(source), None)


def pinned(base: str) -> str:
    """A base on the hub with the commit that is its newest now; any other as it is.

    Every process of a run then reads the same files.

    Raises:
        UserError: there is no pipeline, neither in a folder nor within reach of the hub.
    """
    source = resolve_base(base)
    file = index_file(source)
    if Path(source).is_dir():
        return base
    return f"{on_hub(source)[0]}@{file.parent.name}"  # .../snapshots/COMMIT/model_index.json


def with_pinned_base(recipe: Recipe) -> Recipe:
    """The recipe whose base is the commit that is the newest of its repository on the hub now.

    Raises:
        UserError: there is no such base, or the hub does not answer.
    """
    return recipe.model_copy(update={"base": pinned(recipe.base)})


def is_same_base(one: str, other: str) -> bool:
    """Whether two bases are one folder, or one repository of the hub, of whatever commits."""
    return on_hub(one)[0] == on_hub(other)[0]


def dtype_of(recipe: Recipe) -> "torch.dtype":
    """The dtype of the weights under the recipe's `training.precision`."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[recipe.training.precision]


def family_of(base: str) -> "ModelFamily":
    """The registered model family that loads the base's pipeline.

    Raises:
        UserError: the base cannot be read, or no family loads pipelines of its class.
    """
    source = resolve_base(base)
    try:
        pipeline_class = json.loads(index_file(source).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"base: {source}/{INDEX} cannot be read ({type(error).__name__}); give a folder "
            "written by save_pretrained"
        ) from error
    names = plugins.names(plugins.MODELS)
    families = [plugins.load(plugins.MODELS, name, "family") for name in names]
    for family in families:
        if family.pipeline_class == pipeline_class:
            return family
    allowed = ", ".join(family.pipeline_class for family in families)
    raise UserError(
        f"base: {source} holds a {pipeline_class}, which no model family loads; allowed: "
        f"{allowed}; choose another base, or install a package with its family"
    )


def validate_family(recipe: Recipe) -> None:
    """Raises UserError if the recipe's base cannot be read or is not of its `family`."""
    name = family_of(recipe.base).name
    if name != recipe.family:
        raise UserError(
            f"family: {recipe.family!r}, but base {recipe.base} is of {name!r}; allowed: the "
            f"base's; set family={name}, or choose another base"
        )


def validate_quantizer(recipe: Recipe) -> None:
    """Raises UserError if the library that quantizes the recipe's base is not installed."""
    if name := recipe.training.quantizer:
        plugins.require(name, name, f"training.base_precision: {recipe.training.base_precision}")


def load_model(
    base: str,
    dtype: "torch.dtype",
    device: "torch.device | str",
    encoders: bool,
    transformer: bool = True,
    vae: bool = True,
) -> "Model":
    """Loads a base with the family that its pipeline belongs to.

    Args:
        base: a registered checkpoint, a folder or a hub id.
        encoders: False leaves out the text encoder, the largest part; `encode` then fails.
        transformer: False leaves that out: only `encode` and the VAE's methods then work.
        vae: False leaves that out: `to_latents`, `to_images` and `encode` of references fail.

    Raises:
        UserError: there is no such base, or it cannot be loaded.
    """
    return family_of(base).from_pretrained(
        resolve_base(base), dtype, device, encoders=encoders, transformer=transformer, vae=vae
    )


def own_sigmas(base: str) -> list[float]:
    """The `sigmas` with which the base's pipeline samples when a call names none.

    Raises:
        UserError: the base cannot be read, or its scheduler is one that is not supported.
    """
    family, source = family_of(base), resolve_base(base)
    try:
        return family.own_sigmas(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"base: {source}: {reason}; allowed: a FlowMatchEulerDiscreteScheduler without noise; "
            "choose another base"
        ) from error


def import_components(source: str | Path) -> None:
    """Imports the modules that a pipeline's model_index.json names for parts of its own.

    diffusers takes a part from such a module only if it is imported already, since importing runs
    its code and the file may be anybody's. So it is imported here only if its top-level package
    registers a plug-in of flash_ray, which the user has installed; any other module is left to
    diffusers to reject.

    Raises:
        OSError, ValueError: there is no model_index.json, or it is no JSON.
        UserError: `source` is no folder, and no hub model that can be reached.
    """
    trusted = plugins.packages()
    for part in json.loads(index_file(str(source)).read_text(encoding="utf-8")).values():
        module = part[0] if isinstance(part, list) and part else None
        if isinstance(module, str) and module.partition(".")[0] in trusted:
            importlib.import_module(module)


def encoder_digest(base: str) -> str:
    """Digest (16 hex digits) of the files that decide how a case is encoded.

    A folder counts by names, sizes and contents, of files above 64 MiB the first, middle and last
    MiB; a hub id by the id and the commit of its cached or downloaded copy.
    """
    return _digest(base, ENCODER_PARTS)


def base_digest(base: str) -> str:
    """Digest like `encoder_digest`, with the transformer: all that decides the base's images."""
    return _digest(base, (*ENCODER_PARTS, "transformer"))


def checkpoint_folder(name: str) -> Path | None:
    """The folder that an installed package registers under the name; None if none does."""
    if name not in plugins.names(plugins.CHECKPOINTS):
        return None
    return Path(plugins.load(plugins.CHECKPOINTS, name, "base")())


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached; its own client would try for a minute, with a line a try."""
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=5)
    except requests.RequestException:
        return False
    return True


@contextmanager
def asking_hub() -> Iterator[None]:
    """Has an answer of the hub that breaks off be an OSError, as a refusal is.

    Its client's errors of that kind are those of the HTTP library that it uses.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not isinstance(error, HfHubHTTPError.__bases__[0]):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def read_config(source: str | Path, file: str) -> dict[str, Any]:
    """A JSON file of a pipeline in a folder or on the hub, such as transformer/config.json.

    Raises:
        OSError, ValueError: there is none, it cannot be reached, or it is no JSON object.
    """
    config = json.loads(_file(str(source), file).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{file} is no JSON object")
    return config


def _file(source: str, file: str) -> Path:
    if Path(source).is_dir():
        return Path(source) / file
    from huggingface_hub import hf_hub_download

    name, revision = on_hub(source)
    offline = not hub_answers()
    with asking_hub():
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=offline))


def _digest(base: str, parts: tuple[str, ...]) -> str:
    source = resolve_base(base)
    digest = hashlib.sha256()
    folder = Path(source)
    if folder.is_dir():
        for part in parts:
            for path in sorted(p for p in (folder / part).rglob("*") if p.is_file()):
                digest.update(
                    json.dumps([str(path.relative_to(folder)), path.stat().st_size]).encode()
                )
                for block in _blocks(path):
                    digest.update(block)
    else:
        digest.update(pinned(source).encode())
    return digest.hexdigest()[:16]


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 64 * _MIB:
            yield file.read()
            return
        for start in (0, size // 2, size - _MIB):
            file.seek(start)
            yield file.read(_MIB)


def index_file(source: str) -> Path:
    """The pipeline's model_index.json, of a hub id in the cache of downloads.

    Raises:
        UserError: `source` is no folder, and no hub model that can be reached.
    """
    try:
        return _file(source, INDEX)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] if hub_answers() else "it does not answer"
        raise UserError(
            f"base: {source!r} is neither a folder nor a hub model that can be reached ({reason}); "
            "download it first, or give its folder"
        ) from error

"""Where a recipe's LoRAs are: registered, a file or its folder, on the hub, in S3; their digests.

One on the hub or in S3 is pinned once, in the driver, to a name that says which file and which
version of it, so that every process of a run reads the same: owner/name/FILE@COMMIT, or
s3://bucket/prefix/FILE@VERSION; a base and a teacher that is a pipeline, owner/name@COMMIT. Only
safetensors are read: a pickle would run its author's code.
"""

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.models.loading import (
    COMMIT,
    INDEX,
    asking_hub,
    checkpoint_folder,
    hub_answers,
    on_hub,
    pinned,
    with_pinned_base,
)
from flash_ray.recipe import Recipe
from flash_ray.storage.address import bucket_problem
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import LORA

SETTINGS = "adapter_config.json"  # PEFT's, beside the weights
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_S3 = "s3://"
_ON_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")
_HUB_FILE = re.compile(r"(\w[\w.-]*/\w[\w.-]*)/([\w ./-]+\.safetensors)@([\w./-]+)")
_S3_FILE = re.compile(r"(s3://.+)/([^/]+\.safetensors)@([0-9a-f]{16})")


def is_lora(model: str) -> bool:
    """Whether a teacher's model is a LoRA: a registered one, a file or folder, on the hub, in S3.

    Raises:
        UserError: it holds several weights, and none has diffusers' name for a LoRA; or it is on
            the hub, which cannot be asked.
    """
    if model.startswith(_S3):
        return True  # pipelines are not read from there
    return bool(_HUB_FILE.fullmatch(_pinned(model, None))) or _local_file(model) is not None


def lora_file(model: str, endpoint: str | None = None) -> Path:
    """The safetensors file of a LoRA, on this machine; it is fetched if need be.

    Args:
        endpoint: of an S3 service that is not AWS's; None means AWS_ENDPOINT_URL_S3.

    Raises:
        UserError: there is none, or there are several, or another than it was pinned to.
    """
    name = _pinned(model, endpoint)
    if found := _HUB_FILE.fullmatch(name):
        return _from_hub(found[1], found[2], found[3])
    if found := _S3_FILE.fullmatch(name):
        return _from_s3(found[1], found[2], found[3], endpoint)
    if (file := _local_file(model)) is None:
        raise UserError(f"teachers: no LoRA in {model}; give a .safetensors file, or its folder")
    return file


def lora_digest(model: str, endpoint: str | None = None) -> str:
    """16 hex digits of the SHA-256 of a LoRA's weights, and of PEFT's settings beside them."""
    path = lora_file(model, endpoint)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if (settings := path.with_name(SETTINGS)).is_file():
        digest.update(settings.read_bytes())
    return digest.hexdigest()[:16]


def with_pins(recipe: Recipe) -> Recipe:
    """The recipe whose base and teachers on the hub and in S3 are the files and versions that are
    there now.

    Raises:
        UserError: one is not there, or cannot be asked for.
    """
    endpoint = recipe.runtime.storage.endpoint
    pins = {t.model: _pinned(t.model, endpoint) for t in recipe.teachers}
    return _renamed(with_pinned_base(recipe), pins)


def without_pins(recipe: Recipe) -> Recipe:
    """The recipe whose base and teachers go by where they are alone, as where their digests tell
    the rest."""
    plain = recipe.model_copy(update={"base": on_hub(recipe.base)[0]})
    return _renamed(plain, {t.model: _unpinned(t.model) for t in recipe.teachers})


def _renamed(recipe: Recipe, models: Mapping[str, str]) -> Recipe:
    teachers = [t.model_copy(update={"model": models[t.model]}) for t in recipe.teachers]
    return recipe.model_copy(update={"teachers": tuple(teachers)})


def _unpinned(model: str) -> str:
    if found := _HUB_FILE.fullmatch(model):
        return found[1]
    if found := _S3_FILE.fullmatch(model):
        return f"{found[1]}/{found[2]}"
    return on_hub(model)[0]


@functools.cache  # a name means the same as long as the process lives
def _pinned(model: str, endpoint: str | None) -> str:
    if checkpoint_folder(model) or Path(model).exists() or model.endswith(PICKLES):
        return model
    if model.startswith(_S3):
        return model if _S3_FILE.fullmatch(model) else _pinned_in_s3(model, endpoint)
    if found := _HUB_FILE.fullmatch(model):
        repository, file, revision = found.groups()
        return model if COMMIT.fullmatch(revision) else _on_hub(repository, revision, model, file)
    if (found := _ON_HUB.fullmatch(model)) and not model.endswith(".safetensors"):
        return _on_hub(found[1], found[2], model)
    return model


def _chosen(model: str, names: Iterable[str]) -> str | None:
    """The LoRA's file among those of a folder; None if it holds a pipeline, or no weights.

    Raises:
        UserError: there are several, or only pickles.
    """
    names = sorted(name for name in names if "/" not in name and not name.startswith("."))
    if LORA in names or INDEX in names:
        return LORA if LORA in names else None
    found = [name for name in names if name.endswith(".safetensors")]
    if len(found) > 1:
        raise UserError(
            f"teachers: {model} holds {len(found)} files of weights ({', '.join(found[:5])}); "
            "allowed: one; give the LoRA's file"
        )
    if not found and (pickles := [name for name in names if name.endswith(PICKLES)]):
        raise _pickle(f"{model}/{pickles[0]}")
    return found[0] if found else None


def _pickle(file: str) -> UserError:
    return UserError(
        f"teachers: {file} is a pickle, which may run its author's code; allowed: .safetensors; "
        "convert it where you trust it, or give another"
    )


def _local_file(model: str) -> Path | None:
    """A file; or the one in a folder that holds no pipeline, whatever its name is."""
    path = checkpoint_folder(model) or Path(model)
    if model.endswith(PICKLES):
        raise _pickle(model)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if not path.is_dir():
        return None
    file = _chosen(model, (each.name for each in path.iterdir() if each.is_file()))
    return path / file if file else None


def _on_hub(repository: str, revision: str | None, model: str, file: str | None = None) -> str:
    """The pinned name of a LoRA on the hub, fetched, or of a pipeline."""
    from huggingface_hub import HfApi

    if file is None and not hub_answers():
        with suppress(UserError):  # it is no pipeline that was fetched before
            return pinned(model)
    try:
        if hub_answers():
            with asking_hub():
                about = HfApi().model_info(repository, revision=revision)
            names = [each.rfilename for each in about.siblings or ()]
        else:
            names = [each.name for each in _snapshot(repository, revision, None).iterdir()]
    except (OSError, ValueError) as error:
        raise _unreachable(model, error) from error
    if (file := file or _chosen(model, names)) is None:
        return pinned(model) if INDEX in names else model
    fetched = _from_hub(repository, file, revision)
    return f"{repository}/{file}@{fetched.parents[file.count('/')].name}"


def _from_hub(repository: str, file: str, revision: str | None) -> Path:
    """The file of that branch, tag or commit, in the hub's own cache: .../snapshots/COMMIT/FILE."""
    try:
        folder = _snapshot(repository, revision, [file, str(Path(file).with_name(SETTINGS))])
    except (OSError, ValueError) as error:
        raise _unreachable(repository, error) from error
    if not (path := folder / file).is_file():
        raise UserError(
            f"teachers: {repository} on the hub has no {file} at {revision or 'main'}; give a file "
            "that it has"
        )
    return path


def _snapshot(repository: str, revision: str | None, files: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    offline = not hub_answers()
    with asking_hub():
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=files, local_files_only=offline
            )
        )


def _unreachable(model: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] if hub_answers() else "it does not answer"
    return UserError(
        f"teachers: {model!r} is neither a LoRA's file or folder nor a hub model that can be "
        f"reached ({reason}); download it first, or give its folder"
    )


def _pinned_in_s3(address: str, endpoint: str | None) -> str:
    address = address.rstrip("/")
    if address.endswith(PICKLES):
        raise _pickle(address)
    folder, file = address, None
    if address.endswith(".safetensors"):
        folder, _, file = address.rpartition("/")
    with _about_teachers():
        versions = _versions(_store(folder, endpoint))
    file = file or _chosen(address, versions)
    if file is None or file not in versions:
        raise UserError(
            f"teachers: no LoRA at {address}; give the address of a .safetensors file, or of its "
            "folder"
        )
    return f"{folder}/{file}@{_version(versions, file)}"


def _from_s3(folder: str, file: str, version: str, endpoint: str | None) -> Path:
    """The file in this node's cache, where it is put whole with its settings."""
    key = hashlib.sha256(f"{endpoint} {folder}/{file}@{version}".encode()).hexdigest()[:16]
    place = cache_home() / "loras" / key
    if not (place / file).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}.", dir=place.parent) as name:
            fresh = Path(name) / "fresh"
            fresh.mkdir()
            _download(_store(folder, endpoint), file, version, fresh)
            if not place.exists():
                fresh.rename(place)
    return place / file


def _download(store: Store, file: str, version: str, fresh: Path) -> None:
    with _about_teachers():
        for name in {file, SETTINGS} & {*_versions(store)}:
            store.get_file(name, fresh / name)
        versions = _versions(store)  # afterwards, when nothing more is read
    if file not in versions or _version(versions, file) != version:
        raise UserError(
            f"teachers: {store.url(file)} is not, or no longer, what @{version} stands for; put "
            "that back, or start a run with what is there"
        )


def _store(folder: str, endpoint: str | None) -> Store:
    if problem := bucket_problem(folder):
        raise UserError(f"teachers: an s3:// address: {problem}; allowed: s3://bucket/prefix")
    return Store.from_url(folder, endpoint)


def _versions(store: Store) -> dict[str, str]:
    """The files of a folder in S3, each with a text that changes with it."""
    return {name: text for name, text in store.versions().items() if "/" not in name}


def _version(versions: Mapping[str, str], file: str) -> str:
    texts = [versions[file], versions.get(SETTINGS)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


@contextmanager
def _about_teachers() -> Iterator[None]:
    """Has a store's errors say that they are of a teacher's address."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("runtime.storage.url:", "teachers:", 1)) from error

"""Data sets on the Hugging Face hub as files: which files an address stands for, at which commit.

`datasets` says which files are a split's; they are read as files on disk are. The driver asks for
the commit once, and the paths that it gives to other processes hold it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from fsspec import AbstractFileSystem

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.models.loading import asking_hub

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

HUB = "hf://"
ALLOWED = "hf://owner/name, hf://owner/name@revision, and with /split, /config or /config/split"
_ADDRESS = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([\w.-]+))?((?:/[\w.-]+){0,2})/?")
_PATH = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@([0-9a-f]{40})/(.+)")
TRAIN = "train"


@dataclass(frozen=True)
class HubSplit:
    """The files of one split at one commit.

    Args:
        paths: owner/name@COMMIT/FILE of each, as `hub_filesystem` takes them.
        note: a line about which commit is read, where the address leaves that open.
    """

    paths: tuple[str, ...]
    note: str | None


def hub_split(address: str, field: str) -> HubSplit:
    """The files that an address stands for.

    Args:
        field: what named it, for messages.

    Raises:
        UserError: it is no such address, `datasets` is not installed, or the hub has no such split.
    """
    if not (found := _ADDRESS.fullmatch(address)):
        raise UserError(f"{field}: {address!r} is no data set's address; allowed: {ALLOWED}")
    plugins.require("datasets", "datasets", field)
    repository, revision, rest = found.groups()
    names = tuple(name for name in rest.split("/") if name)
    try:
        with asking_hub():
            commit = _commit(repository, revision)
            splits, used = _splits(repository, commit, names)
    except (OSError, ValueError, RuntimeError) as error:  # the last: the author's code is not run
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{field}: {address} cannot be had from the hub ({reason}); allowed: {ALLOWED}; "
            "correct it, or download the data set and give its folder"
        ) from error
    split = _chosen(splits, names[used:], field, address)
    paths = tuple(path.removeprefix("hf://datasets/") for path in splits[split])
    note = f"{field}: {address} is split {split!r} at commit {commit}; @{commit} holds it there"
    return HubSplit(paths, None if revision == commit else note)


def hub_filesystem() -> "FileSystem":
    """Reads paths of `HubSplit`; pickled, without a token: each node has its own."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(_HubFiles()))


class _HubFiles(AbstractFileSystem):
    """Files of data sets at a commit, which huggingface_hub fetches whole into its cache."""

    protocol = "flash-ray-hub"
    cachable = False  # it holds nothing

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """What pyarrow asks before it reads."""
        return {"name": path, "type": "file", "size": None}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> IO[bytes]:
        from huggingface_hub import hf_hub_download

        if not (found := _PATH.fullmatch(path)):
            raise FileNotFoundError(path)
        repository, commit, file = found.groups()
        local = hf_hub_download(repository, file, repo_type="dataset", revision=commit)
        return open(local, "rb")


@cache  # a name means the same as long as the process lives
def _commit(repository: str, revision: str | None) -> str:
    """The commit that a branch, a tag or the whole repository is at."""
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(repository, revision=revision).sha)


@cache
def _splits(
    repository: str, commit: str, names: tuple[str, ...]
) -> tuple[dict[str, list[str]], int]:
    """The files of each split of the configuration that the first name means, or else of the
    default one; and how many of the names that took.

    Raises:
        OSError, ValueError, RuntimeError: there is no such data set, it has no default
            configuration, or is a program.
    """
    from datasets import get_dataset_config_names, load_dataset_builder

    configs = get_dataset_config_names(repository, revision=commit)
    is_config = bool(names) and (len(names) == 2 or names[0] in configs)
    config = names[0] if is_config else None
    files = load_dataset_builder(repository, config, revision=commit).config.data_files
    return {str(split): list(paths) for split, paths in (files or {}).items()}, int(is_config)


def _chosen(splits: Mapping[str, list[str]], names: Sequence[str], field: str, address: str) -> str:
    """The split that is named, else the one for training, else the only one."""
    wanted = names[0] if names else TRAIN
    if wanted not in splits and not names and len(splits) == 1:
        (wanted,) = splits
    if wanted not in splits:
        raise UserError(
            f"{field}: {address} has no split {wanted!r}; allowed: {', '.join(splits)}; give "
            f"{HUB}owner/name/SPLIT"
        )
    return wanted

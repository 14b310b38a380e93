"""The cache of encoded conditions: shards of cases, addressed by digest, in S3 and on each node.

A shard is one safetensors file with cases of one category. Its digest covers everything that
decides its content, so that recipes, seeds and runs share shards and nothing is encoded twice. A
damaged copy on a node is fetched anew, a damaged one in the store is removed, to be encoded anew.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn.functional import pad

from flash_ray.data.shard_file import Damaged, check_shard, read_layout, write_shard
from flash_ray.data.source import Shard
from flash_ray.errors import UserError
from flash_ray.models.base import Condition, ConditionPair, Layout
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.metrics import count_conditions

FETCHES = 16  # downloads at the same time
_SIDES = ("positive", "negative")
_REFERENCES = "references_BNC"


class ConditionsLost(RuntimeError):
    """The store has not, or no longer, what it is asked for; it can be encoded anew.

    Args:
        digests: of the shards.
    """

    def __init__(self, digests: Iterable[str]):
        self.digests = tuple(digests)
        super().__init__(
            f"{len(self.digests)} shards of encoded conditions were damaged or are gone, e.g. "
            f"{self.digests[0]}; go on with --resume, which encodes them anew"
        )

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return type(self), (self.digests,)


@dataclass(frozen=True)
class ConditionCache:
    """Shards in `store` under conditions/, with a copy in this node's `folder`.

    Args:
        say: takes a line about each shard that is damaged.
    """

    store: Store
    folder: Path
    say: Callable[[str], None] = logging.getLogger(__name__).warning

    @classmethod
    def at(cls, store: Store, say: Callable[[str], None] | None = None) -> "ConditionCache":
        """The cache of a store with this node's folder; `say` None logs."""
        cache = cls(store, cache_home() / "conditions")
        return replace(cache, say=say) if say else cache

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that still have to be encoded; what only this node has is uploaded."""
        stored = {key.split("/")[-1] for key in self.store.list("conditions/")}
        absent = [shard for shard in shards if f"{shard.digest}.safetensors" not in stored]
        missing = []
        for shard in absent:
            if self._is_whole_here(shard.digest, "encoded"):
                self.store.put_file(self._path(shard.digest), self._key(shard.digest))
            else:
                missing.append(shard)
        return missing

    def add(self, digest: str, conditions: ConditionPair) -> None:
        """Keep an encoded shard here and in the store."""
        tensors = {
            f"{side}.{name}": tensor.contiguous().cpu()
            for side in _SIDES
            for name, tensor in getattr(conditions, side).tensors().items()
            if (side, name) != ("negative", _REFERENCES)  # the same as the positive's
        }
        with self._partial(digest) as partial:
            write_shard(Path(partial), tensors, conditions.layout)
            self.store.put_file(Path(partial), self._key(digest))
            os.replace(partial, self._path(digest))

    def fetch(self, digest: str) -> Path:
        """The shard's file on this node, downloaded and checked if it is not here.

        Raises:
            ConditionsLost: there is none in the store, or a damaged one, which is removed.
        """
        path = self._path(digest)
        is_here = path.exists()
        count_conditions("node", hits=is_here, misses=not is_here)
        if not is_here:
            self._download(digest)
        return path

    def fetch_all(self, digests: Sequence[str]) -> None:
        """Fetch several at the same time.

        Raises:
            ConditionsLost: names all that cannot be had.
        """

        def lost(digest: str) -> Sequence[str]:
            try:
                self.fetch(digest)
            except ConditionsLost as error:
                return error.digests
            return ()

        with ThreadPoolExecutor(FETCHES) as pool:
            if all_lost := [digest for each in pool.map(lost, digests) for digest in each]:
                raise ConditionsLost(all_lost)

    def layout(self, digest: str) -> Layout:
        """The layout of a shard that was fetched; its numbers are not read, unless it is damaged.

        Raises:
            ConditionsLost: it is damaged here and in the store.
        """
        try:
            return read_layout(self._path(digest))
        except (Damaged, FileNotFoundError):
            return read_layout(self.whole(digest))

    def whole(self, digest: str) -> Path:
        """The shard's file on this node, checked; a damaged one is fetched anew.

        Raises:
            ConditionsLost: it is damaged here and in the store.
        """
        if not self._is_whole_here(digest, "fetched"):
            self._download(digest)
        return self._path(digest)

    def _is_whole_here(self, digest: str, cure: str) -> bool:
        """Whether this node has the shard; a damaged copy is removed."""
        path = self._path(digest)
        try:
            check_shard(path)
        except FileNotFoundError:
            return False
        except Damaged:
            self.say(f"cached conditions: {path} is damaged (SHA-256); it is {cure} anew")
            path.unlink(missing_ok=True)
            return False
        return True

    def _download(self, digest: str) -> None:
        key = self._key(digest)
        with self._partial(digest) as name:
            partial = Path(name)
            try:
                self.store.get_file(key, partial)
            except UserError as error:
                if key in self.store.list(key):
                    raise
                raise ConditionsLost([digest]) from error
            try:
                check_shard(partial)
            except Damaged as error:
                where = self.store.url(key)
                self.say(f"cached conditions: {where} is damaged (SHA-256); it is encoded anew")
                self.store.delete(key)
                raise ConditionsLost([digest]) from error
            os.replace(partial, self._path(digest))

    def _partial(self, digest: str) -> "_Partial":
        self.folder.mkdir(parents=True, exist_ok=True)
        return _Partial(self.folder, digest)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"

    def _key(self, digest: str) -> str:
        return f"conditions/{digest}.safetensors"


class ConditionSet:
    """A task's cases of one layout, numbered over its shards; rows are read when they are taken.

    A case may be numbered several times: it comes round so often in an epoch.

    Args:
        rows: (index in `files`, row in that file) of each numbered case.
    """

    def __init__(self, files: Sequence["_ShardFile"], rows: Sequence[tuple[int, int]]):
        self._files, self._rows = files, rows
        self.layout = files[rows[0][0]].layout

    def __len__(self) -> int:
        return len(self._rows)

    def categories(self, cases: Sequence[int]) -> tuple[str, ...]:
        """The category of each case."""
        return tuple(self._files[self._rows[case][0]].category for case in cases)

    def take(self, cases: Sequence[int], part: slice = slice(None)) -> ConditionPair:
        """The conditions of `cases[part]`, padded to the longest of all `cases`.

        A row's result depends a little on its padding: workers that share a micro-batch pad alike.
        """
        numbered = [self._rows[case] for case in cases]
        sides = []
        for side in _SIDES:
            length = max(self._files[file].lengths[side][row] for file, row in numbered)
            rows = [self._files[file].row(side, row, length) for file, row in numbered[part]]
            sides.append({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
        references = {_REFERENCES: sides[0][_REFERENCES]} if self.layout.references else {}
        return ConditionPair(
            Condition.from_tensors(self.layout, sides[0]),
            Condition.from_tensors(self.layout, {**sides[1], **references}),
        )


def condition_sets(
    cache: ConditionCache, shards: Sequence[Shard], counts: Mapping[str, int]
) -> list[ConditionSet]:
    """A task's cases by layout, those of most cases first.

    Args:
        counts: cases of each category in one epoch; where it has fewer they come round again.

    Raises:
        ConditionsLost: shards that have to be encoded anew.
    """
    cache.fetch_all(list(dict.fromkeys(shard.digest for shard in shards)))
    files = [_ShardFile(cache, shard.digest, shard.category) for shard in shards]
    by_category: dict[str, list[tuple[int, int]]] = {}
    for file, shard in enumerate(shards):
        rows = by_category.setdefault(shard.category, [])
        rows.extend((file, row) for row in range(shard.rows))
    by_layout: dict[Layout, list[tuple[int, int]]] = {}
    for category, rows in by_category.items():
        for file, row in islice(cycle(rows), counts[category]):
            by_layout.setdefault(files[file].layout, []).append((file, row))
    ordered = sorted(by_layout.items(), key=lambda item: (-len(item[1]), str(item[0])))
    return [ConditionSet(files, rows) for _, rows in ordered]


class _ShardFile:
    """A shard on this node: its header is read at once, its tensors when they are needed."""

    def __init__(self, cache: ConditionCache, digest: str, category: str):
        self._cache, self._digest, self.category = cache, digest, category
        self.layout = cache.layout(digest)

    @cached_property
    def lengths(self) -> dict[str, list[int]]:
        """How many real tokens each row has, by side."""
        file = self._open()
        masks = {side: file.get_tensor(f"{side}.mask_BL") for side in _SIDES}
        return {side: mask_BL.sum(1).tolist() for side, mask_BL in masks.items()}

    def row(self, side: str, row: int, length: int) -> dict[str, torch.Tensor]:
        """One row's tensors, a batch of one, right-padded or cut to `length` text tokens."""
        out, file = {}, self._open()
        for key in file.keys():
            if key.startswith(f"{side}."):
                name = key.removeprefix(f"{side}.")
                tensor = file.get_slice(key)[row : row + 1]
                if name != _REFERENCES:
                    tensor = tensor[:, :length]
                    tensor = pad(
                        tensor, (0, 0) * (tensor.dim() - 2) + (0, length - tensor.shape[1])
                    )
                out[name] = tensor
        return out

    def _open(self) -> safe_open:
        path = self._cache.whole(self._digest)
        return _opened(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)  # each holds a file open
def _opened(path: Path, written: int) -> safe_open:
    return safe_open(path, framework="pt")


class _Partial:
    """A file beside the final one, removed unless it was moved there."""

    def __init__(self, folder: Path, stem: str):
        handle, self.path = tempfile.mkstemp(prefix=f".{stem}.", suffix=".partial", dir=folder)
        os.close(handle)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        Path(self.path).unlink(missing_ok=True)

"""The cache of encoded conditions: shards of cases, addressed by digest, in S3 and on each node.

A shard is one safetensors file with cases of one category. Its digest covers everything that
decides its content, so that recipes, seeds and runs share shards and nothing is encoded twice. Text
to image has one negative condition, the empty prompt's: shards that have the same share its file. A
damaged copy on a node is fetched anew, a damaged one in the store is removed, to be encoded anew.
"""

import fcntl
import hashlib
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn.functional import pad

from flash_ray.data.shard_file import Damaged, Header, check_shard, read_header, write_shard
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
        return [shard for shard in absent if not self._upload(shard.digest)]

    def add(self, digest: str, conditions: ConditionPair) -> None:
        """Keep an encoded shard here and in the store."""
        positive = _named("positive", conditions.positive)
        if conditions.layout.references:
            negative = _named("negative", conditions.negative)
            del negative[f"negative.{_REFERENCES}"]  # the positive's
            self._write(digest, {**positive, **negative}, Header(conditions.layout))
            return
        negative = _named("negative", conditions.negative.rows([0]).trimmed())
        shared = f"negative-{_content_digest(negative)}"
        if not self._is_stored(shared):
            self._write(shared, negative, Header(conditions.layout))
        self._write(digest, positive, Header(conditions.layout, shared))

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], header: Header) -> None:
        with self._partial(name) as partial:
            write_shard(Path(partial), tensors, header)
            self.store.put_file(Path(partial), self._key(name))
            os.replace(partial, self._path(name))

    def forget(self, digest: str) -> None:
        """Remove a shard here and from the store: it is encoded anew."""
        self.store.delete(self._key(digest))
        self._path(digest).unlink(missing_ok=True)

    def fetch(self, digest: str) -> Path:
        """The shard's file on this node, downloaded and checked if it is not here, by one process
        of the node, for which the others wait.

        Raises:
            ConditionsLost: there is none in the store, or a damaged one, which is removed.
        """
        path = self._path(digest)
        is_here = path.exists()
        count_conditions("node", hits=is_here, misses=not is_here)
        if not is_here:
            with self._alone(digest):
                if not path.exists():
                    self._download(digest)
        return path

    def fetch_all(self, digests: Sequence[str]) -> None:
        """Fetch several at the same time, in an order of this process's own: the node's workers,
        which need the same ones, then share out the work.

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
            order = random.sample(digests, len(digests))
            if all_lost := [digest for each in pool.map(lost, order) for digest in each]:
                raise ConditionsLost(all_lost)

    def header(self, digest: str) -> Header:
        """What a shard that was fetched says of itself; its numbers are not read, unless it is
        damaged.

        Raises:
            ConditionsLost: it is damaged here and in the store.
        """
        try:
            return read_header(self._path(digest))
        except (Damaged, FileNotFoundError):
            return read_header(self.whole(digest))

    def whole(self, digest: str) -> Path:
        """The shard's file on this node, checked; a damaged one is fetched anew.

        Raises:
            ConditionsLost: it is damaged here and in the store.
        """
        if not self._is_whole_here(digest, "fetched"):
            self._download(digest)
        return self._path(digest)

    def _upload(self, digest: str) -> bool:
        """Upload this node's copy, with the negative that it refers to; False if there is none."""
        if not self._is_whole_here(digest, "encoded"):
            return False
        negative = read_header(self._path(digest)).negative
        if negative and not self._is_stored(negative) and not self._upload(negative):
            return False
        self.store.put_file(self._path(digest), self._key(digest))
        return True

    def _is_stored(self, digest: str) -> bool:
        return self._key(digest) in self.store.list(self._key(digest))

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

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        """Only one process of the node is here with the shard, or with one whose digest begins
        alike: there are few locks, and they stay."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{digest[0]}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

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
        numbered = [(self._files[file], row) for file, row in (self._rows[n] for n in cases)]
        sides = []
        for side in _SIDES:
            length = max(file.length(side, row) for file, row in numbered)
            rows = [file.row(side, row, length) for file, row in numbered[part]]
            batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
            # The slots are the layout's: the same in every row.
            slots_P = numbered[0][0].slots(side)
            sides.append({**batch, "slots_P": slots_P})
        references = {_REFERENCES: sides[0][_REFERENCES]} if self.layout.references else {}
        return ConditionPair(
            Condition.unpacked(self.layout, sides[0]),
            Condition.unpacked(self.layout, {**sides[1], **references}),
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
        self._header = cache.header(digest)
        self.layout = self._header.layout

    def length(self, side: str, row: int) -> int:
        """How many tokens of text a row has."""
        lengths = self._lengths[side]
        return lengths[row % len(lengths)]

    def slots(self, side: str) -> torch.Tensor:
        """slots_P of all rows."""
        return self._open(side).get_tensor(f"{side}.slots_P")

    def row(self, side: str, row: int, length: int) -> dict[str, torch.Tensor]:
        """One row's tensors, a batch of one, right-padded or cut to `length` tokens of text."""
        file, row = self._open(side), row % len(self._lengths[side])  # of a negative there is one
        texts_BTD = file.get_slice(f"{side}.texts_BTD")[row : row + 1, :length]
        mask_BT = file.get_slice(f"{side}.mask_BT")[row : row + 1, :length]
        extra = length - mask_BT.shape[1]
        out = {"texts_BTD": pad(texts_BTD, (0, 0, 0, extra)), "mask_BT": pad(mask_BT, (0, extra))}
        if side == "positive" and self.layout.references:
            out[_REFERENCES] = file.get_slice(f"{side}.{_REFERENCES}")[row : row + 1]
        return out

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        masks = {side: self._open(side).get_tensor(f"{side}.mask_BT") for side in _SIDES}
        return {side: mask_BT.sum(1).tolist() for side, mask_BT in masks.items()}

    def _open(self, side: str) -> safe_open:
        shared = self._header.negative if side == "negative" else ""
        try:
            path = self._cache.whole(shared or self._digest)
        except ConditionsLost as error:
            if shared:
                self._cache.forget(self._digest)
            raise ConditionsLost([self._digest]) from error
        return _opened(path, path.stat().st_mtime_ns)


def _named(side: str, condition: Condition) -> dict[str, torch.Tensor]:
    return {f"{side}.{name}": t.contiguous().cpu() for name, t in condition.packed().items()}


def _content_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """32 hex digits of the SHA-256 of tensors by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


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

"""The cache of encoded conditions: shards of cases, addressed by digest, in S3 and on each node.

A shard is one safetensors file with cases of one category. Its digest covers everything that
decides its content, so that recipes, seeds and runs share shards and nothing is encoded twice.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import pad

from flash_ray.data.source import Shard
from flash_ray.errors import UserError
from flash_ray.models.base import Condition, ConditionPair, Layout
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.metrics import count_conditions

FETCHES = 16  # downloads at the same time
_SIDES = ("positive", "negative")
_REFERENCES = "references_BNC"


def cache_home() -> Path:
    """This node's folder for what can be had again: $FLASH_RAY_CACHE, or ~/.cache/flash_ray."""
    return Path(os.environ.get("FLASH_RAY_CACHE") or Path.home() / ".cache" / "flash_ray")


@dataclass(frozen=True)
class ConditionCache:
    """Shards in `store` under conditions/, with a copy in this node's `folder`."""

    store: Store
    folder: Path

    @classmethod
    def at(cls, store: Store) -> "ConditionCache":
        """The cache of a store with this node's folder."""
        return cls(store, cache_home() / "conditions")

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that still have to be encoded; what only this node has is uploaded."""
        stored = {key.split("/")[-1] for key in self.store.list("conditions/")}
        absent = [shard for shard in shards if f"{shard.digest}.safetensors" not in stored]
        for shard in absent:
            if self._path(shard.digest).exists():
                self.store.put_file(self._path(shard.digest), self._key(shard.digest))
        return [shard for shard in absent if not self._path(shard.digest).exists()]

    def add(self, digest: str, conditions: ConditionPair) -> None:
        """Keep an encoded shard here and in the store."""
        tensors = {
            f"{side}.{name}": tensor.contiguous().cpu()
            for side in _SIDES
            for name, tensor in getattr(conditions, side).tensors().items()
            if (side, name) != ("negative", _REFERENCES)  # the same as the positive's
        }
        layout = json.dumps(asdict(conditions.layout))
        with self._partial(digest) as partial:
            save_file(tensors, partial, metadata={"layout": layout})
            self.store.put_file(Path(partial), self._key(digest))
            os.replace(partial, self._path(digest))

    def fetch(self, digest: str) -> Path:
        """The shard's file on this node, downloaded if need be."""
        path = self._path(digest)
        is_here = path.exists()
        count_conditions("node", hits=is_here, misses=not is_here)
        if not is_here:
            with self._partial(digest) as partial:
                self.store.get_file(self._key(digest), Path(partial))
                os.replace(partial, path)
        return path

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
    """
    with ThreadPoolExecutor(FETCHES) as pool:
        paths = list(pool.map(cache.fetch, [shard.digest for shard in shards]))
    files = [_ShardFile(path, shard.category) for path, shard in zip(paths, shards, strict=True)]
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

    def __init__(self, path: Path, category: str):
        self.path, self.category = path, category
        try:
            with safe_open(path, framework="pt") as file:
                layout = json.loads(file.metadata()["layout"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"condition cache: {path} is corrupt; remove it") from error
        layout["references"] = tuple(tuple(size) for size in layout["references"])
        self.layout = Layout(**layout)

    @cached_property
    def lengths(self) -> dict[str, list[int]]:
        """How many real tokens each row has, by side."""
        masks = {side: _opened(self.path).get_tensor(f"{side}.mask_BL") for side in _SIDES}
        return {side: mask_BL.sum(1).tolist() for side, mask_BL in masks.items()}

    def row(self, side: str, row: int, length: int) -> dict[str, torch.Tensor]:
        """One row's tensors, a batch of one, right-padded or cut to `length` text tokens."""
        out, file = {}, _opened(self.path)
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


@lru_cache(maxsize=256)  # each holds a file open
def _opened(path: Path) -> safe_open:
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

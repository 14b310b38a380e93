"""The cache of encoded conditions: shards of cases, addressed by digest, in S3 and on each node.

A shard is one safetensors file with up to 32 cases of one category. Its digest covers everything
that decides its content, so that recipes, seeds and runs share shards and nothing is encoded twice.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import pad

from flash_ray.backbones.base import Backbone, Condition, Conditioned, Layout
from flash_ray.backbones.load import encoder_digest
from flash_ray.checkpoints.storage import Store
from flash_ray.data.composition import category_counts
from flash_ray.data.miniature_source import TrainingCase, training_case
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe

SHARD = 32
_SIDES = ("positive", "negative")
_REFERENCES = "references_BNC"


@dataclass(frozen=True)
class Shard:
    """Cases `SHARD * number` onwards of a category, of which the recipe uses the first `rows`."""

    digest: str
    task: str
    category: str
    number: int
    rows: int

    def cases(self) -> list[TrainingCase]:
        """All cases of the shard, also those that the recipe does not use."""
        return _cases(self.task, self.category, self.number)


def plan_shards(recipe: Recipe) -> list[Shard]:
    """The shards that hold a recipe's cases, by task and category.

    Raises:
        UserError: the base is missing, or `data.prompts` is too small for the composition.
    """
    common = [
        "shard-1",
        encoder_digest(recipe.base),
        recipe.data.size,
        recipe.optimisation.precision,
    ]
    shards = []
    for task, share in recipe.tasks.model_dump().items():
        if not share:
            continue
        weights = getattr(recipe.data.composition, task)
        counts = category_counts(weights, recipe.data.prompts, f"data.composition.{task}")
        for category, count in counts.items():
            for number in range(-(-count // SHARD)):
                text = json.dumps([*common, task, _content(task, category, number)]).encode()
                digest = hashlib.sha256(text).hexdigest()[:32]
                rows = min(SHARD, count - number * SHARD)
                shards.append(Shard(digest, task, category, number, rows))
    return shards


def encode_shard(backbone: Backbone, shard: Shard, size: tuple[int, int]) -> Conditioned:
    """Encodes the cases of a shard; `size` is the output's (height, width)."""
    cases = shard.cases()
    references = None if shard.task == "t2i" else [list(case.references) for case in cases]
    return backbone.encode([case.prompt for case in cases], references, size)


@dataclass(frozen=True)
class ConditionCache:
    """Shards in `store` under conditions/, with a copy in this node's `folder`."""

    store: Store
    folder: Path

    @classmethod
    def at(cls, store: Store) -> "ConditionCache":
        """With the folder $FLASH_RAY_CACHE, or ~/.cache/flash_ray."""
        home = os.environ.get("FLASH_RAY_CACHE") or Path.home() / ".cache" / "flash_ray"
        return cls(store, Path(home) / "conditions")

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Those that still have to be encoded; uploads what only this node has."""
        stored = {key.split("/")[-1] for key in self.store.list("conditions/")}
        absent = [shard for shard in shards if f"{shard.digest}.safetensors" not in stored]
        for shard in absent:
            if self._path(shard.digest).exists():
                self.store.put_file(self._path(shard.digest), self._key(shard.digest))
        return [shard for shard in absent if not self._path(shard.digest).exists()]

    def add(self, digest: str, conditioned: Conditioned) -> None:
        """Keeps an encoded shard here and in the store."""
        tensors = {
            f"{side}.{name}": tensor.contiguous().cpu()
            for side in _SIDES
            for name, tensor in getattr(conditioned, side).tensors().items()
            if (side, name) != ("negative", _REFERENCES)  # the same as the positive's
        }
        layout = json.dumps(asdict(conditioned.layout))
        with self._partial(digest) as partial:
            save_file(tensors, partial, metadata={"layout": layout})
            self.store.put_file(Path(partial), self._key(digest))
            os.replace(partial, self._path(digest))

    def fetch(self, digest: str) -> Path:
        """The shard's file on this node, downloaded if need be."""
        path = self._path(digest)
        if not path.exists():
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
    """A task's cases, numbered over its shards; rows are read from disk as they are asked for."""

    def __init__(self, cache: ConditionCache, shards: Sequence[Shard]):
        self._index = [(number, row) for number, s in enumerate(shards) for row in range(s.rows)]
        self._categories = [shard.category for shard in shards]
        self._files = [_ShardFile(cache.fetch(shard.digest)) for shard in shards]
        layouts = {file.layout for file in self._files}
        if len(layouts) != 1:
            raise ValueError(f"one layout per task, got {layouts}")
        self.layout = layouts.pop()

    def __len__(self) -> int:
        return len(self._index)

    def categories(self, cases: Sequence[int]) -> tuple[str, ...]:
        """The category of each case."""
        return tuple(self._categories[self._index[case][0]] for case in cases)

    def take(self, cases: Sequence[int], mine: slice = slice(None)) -> Conditioned:
        """The conditions of `cases[mine]`, padded to the longest of all `cases`.

        A row's result depends a little on its padding: workers that share a micro-batch pad alike.
        """
        places = [self._index[case] for case in cases]
        sides = []
        for side in _SIDES:
            length = max(self._files[number].lengths[side][row] for number, row in places)
            rows = [self._files[number].row(side, row, length) for number, row in places[mine]]
            sides.append({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
        references = {_REFERENCES: sides[0][_REFERENCES]} if self.layout.references else {}
        return Conditioned(
            Condition.from_tensors(self.layout, sides[0]),
            Condition.from_tensors(self.layout, {**sides[1], **references}),
        )


class _ShardFile:
    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="pt")
            layout = json.loads(self._file.metadata()["layout"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"condition cache: {path} is corrupt; remove it") from error
        layout["references"] = tuple(tuple(size) for size in layout["references"])
        self.layout = Layout(**layout)

    @cached_property
    def lengths(self) -> dict[str, list[int]]:
        """Real tokens of each row."""
        masks = {side: self._file.get_tensor(f"{side}.mask_BL") for side in _SIDES}
        return {side: mask_BL.sum(1).tolist() for side, mask_BL in masks.items()}

    def row(self, side: str, row: int, length: int) -> dict[str, torch.Tensor]:
        """One row's tensors, a batch of one, right-padded or cut to `length` text tokens."""
        out = {}
        for key in self._file.keys():
            if key.startswith(f"{side}."):
                name = key.removeprefix(f"{side}.")
                tensor = self._file.get_slice(key)[row : row + 1]
                if name != _REFERENCES:
                    tensor = tensor[:, :length]
                    tensor = pad(
                        tensor, (0, 0) * (tensor.dim() - 2) + (0, length - tensor.shape[1])
                    )
                out[name] = tensor
        return out


class _Partial:
    """A file's path beside its final place, removed unless it was moved there."""

    def __init__(self, folder: Path, stem: str):
        handle, self.path = tempfile.mkstemp(prefix=f".{stem}.", suffix=".partial", dir=folder)
        os.close(handle)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        Path(self.path).unlink(missing_ok=True)


def _cases(task: str, category: str, number: int) -> list[TrainingCase]:
    return [training_case(task, category, number * SHARD + i) for i in range(SHARD)]


@cache
def _content(task: str, category: str, number: int) -> list[list[str]]:
    """What tells a shard's cases from others; the arms of a study ask for the same ones."""
    return [_address(case) for case in _cases(task, category, number)]


def _address(case: TrainingCase) -> list[str]:
    pixels = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in case.references]
    return [case.prompt, *pixels]

"""Has the cluster draw a benchmark's cases: the driver loads no model and needs no GPU.

Actors with the resources of the recipe's workers take batches in turn and put their pictures into
the store. What is there already is not drawn again, so an evaluation that was cut off goes on.
"""

import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from torch import nn

from flash_ray.cluster.environment import one_process
from flash_ray.cluster.resources import worker_options
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import Draw
from flash_ray.evaluation.pictures import (
    PictureStore,
    StoredPictures,
    case_digest,
    picture_home,
    put_picture,
)
from flash_ray.evaluation.sample import (
    EncodedBatch,
    EncodedBenchmark,
    case_batches,
    encode_benchmark,
    encode_cases,
    load_base,
    sample_cases,
)
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import FileRecord, verify
from flash_ray.storage.s3 import Store

KEPT = 32  # encoded batches of an actor, for the next sampler


@dataclass(frozen=True)
class Weights:
    """A transformer that any node can load.

    Args:
        digest: 16 hex digits that name the weights; "": the base's own.
        home: the prefix of its files' keys in the store, with the / at its end.
        files: the files by path.
    """

    digest: str = ""
    home: str = ""
    files: Mapping[str, FileRecord] = field(default_factory=dict)


def encode_in_task(
    recipe: Recipe, cases: Sequence[Mapping[Task, Sequence[Case]]]
) -> list[EncodedBenchmark]:
    """Encodes each of several choices of cases, by task; the cases go to the node, where their
    files need not be."""
    encoded: list[EncodedBenchmark] = ray.get(
        ray.remote(_encode).options(**worker_options(recipe)).remote(recipe, cases)
    )
    return encoded


@contextmanager
def drawn_by_actors(recipe: Recipe, store: Store, weights: Mapping[str, Weights]) -> Iterator[Draw]:
    """What draws on the cluster for the block.

    Args:
        recipe: its base and precision decide the pictures, its runtime what an actor takes.
        store: a store that all nodes can reach.
        weights: of each model, by the name that it is asked for.
    """
    actors = _Actors(recipe, store)

    def draw(
        name: str, sampler: SamplerConfig, cases: Sequence[Case], progress: Callable[[int], None]
    ) -> StoredPictures:
        kept = PictureStore(store, picture_home(recipe, sampler, weights[name].digest))
        keys = [kept.key(case) for case in cases]
        there, key_of = set(store.list(kept.home)), dict(zip(map(id, cases), keys, strict=True))
        todo: list[_Batch] = []
        for batch in case_batches(cases):
            names = [key_of[id(case)] for case in batch]
            if there.issuperset(names):
                progress(len(batch) * sampler.nfe)
            else:
                todo.append(_Batch(weights[name], sampler, batch, names))
        for done in actors.run(todo):
            progress(done * sampler.nfe)
        return StoredPictures(store, tuple(keys))

    try:
        yield draw
    finally:
        actors.stop()


class _Batch(NamedTuple):
    """Cases that are drawn together, and the keys of their pictures."""

    weights: Weights
    sampler: SamplerConfig
    cases: tuple[Case, ...]
    keys: list[str]


class _Actors:
    """As many drawing actors as the recipe has workers; started for the first batch."""

    def __init__(self, recipe: Recipe, store: Store):
        self._recipe, self._store = recipe, store
        self._started: list[ActorHandle] = []
        self._idle: list[ActorHandle] = []
        self._loading: dict[ray.ObjectRef, ActorHandle] = {}

    def run(self, batches: Sequence[_Batch]) -> Iterator[int]:
        """Draws them in turn on whichever actor is free; yields the number of pictures of each."""
        self._start(min(len(batches), self._recipe.runtime.max_workers))
        waiting, drawing = deque(batches), dict[ray.ObjectRef, ActorHandle]()
        while waiting or drawing:
            while waiting and self._idle:
                actor = self._idle.pop()
                drawing[actor.draw.remote(*waiting.popleft())] = actor
            (ready,), _ = ray.wait([*drawing, *(self._loading if waiting else ())], num_returns=1)
            count = ray.get(ready)
            self._idle.append((drawing if ready in drawing else self._loading).pop(ready))
            if count:
                yield count

    def stop(self) -> None:
        for actor in self._started:
            ray.kill(actor)

    def _start(self, count: int) -> None:
        actor: Any = ray.remote(_Drawing).options(
            **worker_options(self._recipe), max_restarts=3, max_task_retries=3
        )
        for _ in range(count - len(self._started)):
            started: ActorHandle = actor.remote(self._recipe, self._store)
            self._started.append(started)
            self._loading[started.loaded.remote()] = started


class _Drawing:
    """The base on one worker's resources, and the transformer that was asked for last."""

    def __init__(self, recipe: Recipe, store: Store):
        one_process(recipe)
        self._store, self._base = store, load_base(recipe)
        self._encoded: OrderedDict[tuple[str, ...], list[EncodedBatch]] = OrderedDict()
        self._other: tuple[str, nn.Module] | None = None

    def loaded(self) -> int:
        """0, once the base is there."""
        return 0

    def draw(
        self, weights: Weights, sampler: SamplerConfig, cases: Sequence[Case], keys: Sequence[str]
    ) -> int:
        """Draws the answers to one batch and keeps them; returns how many."""
        asked = tuple(case_digest(case) for case in cases)
        if asked not in self._encoded:
            self._encoded[asked] = encode_cases(self._base, cases)
            if len(self._encoded) > KEPT:
                self._encoded.popitem(last=False)
        transformer = self._transformer(weights)
        images = sample_cases(self._base, self._encoded[asked], transformer, sampler)
        for key, image in zip(keys, images, strict=True):
            put_picture(self._store, key, image)
        return len(images)

    def _transformer(self, weights: Weights) -> nn.Module:
        if not weights.digest:
            return self._base.transformer
        if self._other is None or self._other[0] != weights.digest:
            self._other = None  # before the next one takes its memory
            with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
                folder = Path(name)
                for path in weights.files:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    self._store.get_file(f"{weights.home}{path}", folder / path)
                verify(folder, dict(weights.files), self._store.url(weights.home))
                self._other = weights.digest, self._base.load_transformer(folder)
        return self._other[1]


def _encode(
    recipe: Recipe, cases: Sequence[Mapping[Task, Sequence[Case]]]
) -> list[EncodedBenchmark]:
    one_process(recipe)
    model = load_base(recipe)
    return [encode_benchmark(model, by_task) for by_task in cases]

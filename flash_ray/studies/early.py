"""The early horizon: what a student draws after some iterations, kept until it is judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from flash_ray.evaluation.pictures import StoredPictures, put_picture
from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.models.base import Model
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store
from flash_ray.trainer.metrics import Evaluated
from flash_ray.trainer.setup import Evaluate


def early_home(run: str) -> str:
    """The prefix of the keys of a run's early pictures, which no other code's run shares."""
    return f"runs/{run}/early/"


@dataclass(frozen=True)
class EarlyPictures(Evaluate):
    """Draws cases with the averaged student, once: a run that goes on from an earlier checkpoint
    leaves what is there. Nobody scores before the trial's end."""

    encoded: EncodedBenchmark
    sampler: SamplerConfig
    store: Store
    run: str

    def draw(self, model: Model, transformer: nn.Module) -> dict[Task, list[np.ndarray]]:
        """The pictures of each task, uint8 (H, W, 3); none if they are there."""
        wanted = {key for keys in self._keys().values() for key in keys}
        if wanted.issubset(self.store.list(early_home(self.run))):
            return {}
        return self.encoded.images(model, transformer, self.sampler)

    def score(self, drawn: Mapping[Task, Sequence[np.ndarray]]) -> Evaluated:
        """Keeps the pictures; scores nothing."""
        keys = self._keys()
        for task, images in drawn.items():
            for key, image in zip(keys[task], images, strict=True):
                put_picture(self.store, key, image)
        return Evaluated({}, None)

    def images(self) -> dict[Task, StoredPictures]:
        """The pictures that were kept, by task, in the order of the cases."""
        return {
            task: StoredPictures(self.store, tuple(keys)) for task, keys in self._keys().items()
        }

    def _keys(self) -> dict[Task, list[str]]:
        return {
            task: [
                f"{early_home(self.run)}{task}/{case.id}.png" for case in self.encoded.cases(task)
            ]
            for task in self.encoded.batches
        }

"""Pictures in the store, under a name that says all that decides them: each is drawn once."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.models.loading import base_digest
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from flash_ray.models.sampling import SamplerConfig

HOME = "pictures/"


@dataclass(frozen=True)
class PictureStore:
    """Where the pictures of one model are, sampled in one way; pickled.

    Args:
        home: as `picture_home` gives it.
    """

    store: Store
    home: str

    def key(self, case: Case) -> str:
        """That of the answer to a case."""
        return f"{self.home}{case_digest(case)}.png"


@dataclass(frozen=True)
class StoredPictures(Sequence[np.ndarray]):
    """Pictures, each uint8 (H, W, 3), that are fetched when they are indexed; pickled."""

    store: Store
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredPictures": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | StoredPictures":
        if isinstance(index, slice):
            return StoredPictures(self.store, self.keys[index])
        key = self.keys[index]
        data = self.store.get_bytes(key)
        try:
            return np.asarray(Image.open(io.BytesIO(data or b"")).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{self.store.url(key)} is gone or damaged; remove it, and run the command again, "
                "which draws it anew"
            ) from error


def put_picture(store: Store, key: str, picture_HW3: np.ndarray) -> None:
    """Keeps a picture without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    store.put_bytes(key, buffer.getvalue())


def picture_home(recipe: Recipe, sampler: "SamplerConfig", weights: str = "") -> str:
    """Where the pictures of a model are, as it is sampled: a name that says what decides them
    beside the case.

    Args:
        recipe: its base and precision count.
        weights: 16 hex digits that name a transformer; "": the base's own.

    Raises:
        UserError: the base cannot be read.
    """
    model = f"{base_digest(recipe.base)} {recipe.training.precision} {weights}"
    digest = hashlib.sha256(model.encode()).hexdigest()[:16]
    return f"{HOME}{digest}/{_digest(asdict(sampler))}/"


def case_digest(case: Case) -> str:
    """16 hex digits that change with anything of a case that a model answers."""
    pictures = [
        (image.size, image.mode, hashlib.sha256(image.tobytes()).hexdigest())
        for image in case.references
    ]
    return _digest([case.task, case.prompt, case.size, case.seed, pictures])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

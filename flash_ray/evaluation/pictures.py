"""Pictures in the store, under a name that says all that decides them: each is drawn once."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import overload

import numpy as np
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.models.sampling import SamplerConfig
from flash_ray.storage.s3 import Store

HOME = "pictures/"


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


def picture_home(weights: str, sampler: SamplerConfig) -> str:
    """Where the pictures of a model lie, as it is sampled.

    Args:
        weights: a digest of all that decides a picture beside case and sampler.
    """
    return f"{HOME}{weights}/{_digest(asdict(sampler))}/"


def case_digest(case: Case) -> str:
    """16 hex digits that change with anything of a case that a model answers."""
    pictures = [
        (image.size, image.mode, hashlib.sha256(image.tobytes()).hexdigest())
        for image in case.references
    ]
    return _digest([case.task, case.prompt, case.size, case.seed, pictures])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

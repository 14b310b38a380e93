"""What a judge is: bench cases and pictures in, one opinion of each out."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from flash_ray.errors import UserError
from flash_ray.evaluation.score import interval
from flash_ray.miniature.bench import Case
from flash_ray.recipe.schema import Section


class Opinion(Section):
    """What a judge says of one picture.

    Args:
        score: 1 to 5, or None for no opinion.
        failure: why an opinion that the judge should have had is missing, in a word.
        details: what the score comes from, as plain data.
    """

    score: float | None = Field(ge=1, le=5)
    failure: str | None = None
    details: dict[str, Any] = {}


class Judgement(Section):
    """One judge's opinions of one model's answers, by case id.

    Args:
        score: the mean over the cases with a score, None if there is none.
        interval: 95 % bootstrap interval of that mean over the cases.
    """

    score: float | None
    interval: tuple[float, float] | None
    opinions: dict[str, Opinion]

    @property
    def scores(self) -> list[float]:
        return [o.score for o in self.opinions.values() if o.score is not None]

    @property
    def failures(self) -> list[str]:
        return [o.failure for o in self.opinions.values() if o.failure is not None]


class Judge(Protocol):
    """Says how good pictures are."""

    name: str

    def judge(self, cases: Sequence[Case], pictures_BHW3: np.ndarray) -> list[Opinion]:
        """One opinion of each uint8 picture, the answers to `cases` in order.

        Raises:
            UserError: the judge cannot be used.
        """
        ...


def judgement(cases: Sequence[Case], opinions: Sequence[Opinion]) -> Judgement:
    """Opinions of all cases, with their mean."""
    scores = [opinion.score for opinion in opinions if opinion.score is not None]
    return Judgement(
        score=float(np.mean(scores)) if scores else None,
        interval=interval(scores) if scores else None,
        opinions={case.id: opinion for case, opinion in zip(cases, opinions, strict=True)},
    )


def require(module: str, extra: str) -> None:
    """Raises UserError if an optional module is not installed, with what to install."""
    if find_spec(module) is None:
        raise UserError(
            f"--judge: {module} is not installed; run `pip install 'flash-ray[{extra}]'`, or "
            "choose --judge exact"
        )

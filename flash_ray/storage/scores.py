"""What is published of a student's scores, with those of its base on the same cases."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flash_ray.recipe.schema import Task
from flash_ray.storage.records import Text

FIVE = "1 to 5"  # the scale of judges that give points as people do


BaselineName = Literal["teacher", "untrained"]


def digits_of(scale: str) -> int:
    """The decimals with which scores on that scale are shown."""
    return 2 if scale == FIVE else 3


class Baseline(BaseModel):
    """What the base scored on the cases of a student, as its teacher or untrained.

    Args:
        nfe: evaluations of the transformer for one picture, the most of any task.
        tasks: the mean score of each task that was scored.
        intervals: 95 % bootstrap intervals of these over the cases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    nfe: int = Field(ge=1)
    tasks: dict[Task, float]
    intervals: dict[Task, tuple[float, float]] = {}


class GapClosed(BaseModel):
    """What share of the gap between untrained base and teacher a student closes.

    Args:
        interval: 95 % bootstrap interval over the cases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    share: float
    interval: tuple[float, float]


class PublishedScores(BaseModel):
    """What a student scored on a benchmark before it was published.

    Args:
        benchmark: its name.
        digest: the benchmark's, 16 hex digits: scores of other cases are not comparable.
        judge: the name of the judge, and `scale`, what its scores are, in words.
        cases_per_category: how many of each category were scored, 1 or more.
        tasks: the mean score of each task that was scored.
        intervals: 95 % bootstrap intervals of these over the cases.
        baselines: `teacher` and `untrained` on the same cases, if they were scored.
        gap_closed: by task, where the teacher is better than the untrained base beyond chance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    benchmark: Text
    digest: Text
    judge: Text
    scale: Text = FIVE
    cases_per_category: int = Field(ge=1)
    tasks: dict[Task, float]
    intervals: dict[Task, tuple[float, float]] = {}
    baselines: dict[BaselineName, Baseline] = {}
    gap_closed: dict[Task, GapClosed] = {}

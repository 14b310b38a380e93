"""What the miniature registers with flash_ray: its judge and its checkpoints, by entry points.

Its benchmark is `benchmark.MiniatureBenchmark`, its training data `source.MiniatureSource`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import FIVE, CaseScore, Runs
from flash_ray.miniature.edits import Edit
from flash_ray.miniature.scenes import T2I_CATEGORIES, Scene
from flash_ray.models.loading import INDEX, checkpoint_folder

FOLDER = Path(__file__).parent
PROCESSOR = "flash_ray.miniature.processor"


def validate_base(base: str, field: str) -> None:
    """Raises UserError unless a base is a pipeline of the small world, which its processor tells.

    Args:
        field: of a recipe, that names what is for such a base only.
    """
    index = Path(checkpoint_folder(base) or base) / INDEX
    try:
        part = json.loads(index.read_text(encoding="utf-8")).get("processor")
    except (OSError, ValueError, AttributeError):
        part = None  # on the hub, or no pipeline at all
    if not part or part[0] != PROCESSOR:
        raise UserError(
            f"{field}: the small world's is for its own pipelines, and base {base} is none; "
            f"allowed: what is for any base; set {field} to yours"
        )


class FittedScore(CaseScore):
    """An exact score, with the scene that was found in the picture; that stays out of results."""

    fitted: Any = Field(exclude=True, repr=False)


class ExactJudge:
    """Reads pictures of the small world by synthesis; it has a score for each of its cases."""

    name = "exact"
    scale = FIVE
    runs: Runs = "cpu"

    def validate_base(self, base: str, field: str) -> None:
        """Raises UserError unless the base is a pipeline of the small world."""
        validate_base(base, field)

    def can_judge(self, case: Case) -> bool:
        """Whether the case is one of the miniature's."""
        return isinstance(case.target, Scene | Edit)

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (64, 64, 3); None for cases of other benchmarks."""
        return [
            _score(case, image_HW3) if self.can_judge(case) else CaseScore(score=None)
            for case, image_HW3 in zip(cases, images_BHW3, strict=True)
        ]

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """`diversity`: by unstated factor, `distance` to its true distribution and the `floor` that
        true samples have, of edits by "scene category.factor"; `diversity_gap`: mean distance minus
        floor, 0 is as diverse as the world, None if no factor is free."""
        from flash_ray.miniature.judge import diversity, diversity_gap  # scipy takes a second

        judged = [
            (case.target, score.fitted)
            for case, score in zip(cases, scores, strict=True)
            if isinstance(score, FittedScore)
        ]
        if not judged:
            return {}
        fitted = [scene for _, scene in judged]
        edits = [target for target, _ in judged if isinstance(target, Edit)]
        if edits:
            table = {
                f"{shown}.{factor}": row
                for shown in T2I_CATEGORIES
                for factor, row in diversity(shown, fitted, edits).items()
            }
        else:
            table = diversity(cases[0].category, fitted)
        return {"diversity": table, "diversity_gap": diversity_gap(table)}


def base_folder() -> Path:
    """The pipeline that is the miniature's teacher."""
    return FOLDER / "base"


def specialized_folder() -> Path:
    """The LoRA of that pipeline that is better on text and styles."""
    return FOLDER / "specialized"


def _score(case: Case, image_HW3: np.ndarray) -> FittedScore:
    from flash_ray.miniature.judge import judge  # scipy takes a second

    found = judge(image_HW3.astype(np.float32).transpose(2, 0, 1) / 255, case.target)
    return FittedScore(
        score=found.score,
        measures={"compliance": found.compliance, "quality": found.quality},
        details={"cap": found.cap, "attributes": found.attributes},
        fitted=found.fitted,
    )

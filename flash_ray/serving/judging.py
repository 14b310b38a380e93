"""The judges of evaluations: the exact one, OCR, and VLMs that the server's settings name."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore, Judge, judge_result
from flash_ray.evaluation.judges.ocr import OcrJudge, validate_missing
from flash_ray.evaluation.judges.vlm import VlmJudge
from flash_ray.evaluation.scores import judge_bench
from flash_ray.miniature.benchmark import Case
from flash_ray.serving.evaluations import Asked
from flash_ray.serving.http import ApiError
from flash_ray.serving.settings import Serving
from flash_ray.storage.s3 import Store

# From cases and uint8 pictures (B, H, W, 3) to the shape of `BenchScore.to_json`.
Scoring = Callable[[Sequence[Case], np.ndarray], dict[str, Any]]


def judges_of(settings: Serving) -> list[str]:
    """The names of the judges that the server has: exact, ocr if it is installed, its VLMs."""
    try:
        validate_missing()
    except UserError:
        return ["exact", *settings.judges]
    return ["exact", "ocr", *settings.judges]


def validate_judge(name: str, settings: Serving) -> None:
    """Raises ApiError if the server has no judge of that name."""
    known = judges_of(settings)
    if name not in known:
        problem = "ocr is not installed on this server" if name == "ocr" else repr(name)
        raise ApiError(400, f"judge: {problem}; allowed: {', '.join(known)}.", "judge")


def vlm_of(judge: str, settings: Serving) -> dict[str, Any] | None:
    """What decides a VLM's answers, as plain data; None if the judge is none."""
    vlm = settings.judges.get(judge)
    return vlm and {"model": vlm.model, "parameters": vlm.parameters}


def scoring(asked: Asked, store: Store, settings: Serving) -> Scoring:
    """How the judge that was asked for scores; VLMs keep their answers in `store`.

    Raises:
        UserError: the judge cannot be used.
    """
    if asked.judge == "exact":
        # In this process: the cluster's cores belong to the replicas.
        return lambda cases, pictures_BHW3: judge_bench(
            cases, pictures_BHW3, parallel=False
        ).to_json()
    judge = _other_judge(asked, store, settings)
    return lambda cases, pictures_BHW3: opinions_json(cases, judge.judge(cases, pictures_BHW3))


def opinions_json(cases: Sequence[Case], opinions: Sequence[CaseScore]) -> dict[str, Any]:
    """Opinions in the shape of `BenchScore.to_json`: what only the exact judge measures is None.

    `counted` is the number of cases with a score; answers have `failure` and `details` too.
    """
    unmeasured = {"compliance": None, "quality": None}
    by_category: dict[str, list[float | None]] = defaultdict(list)
    for case, opinion in zip(cases, opinions, strict=True):
        by_category[case.category].append(opinion.score)
    whole = judge_result(cases, opinions)
    return {
        "score": whole.score,
        "interval": whole.interval,
        "counted": len(whole.scores),
        **unmeasured,
        "categories": {
            name: {**_category(scores), **unmeasured, "diversity": None, "diversity_gap": None}
            for name, scores in by_category.items()
        },
        "verdicts": {
            name: {**opinion.model_dump(mode="json"), **unmeasured, "cap": None, "attributes": None}
            for name, opinion in whole.opinions.items()
        },
    }


def _category(scores: Sequence[float | None]) -> dict[str, Any]:
    counted = [score for score in scores if score is not None]
    mean = float(np.mean(counted)) if counted else None
    return {"cases": len(scores), "counted": len(counted), "score": mean}


def _other_judge(asked: Asked, store: Store, settings: Serving) -> Judge:
    if asked.judge == "ocr":
        return OcrJudge()
    if asked.vlm is None or asked.vlm != vlm_of(asked.judge, settings):
        raise UserError(
            f"judge: the server's settings do not name {asked.judge!r} any more, or another model; "
            "ask again"
        )
    vlm = settings.judges[asked.judge]
    vlm.key()  # without one nothing needs to be drawn
    return VlmJudge(vlm, store)

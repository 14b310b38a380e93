"""A demo's report over answers that are noise, with scores that were not judged."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import Answers, Comparison, differences, gap_closed
from flash_ray.evaluation.judges.base import CaseScore, CategoryScore, JudgeResult
from flash_ray.evaluation.report import write_report
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.schema import Task
from flash_ray.trainer.metrics import UpdateMetrics
from tests.helpers.metrics import update_metrics

MODELS = ("teacher", "untrained", "student")
BENCHMARK = MiniatureBenchmark()
FAULTS = {
    "t2i": {"sky": 0.0, "ground": 1.0, "no_other_objects": 0.5},
    "edit": {"changed.left_colour": 0.0, "kept.wears": 0.0, "kept.ground": 1.0},
}


def noise_comparisons(per_category: int = 2) -> dict[Task, Comparison]:
    """Comparisons of the miniature's tasks; every answer is noise."""
    rng = np.random.default_rng(0)
    return {
        task: _comparison(task, BENCHMARK.cases(task, per_category), rng)
        for task in BENCHMARK.categories
    }


def _comparison(task: Task, cases: Sequence[Case], rng: np.random.Generator) -> Comparison:
    answers = {}
    measures = {"compliance": 0.5, "quality": 0.25}
    for number, name in enumerate(MODELS):
        images = list(rng.integers(0, 256, (len(cases), 64, 64, 3)).astype(np.uint8))
        score = CaseScore(
            score=3.0 + number,
            measures=measures,
            details={"attributes": FAULTS[task], "cap": None},
        )
        shown = {"tint": {"distance": 0.2, "floor": 0.1}}
        if name != "student":  # its pictures do not show every factor
            shown["horizon"] = {"distance": 0.3, "floor": 0.1}
        category = CategoryScore(
            cases=2,
            counted=2,
            score=3.0 + number,
            measures=measures,
            details={"diversity": shown, "diversity_gap": 0.1},
        )
        result = JudgeResult(
            judge="exact",
            scale="1 to 5",
            score=3.0 + number,
            interval=(2.9, 3.1),
            measures=measures,
            categories={case.category: category for case in cases},
            cases={case.id: score for case in cases},
        )
        sampler = SamplerConfig(
            (1.0,) * (4 if number else 40), 1.0 if number else 2.5, scheduled=not number
        )
        answers[name] = Answers(sampler, images, result)
    return Comparison(task, cases, answers)


def result_of(comparisons: Mapping[Task, Comparison], recipe: Recipe) -> dict[str, Any]:
    """What `workflows.demo` puts into result.json."""
    return {
        "models": {
            name: {task: c.answers[name].to_json() for task, c in comparisons.items()}
            for name in MODELS
        },
        "differences": {
            other: {task: differences(c, "student", other) for task, c in comparisons.items()}
            for other in MODELS[:2]
        },
        "gap_closed": {task: gap_closed(c) for task, c in comparisons.items()},
        "overlap": ["signs, text to image: 1 of 3 prompts are training prompts too"],
        "benchmark": "miniature",
        "judge": "exact",
        "scale": "1 to 5",
        "cases_per_category": 2,
        "seconds": {"train": 1.0, "evaluate": 2.0, "total": 3.0},
        "published": "s3://flash-ray/students/miniature",
        "recipe_digest": recipe.digest,
    }


def metrics(iteration: int, **changes: Any) -> UpdateMetrics:
    """What a run has measured in one iteration."""
    fields = update_metrics(iteration, student_loss=1.0, fake_score_loss=1 / iteration)
    return replace(fields, **{"diagnostics": {"dmd_gradient": 1.0}, "tasks": {}, **changes})


def write_page(comparisons: Mapping[Task, Comparison], file: Path) -> str:
    """Writes the report and returns it."""
    recipe = load_recipe("miniature")
    history = [metrics(1), metrics(2, scores={"t2i": 3.0, "edit": 2.0}), metrics(3)]
    write_report(file, recipe, result_of(comparisons, recipe), comparisons, history)
    return file.read_text()

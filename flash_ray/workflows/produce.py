"""From a recipe to a published student: distill, score, publish once."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.compare import Comparison, compare
from flash_ray.evaluation.sample import Way, encode_benchmark, load_base, student
from flash_ray.evaluation.training_eval import CASES, TrainingEval
from flash_ray.miniature.benchmark import BENCHES, cases
from flash_ray.models.base import Model
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import PublishedScores, publish_student
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.driver import Callbacks, distill

SCORED = 4  # cases of each category that a student is scored on before it is published


@dataclass(frozen=True)
class Published:
    """A published student and the run that made it.

    Args:
        url: s3:// address.
        history: the run's lines, as `distill.run.DistillResult.history`.
    """

    name: str
    url: str
    history: list[dict[str, Any]]


def distil_and_publish(
    recipe: Recipe, store: Store, name: str, resume: bool, steps: Steps
) -> Published:
    """Runs the recipe on the Ray that is run_session and publishes the averaged student as `name`.

    Raises what `distill.run.distill` and `publish_student` raise.
    """
    backbone = load_base(recipe)
    bench = None
    if recipe.evaluation.every:
        bench = TrainingEval(encode_benchmark(recipe, backbone, CASES), recipe.student.rungs)
    last = recipe.training.iterations

    def watch(line: dict[str, Any]) -> None:
        steps.show("distill", line["update"], last, _in_words(line))

    steps.say(f"distill {name}: encode what is not cached, start workers and teachers")
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        made = distill(
            recipe, store, name, Path(folder) / "student", resume, Callbacks(bench, watch)
        )
        transformer = backbone.load_transformer(made.folder)
        ways = {"student": [student(transformer, recipe.student.rungs)]}
        comparisons = compare_all(backbone, ways, SCORED, steps)
        scores = PublishedScores(
            benchmark="miniature",
            digest=load_benchmark("miniature").digest,
            judge="exact",
            cases_per_category=SCORED,
            tasks={
                task: comparison.answers["student"].score.score
                for task, comparison in comparisons.items()
            },
        )
        url = publish_student(store, name, made.folder, recipe, scores)
    steps.say(f"published {url}")
    return Published(name, url, made.history)


def compare_all(
    backbone: Model,
    models: dict[str, list[Way]],
    per_category: int,
    steps: Steps,
    benches: Sequence[str] = tuple(BENCHES),
) -> dict[str, Comparison]:
    """A comparison for each bench, over its first `per_category` cases of each category."""
    return {
        bench: compare(backbone, models, cases(bench, per_category), steps.show)
        for bench in benches
    }


def _in_words(line: dict[str, Any]) -> str:
    measures = line["measures"]
    names = {"dmd_gradient": "gradient", "fake_loss": "fake loss", "images_per_second": "images/s"}
    words = [f"{title} {measures[name]:.3g}" for name, title in names.items()]
    words += [f"bench {bench} {score:.2f}" for bench, score in line.get("bench", {}).items()]
    return ", ".join(words)

"""From a recipe to a published student: distil, score, publish once."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_ray.backbones.base import Backbone
from flash_ray.checkpoints.publish import publish_student
from flash_ray.checkpoints.storage import Store
from flash_ray.console import Steps
from flash_ray.distill.run import Hooks, distill
from flash_ray.evaluation.contest import Contest, hold_contest
from flash_ray.evaluation.questions import encode_questions
from flash_ray.evaluation.small_bench import CASES, SmallBench
from flash_ray.evaluation.ways import Way, load_base, student
from flash_ray.miniature.bench import BENCHES, cases
from flash_ray.recipe import Recipe

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
    """Runs the recipe on the Ray that is connected and publishes the averaged student as `name`.

    Raises what `distill.run.distill` and `publish_student` raise.
    """
    backbone = load_base(recipe)
    bench = None
    if recipe.runtime.bench_every:
        bench = SmallBench(encode_questions(recipe, backbone, CASES), recipe.student.rungs)
    last = recipe.optimisation.updates

    def watch(line: dict[str, Any]) -> None:
        steps.show("distil", line["update"], last, _in_words(line))

    steps.say(f"distil {name}: encode what is not cached, start workers and teachers")
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        made = distill(recipe, store, name, Path(folder) / "student", resume, Hooks(bench, watch))
        transformer = backbone.load_transformer(made.folder)
        ways = {"student": [student(transformer, recipe.student.rungs)]}
        contests = hold_contests(backbone, ways, SCORED, steps)
        meta = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_digest": recipe.digest,
            "base": recipe.base,
            "sigmas": recipe.student.rungs,
            "scores": {
                "cases_per_category": SCORED,
                **{
                    bench: contest.answers["student"].score.score
                    for bench, contest in contests.items()
                },
            },
        }
        url = publish_student(store, name, made.folder, meta)
    steps.say(f"published {url}")
    return Published(name, url, made.history)


def hold_contests(
    backbone: Backbone,
    contenders: dict[str, list[Way]],
    per_category: int,
    steps: Steps,
    benches: Sequence[str] = tuple(BENCHES),
) -> dict[str, Contest]:
    """A contest for each bench, over its first `per_category` cases of each category."""
    return {
        bench: hold_contest(backbone, contenders, cases(bench, per_category), steps.show)
        for bench in benches
    }


def _in_words(line: dict[str, Any]) -> str:
    measures = line["measures"]
    names = {"dmd_gradient": "gradient", "fake_loss": "fake loss", "images_per_second": "images/s"}
    words = [f"{title} {measures[name]:.3g}" for name, title in names.items()]
    words += [f"bench {bench} {score:.2f}" for bench, score in line.get("bench", {}).items()]
    return ", ".join(words)

"""`flash-ray demo`: distills a preset on this machine and shows the student beside its teacher."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark
from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.judges.choose import Scoring, load_scoring
from flash_ray.recipe import Recipe
from flash_ray.storage.embedded import held_store
from flash_ray.storage.outputs import new_folder, validate_folder
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student, student_home
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.distill import (
    Published,
    distill_and_publish,
    open_run_store,
    scoring_with_inputs,
    validate_name,
    validate_recipe,
)

if TYPE_CHECKING:
    from flash_ray.evaluation.compare import Comparison
    from flash_ray.recipe.schema import Task

DEMO_RECIPE = "miniature"
DEMO_FILES = ("store", "student", "result.json", "report.html", "grid.png")


def demo(recipe: Recipe, out: Path, per_category: int, force: bool, steps: Steps) -> dict[str, Any]:
    """Distills, publishes, compares; leaves `DEMO_FILES` in `out` once all of them are there.

    Args:
        recipe: one with a benchmark.
        per_category: cases of each category that teacher, untrained base and student answer.
        force: whether the new demo takes the place of an earlier one.

    Returns:
        what result.json holds: see `_result`; and `overlap`, lines on which of the benchmark's
        prompts are trained on.

    Raises:
        UserError: bad input, found before anything is started.
    """
    started = time.monotonic()
    validate_recipe(recipe)
    scoring = load_scoring(recipe)
    if scoring is None or scoring.judge is None:
        raise UserError(
            f"evaluation.{'judge' if scoring else 'benchmark'}: null; allowed in a demo, which "
            "compares models: a benchmark and a judge; set it"
        )
    validate_folder("--out", out)
    _validate_earlier(out, force)
    with _held(out), new_folder(out) as folder:
        with open_run_store(recipe, str(folder / "store")) as store:
            validate_name(recipe, store, recipe.name, recipe.name, resume=False)
            return _run(recipe, scoring, scoring.judge, store, folder, per_category, steps, started)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keeps others from an earlier demo's store, which is to go; UserError if it is in use."""
    if not (out / "store").is_dir():
        yield
        return
    with held_store(out / "store"):
        yield


def _run(
    recipe: Recipe,
    scoring: Scoring,
    judge: Judge,
    store: Store,
    out: Path,
    per_category: int,
    steps: Steps,
    started: float,
) -> dict[str, Any]:
    from flash_ray.cluster.resources import cluster_needs
    from flash_ray.cluster.session import ray_session
    from flash_ray.data.select import plan_cases
    from flash_ray.evaluation.overlap import find_overlap
    from flash_ray.evaluation.report import save_grid, write_report
    from flash_ray.teachers.protocol import teacher_actors

    with ray_session(cluster_needs(recipe, teacher_actors(recipe))):
        name = recipe.name
        scoring = scoring_with_inputs(scoring, recipe, store, per_category, steps)
        published = distill_and_publish(recipe, scoring, store, name, name, False, steps)
        trained = time.monotonic()
        load_student(store, name, out / "student")
        comparisons = _compare(recipe, scoring.benchmark, judge, store, per_category, steps)
        overlaps = find_overlap(scoring.benchmark, plan_cases(recipe, store))
    ended = time.monotonic()
    seconds = {"train": trained - started, "evaluate": ended - trained, "total": ended - started}
    result = _result(
        recipe, scoring.benchmark, judge, comparisons, per_category, published, seconds
    )
    result["overlap"] = [str(overlap) for overlap in overlaps]
    save_grid(list(comparisons.values()), out / "grid.png")
    write_report(out / "report.html", recipe, result, comparisons, published.history)
    (out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result


def _compare(
    recipe: Recipe,
    benchmark: Benchmark,
    judge: Judge,
    store: Store,
    per_category: int,
    steps: Steps,
) -> "dict[Task, Comparison]":
    """Compares the student, as published, with teacher and untrained base."""
    from flash_ray.evaluation import sample
    from flash_ray.evaluation.compare import compare, draw_tasks
    from flash_ray.evaluation.drawing import Weights, drawn_by_actors

    student = read_student(store, recipe.name)
    samplers = {
        "teacher": [sample.teacher_sampler(recipe)],
        "untrained": sample.untrained_samplers(recipe),
        "student": [sample.student_sampler(student.sigmas)],
    }
    weights = {
        "teacher": Weights(),
        "untrained": Weights(),
        "student": Weights(student.folder, student_home(student), student.files),
    }
    with drawn_by_actors(recipe, store, weights) as draw:
        drawn = draw_tasks(draw, samplers, benchmark, per_category, steps.show)
    return {task: compare(of, judge, recipe) for task, of in drawn.items()}


def _result(
    recipe: Recipe,
    benchmark: Benchmark,
    judge: Judge,
    comparisons: "Mapping[Task, Comparison]",
    per_category: int,
    published: Published,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What result.json holds.

    `models`: by name (teacher, untrained, student) and task, the `sampler` in words, its `nfe`
    (evaluations a picture) and the fields of `JudgeResult`: score, interval, measures, categories,
    cases. `differences`: of the student to teacher and untrained, by task, the mean `difference`
    in score case by case with its `interval`; null if no case has both. `gap_closed`: by task, the
    `share` of the way from the untrained base to the teacher that the student is, with its
    `interval`; null where the teacher is not better beyond chance.
    `seconds`: train, evaluate, total. And what was run: recipe_digest, benchmark, judge,
    cases_per_category, and the `published` student's address.
    """
    from flash_ray.evaluation.compare import differences, gap_closed

    names = list(next(iter(comparisons.values())).answers)
    return {
        "models": {
            name: {task: c.answers[name].to_json() for task, c in comparisons.items()}
            for name in names
        },
        "differences": {
            other: {task: differences(c, "student", other) for task, c in comparisons.items()}
            for other in names
            if other != "student"
        },
        "gap_closed": {task: gap_closed(c) for task, c in comparisons.items()},
        "seconds": seconds,
        "recipe_digest": recipe.digest,
        "benchmark": benchmark.name,
        "judge": judge.name,
        "scale": judge.scale,
        "cases_per_category": per_category,
        "published": published.url,
    }


def _validate_earlier(out: Path, force: bool) -> None:
    """Raises UserError for a folder that holds what no demo wrote, or, without force, a demo."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if not names:
        return
    allowed = "allowed: a new or empty folder"
    if not (names <= set(DEMO_FILES) and (out / "store/credentials.json").is_file()):
        foreign = sorted(names - set(DEMO_FILES)) or sorted(names)
        raise UserError(
            f"--out: {out} holds {foreign[0]}, which no demo wrote; {allowed}; choose another --out"
        )
    if not force:
        raise UserError(
            f"--out: {out} holds an earlier demo; {allowed}; choose another --out, or replace it "
            "with --force"
        )

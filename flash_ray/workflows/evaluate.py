"""`flash-ray evaluate`: scores one model on one task of a benchmark; checks first."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, load_benchmark
from flash_ray.evaluation.judges.load import load_judge, open_judges, read_judges, validate_judge
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import Recipe, parse_recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import verify
from flash_ray.storage.open import open_store
from flash_ray.storage.students import MANIFEST, Student, load_student
from flash_ray.telemetry.progress import Steps

if TYPE_CHECKING:
    from flash_ray.evaluation.compare import Sampled
    from flash_ray.evaluation.judges.base import Judge
    from flash_ray.models.base import Model

BASES = ("teacher", "untrained")


def evaluate(
    model: str,
    recipe: Recipe | None,
    place: str | None,
    task: Task,
    benchmark: str | None,
    per_category: int,
    judges: Sequence[str],
    steps: Steps,
) -> dict[str, Any]:
    """Scores a model on one task of a benchmark.

    Args:
        model: `teacher` or `untrained` (the recipe's base), a student's name in the store, or, with
            a / in it, the folder of a student (model.json).
        recipe: of teacher and untrained; a student brings its own.
        place: the store, as `open_store` takes it.
        benchmark: None: the recipe's.
        judges: names of registered judges and `vlm:FILE.yaml`; the first one says which sampler is
            best where the model has several. None given: the recipe's.

    Returns:
        model, benchmark, task, cases_per_category, recipe_digest; the `sampler` in words and its
        `nfe`; `judges`: by name, the fields of `JudgeResult`.

    Raises:
        UserError: bad input, found before anything is started; a judge or a base that cannot be
            used.
    """
    if model in BASES and recipe is None:
        raise UserError(
            f"--recipe: missing with {model}; allowed: a preset's name or a YAML file, whose base "
            "and guidance are evaluated; add --recipe RECIPE"
        )
    choices = read_judges(judges)
    with _student_folder(model, place) as folder:
        student = read_manifest(folder) if folder else None
        own = parse_recipe(student.recipe) if student else recipe
        assert own is not None, "only teacher and untrained have no folder, and they need a recipe"
        suite = _load_benchmark(benchmark, own, task)
        cases = suite.cases(task, per_category)
        choices = choices or [load_judge(own.evaluation.judge, "evaluation.judge")]
        for choice in choices:
            validate_judge(choice, cases, suite.name, "--judge")
        resolve_base(own.base)
        with open_judges(choices, place) as opened:
            scored = _evaluate(model, folder, student, own, cases, opened, steps)
    return {
        "model": model,
        "benchmark": suite.name,
        "task": task,
        "cases_per_category": per_category,
        "recipe_digest": own.digest,
        **scored,
    }


def read_manifest(folder: Path) -> Student:
    """Reads the manifest of a downloaded student and verifies its files.

    Raises:
        UserError: there is none, or a file is not as published.
    """
    try:
        student = Student.model_validate_json((folder / MANIFEST).read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is corrupt"
        raise UserError(
            f"MODEL: {folder}/{MANIFEST} {reason}; allowed: the folder of a downloaded student, "
            f"a published student's name, {' or '.join(BASES)}; see `flash-ray models`"
        ) from error
    verify(folder, student.files, str(folder))
    return student


def _load_benchmark(name: str | None, recipe: Recipe, task: Task) -> Benchmark:
    """The benchmark that was named, or else the recipe's.

    Raises:
        UserError: neither names one, or it has no such task.
    """
    if name is None and recipe.evaluation.benchmark is None:
        raise UserError(
            f"--benchmark: missing, and recipe {recipe.name} names none; allowed: the name of a "
            "benchmark; add --benchmark NAME"
        )
    field = "evaluation.benchmark" if name is None else "--benchmark"
    benchmark = load_benchmark(name or str(recipe.evaluation.benchmark), field)
    if task not in benchmark.categories:
        raise UserError(
            f"--task: {task} is no task of benchmark {benchmark.name!r}; allowed: "
            f"{', '.join(benchmark.categories)}; choose one"
        )
    return benchmark


@contextmanager
def _student_folder(model: str, place: str | None) -> Iterator[Path | None]:
    """The student's folder, downloaded for the block if need be; None for the base."""
    if model in BASES:
        yield None
    elif "/" in model:
        yield Path(model)
    else:
        with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
            with open_store(place) as store:
                folder = load_student(store, model, Path(name) / "student")
            yield folder


def _evaluate(
    model: str,
    folder: Path | None,
    student: Student | None,
    recipe: Recipe,
    cases: Sequence[Case],
    judges: "Sequence[Judge]",
    steps: Steps,
) -> dict[str, Any]:
    """The sampler that was best by the first judge, and what each judge says of its pictures."""
    from flash_ray.cluster.resources import cluster_needs
    from flash_ray.cluster.session import ray_session
    from flash_ray.evaluation.compare import compare
    from flash_ray.evaluation.sample import load_base
    from flash_ray.evaluation.scores import score_answers

    first, *others = judges
    with ray_session(cluster_needs(recipe, teachers=0)):
        base = load_base(recipe)
        sampled = _sampled(model, folder, student, base, recipe)
        answers = compare(base, {model: sampled}, cases, first, steps.show).answers[model]
        results = {first.name: answers.result}
        for judge in others:
            steps.say(f"judge by {judge.name}")
            results[judge.name] = score_answers(judge, cases, answers.images)
    return {
        "sampler": answers.sampler.title,
        "nfe": answers.sampler.nfe,
        "judges": {name: result.model_dump(mode="json") for name, result in results.items()},
    }


def _sampled(
    model: str, folder: Path | None, student: Student | None, base: "Model", recipe: Recipe
) -> "Sampled":
    from flash_ray.evaluation import sample
    from flash_ray.evaluation.compare import Sampled

    if folder and student:
        sampler = sample.student_sampler(student.sigmas)
        return Sampled(base.load_transformer(folder), [sampler])
    samplers = {"teacher": sample.teacher_samplers, "untrained": sample.untrained_samplers}
    return Sampled(base.transformer, samplers[model](recipe.teacher_defaults))

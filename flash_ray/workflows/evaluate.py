"""`flash-ray evaluate` and `models`: scores a model on a task of a benchmark, lists students."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray.cluster.session import validate_gpu
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import (
    OPTION,
    Benchmark,
    Case,
    load_benchmark,
    named_benchmark,
)
from flash_ray.evaluation.judges.base import load_judge, open_judges, read_judges, validate_judge
from flash_ray.models.loading import validate_base
from flash_ray.recipe import Recipe, parse_recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import open_store
from flash_ray.storage.manifest import verify
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.storage.students import (
    MANIFEST,
    Student,
    list_students,
    load_student,
    read_aliases,
)
from flash_ray.telemetry.progress import Steps

if TYPE_CHECKING:
    from flash_ray.evaluation.compare import Sampled
    from flash_ray.evaluation.judges.base import Judge
    from flash_ray.models.base import Model

BASES = ("teacher", "untrained")


def evaluate(
    model: str,
    recipe: Recipe | None,
    store_address: str | None,
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
        store_address: the store, as `open_store` takes it.
        benchmark: a registered one's name, a file of cases, or the YAML file of a benchmark; None:
            the recipe's.
        judges: names of registered judges and `vlm:FILE.yaml`; the first one says which sampler is
            best where the model has several. None given: the recipe's.

    Returns:
        model, benchmark, benchmark_digest, task, cases_per_category, recipe_digest; the `sampler`
        in words and its `nfe`; `judges`: by name, the fields of `JudgeResult`.

    Raises:
        UserError: bad input, found before anything is started; a judge or a base that cannot be
            used.
    """
    choices = read_judges(judges)
    with _open_model(model, recipe, store_address) as opened:
        chosen = _load_benchmark(benchmark, opened.recipe, task)
        cases = chosen.cases(task, per_category)
        choices = choices or [_own_judge(opened.recipe)]
        for choice in choices:
            validate_judge(choice, cases, chosen.name, "--judge")
        validate_base(opened.recipe.base)
        validate_gpu(opened.recipe)
        with open_judges(choices, store_address) as ready:
            scored = _evaluate(opened, cases, ready, steps)
    return {
        "model": model,
        "benchmark": chosen.name,
        "benchmark_digest": chosen.digest,
        "task": task,
        "cases_per_category": per_category,
        "recipe_digest": opened.recipe.digest,
        **scored,
    }


def published_students(store_address: str | None) -> tuple[list[Student], list[CorruptRecord]]:
    """Lists the students, by name, and the manifests and aliases that are corrupt.

    Args:
        store_address: the store, as `open_store` takes it.

    Raises:
        UserError: the store cannot be used.
    """
    with open_store(store_address) as store:
        students, faults = list_students(store)
        return students, faults + read_aliases(store)[1]


def read_manifest(folder: Path) -> Student:
    """Reads the manifest of a downloaded student and verifies its files.

    Raises:
        UserError: there is none, or a file is not as published.
    """
    allowed = (
        "allowed: the folder of a downloaded student, a published student's name, "
        f"{' or '.join(BASES)}; see `flash-ray models`"
    )
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise UserError(f"MODEL: {folder}/{MANIFEST} cannot be read; {allowed}") from error
    student = parse_record(Student, data, f"MODEL: {folder}/{MANIFEST}", allowed)
    verify(folder, student.files, str(folder))
    return student


def _load_benchmark(word: str | None, recipe: Recipe, task: Task) -> Benchmark:
    """The benchmark that was named, or else the recipe's.

    Raises:
        UserError: neither names one, or it has no such task.
    """
    choice = recipe.evaluation.benchmark if word is None else named_benchmark(word)
    if choice is None:
        raise UserError(
            f"--benchmark: missing, and recipe {recipe.name} names none; allowed: the name of a "
            "benchmark, or a file of cases; add --benchmark NAME"
        )
    field = "evaluation.benchmark" if word is None else OPTION
    benchmark = load_benchmark(choice, recipe, field)
    if task not in benchmark.categories:
        raise UserError(
            f"--task: {task} is no task of benchmark {benchmark.name!r}; allowed: "
            f"{', '.join(benchmark.categories)}; choose one"
        )
    return benchmark


def _own_judge(recipe: Recipe) -> "Judge":
    if recipe.evaluation.judge is None:
        raise UserError(
            f"--judge: missing, and recipe {recipe.name} names none; allowed: ocr, vlm:FILE.yaml "
            "or another that can judge the cases; add --judge"
        )
    return load_judge(recipe.evaluation.judge, "evaluation.judge")


@dataclass(frozen=True)
class _Model:
    """The base of a recipe, under one of the names in `BASES`, or a student with its files."""

    name: str
    recipe: Recipe
    folder: Path | None = None
    sigmas: tuple[float, ...] = ()  # of a student

    def sampled(self, base: "Model") -> "Sampled":
        """The transformer and its samplers."""
        from flash_ray.evaluation import sample
        from flash_ray.evaluation.compare import Sampled

        if self.folder:
            transformer = base.load_transformer(self.folder)
            return Sampled(transformer, [sample.student_sampler(self.sigmas)])
        if self.name == "teacher":
            return Sampled(base.transformer, [sample.teacher_sampler(self.recipe)])
        return Sampled(base.transformer, sample.untrained_samplers(self.recipe))


@contextmanager
def _open_model(name: str, recipe: Recipe | None, store_address: str | None) -> Iterator[_Model]:
    """Finds the model; a student in a store is downloaded for the block."""
    if name in BASES:
        if recipe is None:
            raise UserError(
                f"--recipe: missing with {name}; allowed: a preset's name or a YAML file, whose "
                "base and guidance are evaluated; add --recipe RECIPE"
            )
        yield _Model(name, recipe)
    elif "/" in name:
        yield _student(name, Path(name))
    else:
        with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
            with open_store(store_address) as store:
                downloaded = load_student(store, name, Path(folder) / "student")
            yield _student(name, downloaded)


def _student(name: str, folder: Path) -> _Model:
    manifest = read_manifest(folder)
    return _Model(name, parse_recipe(manifest.recipe), folder, tuple(manifest.sigmas))


def _evaluate(
    model: _Model, cases: Sequence[Case], judges: "Sequence[Judge]", steps: Steps
) -> dict[str, Any]:
    """The sampler that was best by the first judge, and what each judge says of its pictures."""
    from flash_ray.cluster.resources import cluster_needs
    from flash_ray.cluster.session import ray_session
    from flash_ray.evaluation.compare import compare, score_answers
    from flash_ray.evaluation.sample import load_base

    first, *others = judges
    with ray_session(cluster_needs(model.recipe, teachers=0)):
        base = load_base(model.recipe)
        models = {model.name: model.sampled(base)}
        answers = compare(base, models, cases, first, steps.show).answers[model.name]
        results = {first.name: answers.result}
        for judge in others:
            steps.say(f"judge by {judge.name}")
            results[judge.name] = score_answers(judge, cases, answers.images)
    return {
        "sampler": answers.sampler.title,
        "nfe": answers.sampler.nfe,
        "judges": {name: result.model_dump(mode="json") for name, result in results.items()},
    }

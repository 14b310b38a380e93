"""`flash-ray evaluate` and `models`: scores a model on a task of a benchmark, lists students."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flash_ray.cluster.session import validate_gpu, validate_shared
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import (
    OPTION,
    Benchmark,
    Case,
    load_benchmark,
    named_benchmark,
    task_digest,
)
from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.judges.choose import (
    JudgeChoice,
    load_judge,
    open_judge,
    read_judges,
    references,
    validate_judge,
)
from flash_ray.models.loading import validate_base, with_pinned_base
from flash_ray.recipe import Recipe, parse_recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import open_store
from flash_ray.storage.manifest import verify
from flash_ray.storage.records import parse_record
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import (
    MANIFEST,
    Student,
    read_student,
    student_home,
)
from flash_ray.telemetry.progress import Steps

if TYPE_CHECKING:
    from flash_ray.evaluation.compare import Drawn
    from flash_ray.evaluation.drawing import Weights
    from flash_ray.models.sampling import SamplerConfig

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
    validate_shared(store_address)
    if (known := _known(model, recipe)) is not None:
        plan = _plan(known, benchmark, task, per_category, choices)
    with open_store(store_address, create=known is not None) as store:
        if known is None:
            known = _published(store, model)
            plan = _plan(known, benchmark, task, per_category, choices)
        known = replace(known, recipe=with_pinned_base(known.recipe))
        scored = _evaluate(known, plan, store, steps)
    return {
        "model": model,
        "benchmark": plan.benchmark.name,
        "benchmark_digest": task_digest(plan.benchmark, task),
        "task": task,
        "cases_per_category": per_category,
        "recipe_digest": known.recipe.digest,
        **scored,
    }


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


def _own_judge(recipe: Recipe) -> Judge:
    if recipe.evaluation.judge is None:
        raise UserError(
            f"--judge: missing, and recipe {recipe.name} names none; allowed: ocr, vlm:FILE.yaml "
            "or another that can judge the cases; add --judge"
        )
    return load_judge(recipe.evaluation.judge, "evaluation.judge")


@dataclass(frozen=True)
class _Model:
    """The base of a recipe, under one of the names in `BASES`, or a student.

    Args:
        student: None for a base.
        folder: of a student that is not in the store.
    """

    name: str
    recipe: Recipe
    student: Student | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class _Plan:
    """What is asked of a model, and who judges the answers."""

    benchmark: Benchmark
    task: Task
    per_category: int
    choices: Sequence[JudgeChoice]

    @property
    def cases(self) -> list[Case]:
        """What is asked."""
        return self.benchmark.cases(self.task, self.per_category)


def _known(name: str, recipe: Recipe | None) -> _Model | None:
    """A model that needs no store to be known; None for a published student."""
    if name in BASES:
        if recipe is None:
            raise UserError(
                f"--recipe: missing with {name}; allowed: a preset's name or a YAML file, whose "
                "base and guidance are evaluated; add --recipe RECIPE"
            )
        return _Model(name, recipe)
    if "/" not in name:
        return None
    student = read_manifest(Path(name))
    return _Model(name, parse_recipe(student.recipe), student, Path(name))


def _published(store: Store, name: str) -> _Model:
    student = read_student(store, name)
    return _Model(name, parse_recipe(student.recipe), student)


def _plan(
    model: _Model,
    benchmark: str | None,
    task: Task,
    per_category: int,
    choices: Sequence[JudgeChoice],
) -> _Plan:
    """Raises UserError for what can be known before anything is drawn."""
    chosen = _load_benchmark(benchmark, model.recipe, task)
    plan = _Plan(chosen, task, per_category, choices or [_own_judge(model.recipe)])
    for choice in plan.choices:
        validate_judge(choice, plan.cases, chosen.name, "--judge")
    validate_base(model.recipe.base)
    validate_gpu(model.recipe)
    return plan


def _evaluate(model: _Model, plan: _Plan, store: Store, steps: Steps) -> dict[str, Any]:
    """The sampler that was best by the first judge, and what each judge says of its pictures."""
    from flash_ray.cluster.resources import cluster_needs
    from flash_ray.cluster.session import ray_session
    from flash_ray.evaluation.compare import compare, score_answers

    others = [_reference(store, name, model) for name in references(plan.choices)]
    with ray_session(cluster_needs(model.recipe, teachers=0)):
        plan = _with_inputs(model, plan, store, steps)
        drawn = _drawn(model, plan, store, steps)
        images = {
            other.name: _by_case(_drawn(other, plan, store, steps), other) for other in others
        }
        first, *more = [open_judge(choice, store, images) for choice in plan.choices]
        answers = compare(drawn, first, model.recipe).answers[model.name]
        results = {first.name: answers.result}
        for judge in more:
            steps.say(f"judge by {judge.name}")
            results[judge.name] = score_answers(judge, drawn.cases, answers.images, model.recipe)
    return {
        "sampler": answers.sampler.title,
        "nfe": answers.sampler.nfe,
        "judges": {name: result.model_dump(mode="json") for name, result in results.items()},
    }


def _reference(store: Store, name: str, model: _Model) -> _Model:
    """The model that others are compared with: the teacher of the same recipe, or a student."""
    return _Model(name, model.recipe) if name == "teacher" else _published(store, name)


def _with_inputs(model: _Model, plan: _Plan, store: Store, steps: Steps) -> _Plan:
    """The plan with its pictures to edit where the model's base draws them."""
    from flash_ray.evaluation.inputs import with_inputs

    if plan.task != "edit":
        return plan
    found = with_inputs(plan.benchmark, model.recipe, store, plan.per_category, steps)
    return replace(plan, benchmark=found)


def _drawn(model: _Model, plan: _Plan, store: Store, steps: Steps) -> "Drawn":
    from flash_ray.evaluation.compare import draw_cases
    from flash_ray.evaluation.drawing import drawn_by_actors

    samplers = {model.name: _samplers(model)}
    with (
        _weights(model, store) as weights,
        drawn_by_actors(model.recipe, store, {model.name: weights}) as draw,
    ):
        return draw_cases(draw, samplers, plan.cases, steps.show)


def _by_case(drawn: "Drawn", model: _Model) -> dict[str, np.ndarray]:
    """The pictures of a model with one sampler, by case id."""
    ((_, images_BHW3),) = drawn.attempts[model.name]
    return {case.id: image_HW3 for case, image_HW3 in zip(drawn.cases, images_BHW3, strict=True)}


def _samplers(model: _Model) -> "list[SamplerConfig]":
    from flash_ray.evaluation import sample

    if model.student:
        return [sample.student_sampler(model.student.sigmas)]
    if model.name == "teacher":
        return [sample.teacher_sampler(model.recipe)]
    return sample.untrained_samplers(model.recipe)


@contextmanager
def _weights(model: _Model, store: Store) -> "Iterator[Weights]":
    """Where nodes find the model's weights; a local student is in the store for the block."""
    from flash_ray.evaluation.drawing import Weights

    student = model.student
    if student is None:
        yield Weights()
    elif model.folder is None:
        yield Weights(student.folder, student_home(student), student.files)
    else:
        home = f"uploads/{student.folder}/"
        try:
            for path in student.files:
                store.put_file(model.folder / path, f"{home}{path}")
            yield Weights(student.folder, home, student.files)
        finally:
            store.delete_all(home)

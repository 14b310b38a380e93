"""`flash-ray distill`: from a recipe to a published student: distill, score, publish once.

Bad input is an error before torch and ray take their seconds, so the modules that need them are
imported where they are used.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flash_ray.cluster.session import in_cluster_job, validate_embedded_in_job, validate_gpu
from flash_ray.data.select import validate_data
from flash_ray.data.source import load_source
from flash_ray.errors import UserError
from flash_ray.evaluation.judges.choose import Scoring, load_judge, load_scoring, validate_for_base
from flash_ray.models.loading import validate_base, validate_quantizer
from flash_ray.models.lora_source import with_pins
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import open_store
from flash_ray.storage.manifest import record
from flash_ray.storage.s3 import Store, check_name
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import MANIFEST, content_digest, publish_student, put_samples
from flash_ray.telemetry.progress import Steps
from flash_ray.telemetry.trackers import FOLDER
from flash_ray.telemetry.tracking import validate_trackers
from flash_ray.trainer.claim import validate_claim
from flash_ray.workflows.memory import validate_memory

if TYPE_CHECKING:
    from flash_ray.evaluation.compare import TrainingEval
    from flash_ray.trainer.metrics import UpdateMetrics


@dataclass(frozen=True)
class Published:
    """A published student and the run that made it.

    Args:
        url: s3:// address.
        history: every iteration of the run, from the first.
    """

    name: str
    url: str
    history: "list[UpdateMetrics]"


def distill(
    recipe: Recipe, name: str, student: str, resume: bool, store_address: str | None, steps: Steps
) -> Published:
    """Distills and publishes, scored as `recipe.evaluation` says.

    Args:
        name: of the run.
        student: the name under which the student is published.
        store_address: the embedded store's folder, if that is used; None: the default one.

    Raises:
        UserError: bad input, found before anything is started.
        what `trainer.driver.distill` and `publish_student` raise.
    """
    validate_recipe(recipe)
    recipe = with_pins(recipe)
    scoring = load_scoring(recipe)
    check_name("--name", name)
    check_name("--publish", student)
    with open_run_store(recipe, store_address, create=not resume) as store:
        validate_name(recipe, store, name, student, resume)
        from flash_ray.cluster.resources import cluster_needs
        from flash_ray.cluster.session import ray_session
        from flash_ray.teachers.protocol import teacher_actors

        teachers = teacher_actors(recipe)
        with ray_session(cluster_needs(recipe, teachers)):
            validate_cluster(recipe, store, teachers)
            return distill_and_publish(recipe, scoring, store, name, student, resume, steps)


def distill_and_publish(
    recipe: Recipe,
    scoring: Scoring | None,
    store: Store,
    name: str,
    student: str,
    resume: bool,
    steps: Steps,
) -> Published:
    """Runs the recipe on the Ray of this session and publishes the averaged student.

    Args:
        scoring: what the student is scored on; None: it is not.
    """
    from flash_ray.trainer import driver

    if scoring:
        evaluation = recipe.evaluation
        edits = max(evaluation.published_cases, evaluation.cases.edit if evaluation.every else 0)
        scoring = scoring_with_inputs(scoring, recipe, store, edits, steps)
    scorer = StudentScorer(recipe, scoring, store, name) if scoring else None
    last = recipe.training.iterations

    def show(metrics: "UpdateMetrics") -> None:
        steps.show("distill", metrics.iteration, last, in_words(metrics))

    if recipe.tracking.tensorboard:
        steps.say(f"what is measured: tensorboard --logdir {FOLDER / name}")
    steps.say(f"distill {name}: encode what is not cached, start workers and teachers")
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        during = scorer.during_training() if scorer else None
        callbacks = driver.Callbacks(during, show, say=steps.say)
        result = driver.distill(recipe, store, name, Path(folder) / "student", resume, callbacks)
        scores, sheet = scorer.at_the_end(result.folder, steps) if scorer else (None, None)
        url = publish_student(store, student, result.folder, recipe, scores)
        if sheet:
            put_samples(store, student, sheet)
    steps.say(f"published {url}")
    return Published(student, url, result.history)


def scoring_with_inputs(
    scoring: Scoring, recipe: Recipe, store: Store, per_category: int, steps: Steps
) -> Scoring:
    """The same with pictures to edit, where the recipe's base draws them; see `evaluation.inputs`.

    Args:
        per_category: edits of each category that are answered.
    """
    from flash_ray.evaluation.inputs import with_inputs

    found = with_inputs(scoring.benchmark, recipe, store, per_category, steps)
    return replace(scoring, benchmark=found)


class StudentScorer:
    """Scores a run's student on the recipe's benchmark, on the cluster."""

    def __init__(self, recipe: Recipe, scoring: Scoring, store: Store, run_name: str):
        from flash_ray.evaluation.sample import student_sampler

        self._recipe, self._scoring, self._store, self._run = recipe, scoring, store, run_name
        self._sampler = student_sampler(recipe.student.rungs)

    def during_training(self) -> "TrainingEval | None":
        """Makes what a worker calls every `evaluation.every` iterations; None if that is never."""
        from flash_ray.evaluation.benchmark import first_cases
        from flash_ray.evaluation.compare import TrainingEval
        from flash_ray.evaluation.drawing import encode_in_task

        evaluation = self._recipe.evaluation
        if not evaluation.every:
            return None
        cases: dict[Task, int] = {"t2i": evaluation.cases.t2i, "edit": evaluation.cases.edit}
        shown = first_cases(self._scoring.benchmark, cases)
        (encoded,) = encode_in_task(self._recipe, [shown])
        return TrainingEval(encoded, self._scoring.judge, self._sampler)

    def at_the_end(self, folder: Path, steps: Steps) -> tuple[PublishedScores | None, bytes | None]:
        """Scores the run's student, a copy of which is in `folder`, on `evaluation.published_cases`
        of each category, and the base beside it.

        Returns:
            the scores, None if no case has one or nobody judges, and a contact sheet, a PNG, of
            the first case of each category; None for both if no case is wanted.
        """
        from flash_ray.evaluation import sample
        from flash_ray.evaluation.compare import compare, draw_tasks
        from flash_ray.evaluation.contact_sheet import first_answers
        from flash_ray.evaluation.drawing import Weights, drawn_by_actors
        from flash_ray.evaluation.published import published_scores
        from flash_ray.trainer.worker import student_key

        recipe, benchmark = self._recipe, self._scoring.benchmark
        count = recipe.evaluation.published_cases
        if not count:
            return None, None
        files = record(folder)
        student = Weights(content_digest(files), f"{student_key(self._run)}/", files)
        models, judge = {"student": [self._sampler]}, self._scoring.judge
        if judge and recipe.evaluation.baselines:
            models["teacher"] = [sample.teacher_sampler(recipe)]
            models["untrained"] = sample.untrained_samplers(recipe)
        weights = {**dict.fromkeys(models, Weights()), "student": student}
        with drawn_by_actors(recipe, self._store, weights) as draw:
            drawn = draw_tasks(draw, models, benchmark, count, steps.show)
        if judge is None:
            pictures = [(of.cases, of.attempts["student"][0][1]) for of in drawn.values()]
            return None, first_answers(pictures)
        comparisons = {task: compare(of, judge, recipe) for task, of in drawn.items()}
        answered = [(c.cases, c.answers["student"].images) for c in comparisons.values()]
        return published_scores(comparisons, benchmark, count), first_answers(answered)


@contextmanager
def open_run_store(
    recipe: Recipe, store_address: str | None, create: bool = True
) -> Iterator[Store]:
    """Opens the store that `runtime.storage` names.

    Args:
        store_address: the embedded store's folder, if that is used; None: the default one.
        create: makes that folder if it is not there.

    Raises:
        UserError: the store cannot be used.
    """
    storage = recipe.runtime.storage
    where = store_address if storage.url == "embedded" else storage.url
    with open_store(where, storage.endpoint, create) as store:
        yield store


def in_words(metrics: "UpdateMetrics") -> str:
    """One iteration for the progress line."""
    measures = {
        **{name.replace("_", " "): value for name, value in metrics.diagnostics.items()},
        "fake score loss": metrics.fake_score_loss,
        "images/s": metrics.images_per_second,
    }
    words = [f"{name} {value:.3g}" for name, value in measures.items()]
    words += [f"{task} score {score:#.3g}" for task, score in (metrics.scores or {}).items()]
    return ", ".join(words)


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError for what a recipe lacks, or names for another base, and if it cannot fit
    the GPUs of this machine; it opens no data."""
    source = load_source(recipe)
    source.validate_base(recipe.base)
    if recipe.evaluation.benchmark is not None and recipe.evaluation.judge is not None:
        judge = load_judge(recipe.evaluation.judge, "evaluation.judge")
        validate_for_base(judge, recipe.base)
    validate_memory(recipe, is_here=False)


def validate_recipe(recipe: Recipe) -> None:
    """Raises UserError for what can be known of data, base, teachers and trackers without loading
    them."""
    validate_embedded_in_job(recipe)
    validate_data(recipe)
    validate_base(recipe.base)
    validate_gpu(recipe)
    validate_memory(recipe, is_here=True)
    validate_trackers(recipe)
    validate_quantizer(recipe)
    if any(teacher.model not in ("base", recipe.base) for teacher in recipe.teachers):
        from flash_ray.teachers.validation import validate_teachers

        validate_teachers(recipe)
    if recipe.student.weights == "lora":
        from flash_ray.trainer.student_init import validate_targets

        validate_targets(recipe)


def validate_name(recipe: Recipe, store: Store, name: str, student: str, resume: bool) -> None:
    """Raises UserError if a student or a run has the name, or there is no such run to resume."""
    if store.get_bytes(f"students/{student}/{MANIFEST}") is not None:
        option = "--name" if student == name and not resume else "--publish"
        raise UserError(
            f"{option}: student {student!r} exists in {store.url()}; allowed: a new name; "
            f"choose one, e.g. {option} {student}-2"
        )
    if recipe.student.init != "base":
        from flash_ray.trainer.student_init import validate_init

        validate_init(recipe, store)
    validate_claim(recipe, store, name, resume)


def validate_cluster(recipe: Recipe, store: Store, teachers: int) -> None:
    """Finds out before anything is loaded what a cluster's nodes cannot do; a local one can.

    Args:
        teachers: actors that the run starts; 0 if it starts none.
    """
    if in_cluster_job():
        from flash_ray.cluster.resources import check_cluster, check_worker

        check_cluster(recipe, teachers)
        check_worker(store)

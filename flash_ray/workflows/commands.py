"""The commands' checks: what can be refused is refused before torch and ray take their seconds.

So the modules that need torch or ray are imported where they are used.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flash_ray.cluster.session import in_cluster_job, validate_embedded_in_job
from flash_ray.data.select import validate_data
from flash_ray.errors import UserError
from flash_ray.evaluation.judges.load import opened_judges, read_judges
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import Recipe, parse_recipe
from flash_ray.storage.manifest import open_run, verify
from flash_ray.storage.open import open_store
from flash_ray.storage.s3 import Store, check_name
from flash_ray.storage.students import MANIFEST, Student, load_student
from flash_ray.telemetry.progress import Steps

if TYPE_CHECKING:
    from flash_ray.data.describe import Description
    from flash_ray.data.encode import Prepared
    from flash_ray.workflows.produce import Published

DEMO_FILES = ("store", "student", "result.json", "report.html", "grid.png")
TEACHERS = ("teacher", "teacher-at-4")


def distill(
    recipe: Recipe, name: str, resume: bool, place: str | None, steps: Steps
) -> "Published":
    """Distills and publishes `name`; `place` is the embedded store's folder, if that is used."""
    validate_recipe(recipe)
    check_name("--name", name)
    storage = recipe.runtime.storage
    where = place if storage.url == "embedded" else storage.url
    with open_store(where, storage.endpoint, create=not resume) as store:
        _validate_taken(recipe, store, name, resume)
        from flash_ray.cluster.session import run_session
        from flash_ray.workflows.produce import distil_and_publish

        with run_session(recipe):
            _validate_cluster(recipe, store, hiring=True)
            return distil_and_publish(recipe, store, name, resume, steps)


def demo(recipe: Recipe, out: Path, per_category: int, steps: Steps) -> dict[str, Any]:
    """Leaves `DEMO_FILES` in `out`, in place of an earlier demo's; returns result.json."""
    started = time.monotonic()
    validate_recipe(recipe)
    _validate_foreign(out)
    storage = recipe.runtime.storage
    where = storage.url
    if storage.url == "embedded":
        where = str(out / "store")
        _remove(out / "store")
    with open_store(where, storage.endpoint, create=True) as store:
        _validate_taken(recipe, store, recipe.name, resume=False)
        for name in DEMO_FILES[1:]:
            _remove(out / name)
        from flash_ray.workflows.demo import run_demo

        out.mkdir(parents=True, exist_ok=True)
        return run_demo(recipe, store, out, per_category, steps, started)


def evaluate(
    model: str,
    recipe: Recipe,
    place: str | None,
    bench: str,
    per_category: int,
    judges: Sequence[str],
    steps: Steps,
) -> dict[str, Any]:
    """Scores a model on a bench.

    Args:
        model: `teacher` or `teacher-at-4` (the recipe's), a student's name in the store, or, with
            a / in it, the folder of a student (model.json).
        recipe: of the teachers; a student brings its own.
        place: the store, as `open_store` takes it.
        judges: `exact`, `ocr`, `vlm:FILE.yaml`.
    """
    choices = read_judges(judges)
    with _found(model, place) as folder, opened_judges(choices, place) as opened:
        own = parse_recipe(read_manifest(folder).recipe) if folder else recipe
        resolve_base(own.base)
        from flash_ray.workflows.evaluate import evaluate_model

        return evaluate_model(model, folder, own, bench, per_category, opened, steps)


def describe_data(recipe: Recipe, place: str | None) -> "Description":
    """What a run will see; `place` is the embedded store's folder, if that is used."""
    with _data_store(recipe, place) as store:
        from flash_ray.cluster.session import ray_session
        from flash_ray.data.describe import describe

        if recipe.data.source == "miniature":
            return describe(recipe, store)
        with ray_session({"CPU": 1, "trainer": 0, "teacher": 0}):
            return describe(recipe, store)


def encode_data(recipe: Recipe, place: str | None, steps: Steps) -> "Prepared":
    """Encodes what the recipe's cases lack; `place` is the embedded store's folder, if that is
    used."""
    with _data_store(recipe, place) as store:
        from flash_ray.cluster.session import ray_session
        from flash_ray.data.encode import prepare

        runtime = recipe.runtime
        needs = {"CPU": runtime.max_workers * runtime.cpus_per_worker + 1, "teacher": 0}
        with ray_session({**needs, "trainer": runtime.max_workers}):
            _validate_cluster(recipe, store, hiring=False)
            steps.say("list the cases and encode what is not cached")
            prepared = prepare(recipe, store)
            for line in prepared.complaints:
                steps.say(line)
            return prepared


@contextmanager
def _data_store(recipe: Recipe, place: str | None) -> Iterator[Store]:
    validate_embedded_in_job(recipe)
    validate_data(recipe)
    storage = recipe.runtime.storage
    where = place if storage.url == "embedded" else storage.url
    with open_store(where, storage.endpoint, create=True) as store:
        yield store


def read_manifest(folder: Path) -> Student:
    """The manifest of a downloaded student, whose files are then verified."""
    try:
        student = Student.model_validate_json((folder / MANIFEST).read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is corrupt"
        raise UserError(
            f"MODEL: {folder}/{MANIFEST} {reason}; allowed: the folder of a downloaded student, "
            f"a published student's name, {' or '.join(TEACHERS)}; see `flash-ray models`"
        ) from error
    verify(folder, student.files, str(folder))
    return student


@contextmanager
def _found(model: str, place: str | None) -> Iterator[Path | None]:
    """The student's folder, downloaded for the block if need be; None for a teacher."""
    if model in TEACHERS:
        yield None
    elif "/" in model:
        yield Path(model)
    else:
        with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
            with open_store(place) as store:
                folder = load_student(store, model, Path(name) / "student")
            yield folder


def validate_recipe(recipe: Recipe) -> None:
    validate_embedded_in_job(recipe)
    validate_data(recipe)
    if any(teacher.model not in ("base", recipe.base) for teacher in recipe.teachers):
        from flash_ray.teachers.validation import validate_unfit_teachers

        validate_unfit_teachers(recipe)


def _validate_taken(recipe: Recipe, store: Store, name: str, resume: bool) -> None:
    if store.get_bytes(f"students/{name}/{MANIFEST}") is not None:
        raise UserError(
            f"--name: student {name!r} exists in {store.url()}; allowed: a new name; "
            f"choose one, e.g. --name {name}-2"
        )
    if resume:
        open_run(store, name, recipe.digest)


def _validate_cluster(recipe: Recipe, store: Store, hiring: bool) -> None:
    """Finds out before anything is loaded what a cluster's nodes cannot do; a local one can."""
    if in_cluster_job():
        from flash_ray.cluster.resources import check_cluster, check_worker

        check_cluster(recipe, hiring)
        check_worker(store)


def _validate_foreign(out: Path) -> None:
    if not out.exists():
        return
    allowed = "allowed: a new or empty folder, or that of an earlier demo; choose another --out"
    if not out.is_dir():
        raise UserError(f"--out: {out} is not a folder; {allowed}")
    names = {path.name for path in out.iterdir()}
    if names and not (names <= set(DEMO_FILES) and (out / "store/credentials.json").is_file()):
        foreign = sorted(names - set(DEMO_FILES)) or sorted(names)
        raise UserError(f"--out: {out} holds {foreign[0]}, which no demo wrote; {allowed}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

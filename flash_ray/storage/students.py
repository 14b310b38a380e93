"""Published students: files first, the manifest last and once, so readers see all or nothing.

A student's name never changes what it means. An alias does: endpoints that serve it go over to the
student that it points to now, without a request lost.
"""

import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import FileRecord, check_path, record, verify
from flash_ray.storage.s3 import Store, check_name

MANIFEST = "model.json"
SUFFIXES = (".safetensors", ".json", ".txt")


class CorruptManifest(UserError):
    """A published name has a manifest that cannot be read, or one of another version."""


class PublishedScores(BaseModel):
    """What a student scored on a benchmark before it was published.

    Args:
        benchmark: its name.
        digest: the benchmark's, 16 hex digits: scores of other cases are not comparable.
        judge: the name of the judge.
        cases_per_category: how many of each category were scored, 1 or more.
        tasks: the mean score of each task that was scored, on the judge's scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    benchmark: str
    digest: str
    judge: str
    cases_per_category: int = Field(ge=1)
    tasks: dict[Task, float]


class Student(BaseModel):
    """The manifest of a published student, `students/<name>/model.json`.

    Args:
        folder: the files lie in students/<name>/<folder>/.
        sigmas: the noise levels that it was distilled for, descending in (0, 1], without the 0.
        nfe: evaluations of the transformer for one picture.
        scores: None if it was not scored.
        created: the UTC time, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[2] = 2
    name: str
    folder: str = Field(pattern="^[0-9a-f]{16}$")
    files: dict[str, FileRecord]
    recipe: dict[str, Any]
    recipe_digest: str
    base: str
    sigmas: list[float] = Field(min_length=1)
    nfe: int
    scores: PublishedScores | None
    created: str


def publish_student(
    store: Store, name: str, folder: Path, recipe: Recipe, scores: PublishedScores | None = None
) -> str:
    """Publish the files of `folder` as student `name`; return its s3:// URL.

    Args:
        recipe: the one that the student was distilled with; the manifest is made from it.
        scores: None claims none.

    Raises:
        UserError: the name is taken, also when another writer takes it meanwhile, or `folder`
            holds a file that is not safetensors, JSON or text. Nothing of ours stays visible.
    """
    student = _describe(name, folder, recipe, scores)
    manifest = json.dumps(student.model_dump(), indent=1, allow_nan=False).encode()
    taken = UserError(f"name: student {name!r} exists in {store.url()}; choose another name")
    if store.get_bytes(f"students/{name}/{MANIFEST}") is not None:
        raise taken
    # Named by content: two writers of one name cannot overwrite each other's files.
    home = f"students/{name}/{student.folder}"
    for path in student.files:
        store.put_file(folder / path, f"{home}/{path}")
    if not store.put_bytes_if_absent(f"students/{name}/{MANIFEST}", manifest):
        if read_student(store, name).folder != student.folder:
            for path in student.files:
                store.delete(f"{home}/{path}")
        raise taken
    return store.url(f"students/{name}")


def student_names(store: Store) -> list[str]:
    """The names of the published students, in order."""
    keys = [key.split("/") for key in store.list("students/")]
    return [key[1] for key in keys if len(key) == 3 and key[2] == MANIFEST]


def list_students(store: Store) -> list[Student]:
    """Every published student, by name."""
    return [read_student(store, name) for name in student_names(store)]


def read_student(store: Store, name: str) -> Student:
    """The manifest of a published student; UserError if there is none or it is corrupt."""
    key = f"students/{check_name('name', name)}/{MANIFEST}"
    text = store.get_bytes(key)
    if text is None:
        raise UserError(f"name: no student {name!r} in {store.url()}; see `flash-ray models`")
    try:
        student = Student.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("version",):
            raise CorruptManifest(
                f"{store.url(key)}: {MANIFEST} is of version {first['input']}; allowed: 2, of this "
                "flash_ray; publish anew"
            ) from error
        field = ".".join(map(str, first["loc"]))
        raise CorruptManifest(
            f"{store.url(key)}: {MANIFEST} is corrupt ({field}: {first['msg']}); publish anew"
        ) from error
    if student.name != name:
        raise CorruptManifest(
            f"{store.url(key)}: is the manifest of {student.name!r}; publish anew"
        )
    for path in student.files:
        _check_file(path)
    return student


def load_student(store: Store, name: str, dest: Path) -> Path:
    """Download a student to the folder `dest`, with its model.json; return `dest`.

    Every size and SHA-256 is verified before the folder appears; one that is there already is
    kept if it is this student, verified again. UserError names a file that is not as published.
    """
    student = read_student(store, name)
    where = store.url(f"students/{name}")
    if dest.exists():
        return _verify_local(dest, student)
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".partial", dir=dest.parent))
    try:
        for path in student.files:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            store.get_file(f"students/{name}/{student.folder}/{path}", partial / path)
        verify(partial, student.files, where)
        (partial / MANIFEST).write_text(student.model_dump_json(indent=1))
        partial.chmod(0o755)
        try:
            partial.rename(dest)
        except OSError:
            if not dest.exists():
                raise
            return _verify_local(dest, student)  # another loader was first
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dest


def _describe(name: str, folder: Path, recipe: Recipe, scores: PublishedScores | None) -> Student:
    if not folder.is_dir():
        raise UserError(f"folder: {folder} does not exist; give the folder of a saved student")
    files = record(folder)
    for path in files:
        _check_file(path)
    if not files:
        raise UserError(f"folder: {folder} holds no file; give the folder of a saved student")
    content = json.dumps({path: file.sha256 for path, file in files.items()}, sort_keys=True)
    sigmas = recipe.student.rungs
    return Student(
        name=check_name("name", name),
        folder=hashlib.sha256(content.encode()).hexdigest()[:16],
        files=files,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        base=recipe.base,
        sigmas=sigmas,
        nfe=len(sigmas),
        scores=scores,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_file(path: str) -> None:
    if not check_path(path).endswith(SUFFIXES) or path == MANIFEST:
        raise UserError(
            f"{path} cannot be in a student; allowed: {' '.join(SUFFIXES)}, and no {MANIFEST}; "
            "remove it"
        )


def _verify_local(dest: Path, student: Student) -> Path:
    manifest = dest / MANIFEST
    if not manifest.is_file() or manifest.read_text() != student.model_dump_json(indent=1):
        raise UserError(f"dest: {dest} exists and is not this student; choose another folder")
    verify(dest, student.files, str(dest))
    return dest


PREFIX = "aliases/"


def set_alias(store: Store, alias: str, student: str) -> None:
    """Point `alias` to a published student.

    Raises:
        UserError: there is no such student, or a student or `teacher` has the alias's name.
    """
    check_name("alias", alias)
    read_student(store, student)
    if alias == "teacher" or store.get_bytes(f"students/{alias}/{MANIFEST}") is not None:
        raise UserError(f"alias: {alias!r} is a model's own name; choose another alias")
    store.put_bytes(f"{PREFIX}{alias}.json", json.dumps({"student": student}).encode())


def read_aliases(store: Store) -> dict[str, str]:
    """Student names by alias; UserError if one is corrupt."""
    students = {}
    for key in store.list(PREFIX):
        text = store.get_bytes(key)
        if text is None:  # removed meanwhile
            continue
        try:
            students[key[len(PREFIX) :].removesuffix(".json")] = str(json.loads(text)["student"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{store.url(key)}: is corrupt; set the alias anew") from error
    return students

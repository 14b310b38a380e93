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
from flash_ray.storage.manifest import FileRecord, check_path, record, verify
from flash_ray.storage.s3 import Store, check_name

MANIFEST = "model.json"
SUFFIXES = (".safetensors", ".json", ".txt")


class CorruptManifest(UserError):
    """A published name whose manifest is not one."""


class Student(BaseModel):
    """The manifest of a published student, `students/<name>/model.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    name: str
    folder: str = Field(pattern="^[0-9a-f]{16}$")  # the files lie in students/<name>/<folder>/
    files: dict[str, FileRecord]
    recipe: dict[str, Any]
    recipe_digest: str
    base: str
    sigmas: list[float] = Field(min_length=1)
    nfe: int
    scores: dict[str, Any]
    created: str


def publish_student(store: Store, name: str, folder: Path, meta: dict[str, Any]) -> str:
    """Publish the files of `folder` as student `name`; return its s3:// URL.

    `meta` holds recipe, recipe_digest, base, sigmas and scores. UserError if the name is taken,
    also when another writer takes it meanwhile, or if `folder` holds a file that is not
    safetensors, JSON or text: nothing of ours stays visible then.
    """
    student = _describe(name, folder, meta)
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


def _describe(name: str, folder: Path, meta: dict[str, Any]) -> Student:
    if not folder.is_dir():
        raise UserError(f"folder: {folder} does not exist; give the folder of a saved student")
    files = record(folder)
    for path in files:
        _check_file(path)
    if not files:
        raise UserError(f"folder: {folder} holds no file; give the folder of a saved student")
    content = json.dumps({path: file.sha256 for path, file in files.items()}, sort_keys=True)
    return Student(
        name=check_name("name", name),
        folder=hashlib.sha256(content.encode()).hexdigest()[:16],
        files=files,
        nfe=len(meta["sigmas"]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **meta,
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
    """Points `alias` to a published student.

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
    found = {}
    for key in store.list(PREFIX):
        text = store.get_bytes(key)
        if text is None:  # removed meanwhile
            continue
        try:
            found[key[len(PREFIX) :].removesuffix(".json")] = str(json.loads(text)["student"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{store.url(key)}: is corrupt; set the alias anew") from error
    return found

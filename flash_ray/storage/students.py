"""Published students: files first, the manifest last and once, so readers see all or nothing.

A student's name never changes what it means. An alias does: endpoints that serve it go over to the
student that it points to now, without a request lost.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial as bound
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Sigma
from flash_ray.storage.manifest import FileRecord, check_path, record, verify
from flash_ray.storage.records import (
    CorruptRecord,
    Digest,
    Name,
    Text,
    first_problem,
    read_each,
    read_record,
)
from flash_ray.storage.s3 import Store, check_name
from flash_ray.storage.scores import PublishedScores

HOME, MANIFEST = "students/", "model.json"
LORA = "pytorch_lora_weights.safetensors"  # diffusers' name for a LoRA
SUFFIXES = (".safetensors", ".json", ".txt")
Levels = TypeVar("Levels", list[float], tuple[float, ...])
PUBLISH_ANEW = "remove it from the store, or publish under another name"


def descending(sigmas: Levels) -> Levels:
    """Return noise levels that decrease strictly; ValueError for others."""
    if any(after >= before for before, after in zip(sigmas, sigmas[1:], strict=False)):
        raise ValueError(f"not strictly decreasing: {', '.join(map(str, sigmas[:8]))}")
    return sigmas


def _utc_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("without a time zone; allowed: ISO 8601 with one")
    return text


class _Rungs(BaseModel):
    timestep_shift: float = Field(gt=0, le=100)


class _UsedOfRecipe(BaseModel):
    """What a published recipe must have; the rest may be of another version of flash_ray."""

    base: Text
    student: _Rungs


def _is_recipe(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        _UsedOfRecipe.model_validate(fields, strict=True)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    return fields


def _published_files(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    for path in files:
        try:
            _check_file(path)
        except UserError as error:
            raise ValueError(str(error)) from None
    return files


class Student(BaseModel):
    """The manifest of a published student, `students/<name>/model.json`.

    Args:
        folder: the files lie in students/<name>/<folder>/; it is the digest of their contents.
        kind: a whole transformer, or a LoRA of the base.
        base_precision: of the frozen base that a LoRA was trained on; None: of no LoRA.
        sigmas: the noise levels that it was distilled for, descending in (0, 1], without the 0.
        nfe: evaluations of the transformer for one picture.
        scores: None if it was not scored.
        created: the UTC time, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    version: Literal[2] = 2
    name: Name
    folder: Digest
    kind: Literal["transformer", "lora"] = "transformer"
    files: Annotated[dict[str, FileRecord], Field(min_length=1), AfterValidator(_published_files)]
    recipe: Annotated[dict[str, Any], AfterValidator(_is_recipe)]
    recipe_digest: Digest
    base: Text
    base_precision: Literal["fp32", "bf16", "fp8", "int8", "nf4"] | None = None
    sigmas: Annotated[list[Sigma], Field(min_length=1, max_length=64), AfterValidator(descending)]
    nfe: int
    scores: PublishedScores | None
    created: Annotated[str, AfterValidator(_utc_time)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.folder != content_digest(self.files):
            raise ValueError("folder: not the digest of the files")
        if self.kind != (kind := kind_of(self.files)):
            raise ValueError(f"kind: {self.kind}, but the files are those of a {kind}")
        if self.nfe != len(self.sigmas):
            raise ValueError(f"nfe: {self.nfe}, but {len(self.sigmas)} sigmas")
        if self.base != self.recipe["base"]:
            raise ValueError("base: not the recipe's")
        return self


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
    if store.get_bytes(_key(name)) is not None:
        raise taken
    # Named by content: two writers of one name cannot overwrite each other's files.
    home = f"{HOME}{name}/{student.folder}"
    for path in student.files:
        store.put_file(folder / path, f"{home}/{path}")
    if not store.put_bytes_if_absent(_key(name), manifest):
        try:
            is_other = read_student(store, name).folder != student.folder
        except CorruptRecord:
            raise taken from None  # whose files these are is not known: they stay
        for path in student.files if is_other else ():
            store.delete(f"{home}/{path}")
        raise taken
    return store.url(f"{HOME}{name}")


def student_versions(store: Store) -> dict[str, str]:
    """The names under which something is published, in order; a name's text changes with its
    manifest. A name may be one that nobody can publish under."""
    keys = {tuple(key.split("/")): version for key, version in store.versions(HOME).items()}
    return {
        key[1]: version for key, version in keys.items() if len(key) == 3 and key[2] == MANIFEST
    }


def list_students(store: Store) -> tuple[list[Student], list[CorruptRecord]]:
    """Every published student, by name, and what is wrong with the manifests of others."""
    students, faults = read_each(bound(find_student, store), student_versions(store))
    return list(students.values()), list(faults.values())


def find_student(store: Store, name: str) -> Student | None:
    """The manifest of a published student; None if there is none.

    Raises:
        CorruptRecord: it is not the manifest of such a student.
    """
    where = store.url(f"{HOME}{name}/{MANIFEST}")
    try:
        key = _key(name)
    except UserError as error:
        raise CorruptRecord(where, str(error), "remove it") from None
    student = read_record(store, key, Student, PUBLISH_ANEW)
    if student and student.name != name:
        raise CorruptRecord(where, f"the manifest of {student.name!r}", PUBLISH_ANEW)
    return student


def read_student(store: Store, name: str) -> Student:
    """The manifest of a published student.

    Raises:
        CorruptRecord: it is not as it should be.
        UserError: there is none.
    """
    check_name("name", name)
    student = find_student(store, name)
    if student is None:
        raise UserError(f"name: no student {name!r} in {store.url()}; see `flash-ray models`")
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


def student_home(student: Student) -> str:
    """The prefix of the keys of a student's files."""
    return f"{HOME}{student.name}/{student.folder}/"


def put_samples(store: Store, name: str, png: bytes) -> None:
    """Keeps a contact sheet of a published student; it is no part of what the manifest vouches
    for."""
    store.put_bytes(_samples(name), png)


def get_samples(store: Store, name: str) -> bytes | None:
    """The contact sheet of a published student, a PNG; None if it has none."""
    return store.get_bytes(_samples(name))


def content_digest(files: Mapping[str, FileRecord]) -> str:
    """16 hex digits that change with any file: equal ones draw equal pictures."""
    content = json.dumps({path: file.sha256 for path, file in files.items()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def kind_of(files: Mapping[str, FileRecord]) -> Literal["transformer", "lora"]:
    """What a student is, by its files."""
    return "lora" if LORA in files else "transformer"


def _key(name: str) -> str:
    return f"{HOME}{check_name('name', name)}/{MANIFEST}"


def _samples(name: str) -> str:
    return f"{HOME}{check_name('name', name)}/samples.png"


def _describe(name: str, folder: Path, recipe: Recipe, scores: PublishedScores | None) -> Student:
    if not folder.is_dir():
        raise UserError(f"folder: {folder} does not exist; give the folder of a saved student")
    files = record(folder)
    for path in files:
        _check_file(path)
    if not files:
        raise UserError(f"folder: {folder} holds no file; give the folder of a saved student")
    sigmas, training, kind = recipe.student.rungs, recipe.training, kind_of(files)
    return Student(
        name=check_name("name", name),
        folder=content_digest(files),
        kind=kind,
        files=files,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        base=recipe.base,
        base_precision=training.base_precision or training.precision if kind == "lora" else None,
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
    try:
        there = Student.model_validate_json((dest / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        there = None
    if there != student:
        raise UserError(f"dest: {dest} exists and is not this student; choose another folder")
    verify(dest, student.files, str(dest))
    return dest


ALIASES = "aliases/"
SET_ANEW = "set the alias anew with `flash-ray alias`, or remove it"


class Alias(BaseModel):
    """What an alias points to, `aliases/<alias>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    student: Name


def set_alias(store: Store, alias: str, student: str) -> None:
    """Point `alias` to a published student.

    Raises:
        UserError: there is no such student, or a student or `teacher` has the alias's name.
    """
    check_name("alias", alias)
    read_student(store, student)
    if alias == "teacher" or store.get_bytes(_key(alias)) is not None:
        raise UserError(f"alias: {alias!r} is a model's own name; choose another alias")
    store.put_bytes(f"{ALIASES}{alias}.json", Alias(student=student).model_dump_json().encode())


def read_aliases(store: Store) -> tuple[dict[str, str], list[CorruptRecord]]:
    """Student names by alias, and what is wrong with others."""
    aliases, faults = read_each(bound(_find_alias, store), store.list(ALIASES))
    names = {key[len(ALIASES) :].removesuffix(".json"): of.student for key, of in aliases.items()}
    return names, list(faults.values())


def _find_alias(store: Store, key: str) -> Alias | None:
    alias = key[len(ALIASES) :].removesuffix(".json")
    try:
        is_one = f"{ALIASES}{check_name('alias', alias)}.json" == key and alias != "teacher"
    except UserError:
        is_one = False
    if not is_one:
        raise CorruptRecord(store.url(key), "not the name of an alias", "remove it")
    return read_record(store, key, Alias, SET_ANEW)

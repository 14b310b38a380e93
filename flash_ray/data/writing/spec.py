"""What is to be written, and by which model: the spec of `flash-ray data write`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from flash_ray.data.alike import ALIKE
from flash_ray.errors import UserError
from flash_ray.models.endpoint import EndpointSettings, validated
from flash_ray.recipe.messages import problem
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Pixels, Section, Task
from flash_ray.recipe.sizes import ALLOWED, size_problem

Words = Annotated[str, Field(min_length=1, max_length=2000)]
Characters = Annotated[int, Field(ge=1, le=10_000)]


class WriterSettings(EndpointSettings):
    """The language model that writes; where edits are written, it must see pictures."""

    section: ClassVar[str] = "writer"


class Language(Section):
    """How much is written in a language, and how long."""

    share: float = Field(1.0, gt=0, le=1e6, description="relative share of the rows, above 0")
    length: tuple[Characters, Characters] = Field(
        (20, 600), description="[fewest, most] characters of a prompt, 1 to 10,000"
    )


Languages = Annotated[
    dict[Words, Language],
    Field(
        min_length=1,
        description="by name, e.g. {English: {share: 2, length: [60, 400]}, Chinese: {}}",
    ),
]


class Category(Section):
    """A category of prompts."""

    rows: int = Field(ge=1, le=1_000_000, description="rows to write, 1 to 1,000,000")
    about: Words = Field(description="what the category is, as the writer is told, a string")
    themes: tuple[Words, ...] = Field(
        min_length=1, description="subjects that the rows are about in equal parts, a list"
    )
    languages: Languages | None = Field(None, description="as those of the task; null: those")
    rendered_text: float = Field(
        0.0, ge=0, le=1, description="share of the rows that ask for text in the picture, 0 to 1"
    )


class EditCategory(Category):
    """A category of edits."""

    pictures: tuple[Words, ...] = Field(
        min_length=1,
        description="what the pictures to edit show in equal parts, a list, e.g. [a street at "
        "noon, an old photograph of a family]",
    )


class T2iSpec(Section):
    """The prompts of text to image."""

    languages: Languages = {"English": Language()}
    categories: dict[Words, Category] = Field(min_length=1, description="by name")


class EditSpec(Section):
    """Instructions, and the pictures that they edit."""

    languages: Languages = {"English": Language(length=(10, 300))}
    categories: dict[Words, EditCategory] = Field(min_length=1, description="by name")
    per_picture: int = Field(
        1, ge=1, le=20, description="instructions of one category for each picture, 1 to 20"
    )
    sizes: tuple[tuple[Pixels, Pixels], ...] | None = Field(
        None,
        min_length=1,
        description=f"[height, width] of the pictures in pixels, in turn, {ALLOWED}; null: the "
        "recipe's data.resolution",
    )


class WritingSpec(Section):
    """Everything that `flash-ray data write` needs to know of what it writes."""

    writer: WriterSettings
    t2i: T2iSpec | None = Field(None, description="the prompts of text to image, or null: none")
    edit: EditSpec | None = Field(None, description="the edits, or null: none")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the order of subjects and lengths")
    batch: int = Field(10, ge=1, le=100, description="prompts that one request asks for, 1 to 100")
    alike: int = Field(
        ALIKE,
        ge=50,
        le=100,
        description="percent of the signs of two prompts from which on they are near-duplicates, "
        "50 to 100",
    )
    against: tuple[Words, ...] = Field(
        (),
        description="benchmarks whose prompts are not to be written: registered names, files of "
        "cases or YAML files of a benchmark",
    )

    def categories(self, task: Task) -> Mapping[str, Category]:
        """The categories of a task by name; none if it is not written."""
        section = self.t2i if task == "t2i" else self.edit
        return section.categories if section else {}

    def languages(self, task: Task, category: str) -> Mapping[str, Language]:
        """The languages of one of a task's categories by name."""
        section = self.t2i if task == "t2i" else self.edit
        assert section
        return section.categories[category].languages or section.languages

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which rows are wanted, as plain data: not by whom they are written."""
        return self.model_dump(mode="json", exclude={"writer", "batch"})


def read_spec(file: str) -> WritingSpec:
    """Reads a YAML file.

    Raises:
        UserError: it is not as it should be; of `writer` no value is quoted, since someone may have
            put a secret there.
    """
    field = f"SPEC: {file}"
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{field}: {reason}; allowed: a YAML file; check the name") from None
    raw = parse_yaml(text, field)
    if not isinstance(raw, dict):
        keys = ", ".join(WritingSpec.model_fields)
        raise UserError(f"{field}: not a mapping; allowed: YAML with the keys {keys}; correct it")
    if "writer" in raw:
        validated(WriterSettings, raw["writer"], f"{field}: writer")
    try:
        spec = WritingSpec.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(f"{field}: {problem(error, WritingSpec)}") from None
    _validate(spec, field)
    return spec


def _validate(spec: WritingSpec, field: str) -> None:
    """Raises UserError where nothing is to be written, no number is between a length's two, or a
    size cannot be drawn."""
    if spec.t2i is None and spec.edit is None:
        raise UserError(f"{field}: neither t2i nor edit; allowed: one or both; add one")
    for task, section in (("t2i", spec.t2i), ("edit", spec.edit)):
        places = {f"{task}.languages": section.languages} if section else {}
        for name, category in (section.categories if section else {}).items():
            if category.languages:
                places[f"{task}.categories.{name}.languages"] = category.languages
        for place, languages in places.items():
            for name, language in languages.items():
                if language.length[0] > language.length[1]:
                    raise UserError(
                        f"{field}: {place}.{name}.length: {list(language.length)}; allowed: "
                        "[fewest, most]; swap them"
                    )
    for size in (spec.edit.sizes if spec.edit else None) or ():
        if wrong := size_problem(size):
            raise UserError(f"{field}: edit.sizes: {wrong}; correct it")

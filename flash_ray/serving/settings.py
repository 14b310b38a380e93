"""How the endpoints run: limits of requests, batches, memory, replicas; as it fits a laptop."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import named_benchmark
from flash_ray.evaluation.judges.endpoint import VlmSettings, read_settings
from flash_ray.recipe import messages
from flash_ray.recipe.load import override
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Section
from flash_ray.recipe.sections import BenchmarkFiles, name_or_files
from flash_ray.recipe.validation import NO_FILES

MIB = 2**20


class Limits(Section):
    """What one request may ask for; more is answered with status 400 or 413."""

    prompt: int = Field(2000, ge=1, description="characters of a prompt, 1 or more")
    n: int = Field(8, ge=1, le=64, description="pictures of one request, 1 to 64")
    steps: int = Field(64, ge=1, le=1000, description="steps of the sampler, 1 to 1000")
    pixels: int | None = Field(
        None,
        ge=1024,
        description="pixels of a picture, 1024 or more; null: four times the recipe's size",
    )
    images: int = Field(4, ge=1, le=16, description="pictures that one edit may start from, 1-16")
    image_bytes: int = Field(20 * MIB, ge=1024, description="bytes of an uploaded picture")
    image_pixels: int = Field(
        25_000_000,
        ge=1024,
        description="pixels of an uploaded picture; one at a time is decoded, and held at the size "
        "that the model takes",
    )
    cases: int = Field(64, ge=1, description="cases of each category of an evaluation, 1 or more")


class Replicas(Section):
    """Processes of one deployment; Ray Serve adjusts their number to the requests."""

    min: int = Field(1, ge=0, le=1024, description="0 to 1024; 0: none while nobody asks")
    max: int = Field(1, ge=1, le=1024, description="1 to 1024")
    idle_s: float = Field(
        600.0, ge=0, description="seconds without requests before the last replica ends"
    )


def _judge_name(name: str) -> str:
    if name in plugins.names(plugins.JUDGES):
        raise ValueError("is the name of a registered judge")
    return name


def _read_judge(file: Any) -> VlmSettings:
    """Reads the file, here once: other nodes need not have it."""
    if isinstance(file, VlmSettings):
        return file
    if not isinstance(file, str):
        raise ValueError("is not the name of a file")
    return read_settings(file, VlmSettings, "judges")


def _read_benchmark(choice: Any) -> Any:
    """Reads what a word names: a file of cases has no key to say so."""
    if not isinstance(choice, str | dict | BenchmarkFiles):
        raise ValueError("names no benchmark")
    return named_benchmark(choice, "benchmarks") if isinstance(choice, str) else choice


def _has_files(choice: str | BenchmarkFiles) -> str | BenchmarkFiles:
    if isinstance(choice, BenchmarkFiles) and not (choice.t2i or choice.edit):
        raise UserError(f"benchmarks: {NO_FILES}")
    return choice


NamedBenchmark = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[BenchmarkFiles, Tag("<files>")],
    Discriminator(name_or_files),
    BeforeValidator(_read_benchmark),
    AfterValidator(_has_files),
    Field(description="a registered benchmark's name, a file of cases or {t2i: FILE, edit: FILE}"),
]
JudgeName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$"), AfterValidator(_judge_name)
]


class Serving(Section):
    """Everything about the endpoints that is not the recipe's."""

    limits: Limits = Limits()
    batch: int = Field(16, ge=1, le=256, description="pictures of a batch, 1 to 256")
    batch_pixels: int = Field(
        4 * 2**20,
        ge=1024,
        description="pixels of a batch's pictures, 1024 or more; a larger picture is drawn alone",
    )
    queue: int = Field(
        16,
        ge=1,
        description="requests that wait for a replica beyond those it holds (two batches); more "
        "are answered with 429",
    )
    retry_after_s: int = Field(1, ge=1, description="seconds that a 429 asks the client to wait")
    bodies_mib: int = Field(
        256, ge=1, description="MiB of the bodies of all requests; at least one edit finds room"
    )
    default_model: str = Field(
        "teacher", max_length=100, description="what draws for requests that name no model"
    )
    link_s: int = Field(
        3600, ge=1, description="seconds that the link to a picture holds (response_format: url)"
    )
    links_mib: int = Field(64, ge=1, description="MiB of pictures that have a link")
    models: int = Field(3, ge=1, description="students in a replica's memory, 1 or more")
    condition_mib: int = Field(256, ge=0, description="MiB of encoded prompts in a replica")
    prompt_cache_mib: int | None = Field(
        None,
        ge=0,
        description="MiB of the prompts' keys and values in a replica; null: 256, or two prompts "
        "with their pictures where those are larger",
    )
    weights_mib: int = Field(
        20_480, ge=1, description="MiB of downloaded students on a node's disk"
    )
    generate: Replicas = Replicas()
    edit: Replicas | None = Field(
        None, description="replicas that edit; null: those of generate do both"
    )
    cpus: float = Field(1.0, ge=0, description="CPU cores of a drawing replica")
    gpu_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of a GPU that a drawing replica, and an evaluation, takes where "
        "runtime.gpu is true, above 0 to 1; 0.5 has one GPU do both, if its memory holds two bases",
    )
    threads: int = Field(1, ge=1, description="threads that a drawing replica computes with")
    evaluations: int = Field(1, ge=1, description="evaluations at the same time, 1 or more")
    benchmarks: tuple[NamedBenchmark, ...] | None = Field(
        None,
        description="what models are scored on, a list: names of registered benchmarks, files of "
        "cases, {t2i: FILE, edit: FILE}; []: nothing; null: the recipe's evaluation.benchmark and, "
        "where they are installed, those that published students were scored on",
    )
    judges: dict[JudgeName, Annotated[VlmSettings, BeforeValidator(_read_judge)]] = Field(
        {},
        description="VLMs that may judge evaluations, {NAME: FILE.yaml}: names of a-z 0-9 . _ - "
        "other than those of registered judges, files as `--judge vlm:FILE.yaml` of "
        "`flash-ray evaluate` takes them",
    )

    @property
    def drawing(self) -> dict[str, Replicas]:
        """The deployments that draw, by name: `generate`, and `edit` where that is apart."""
        apart = {} if self.edit is None else {"edit": self.edit}
        return {"generate": self.generate, **apart}

    @property
    def gpus(self) -> int:
        """GPUs for all replicas that may come, and all evaluations, where recipes use GPUs."""
        a_gpu = int(1 / self.gpu_share)
        return math.ceil((sum(r.max for r in self.drawing.values()) + self.evaluations) / a_gpu)

    def pictures_of_batch(self, pixels: int) -> int:
        """How many pictures of so many pixels a batch may have, 1 or more."""
        return max(1, min(self.batch, self.batch_pixels // pixels))


def load_serving(file: Path | None, overrides: list[str] | None = None) -> Serving:
    """Reads a YAML file and applies overrides such as "limits.n=4".

    Raises:
        UserError: the file cannot be read, or a field is unknown or out of range.
    """
    raw: dict = {}
    if file:
        try:
            text = read_text(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--settings: {file}: {error}; give a YAML file") from error
        raw = parse_yaml(text, f"--settings: {file}") or {}
        if not isinstance(raw, dict):
            raise UserError(f"--settings: {file}: not a mapping; allowed: keys such as limits")
    for text in overrides or []:
        raw = override(raw, text)
    try:
        serving = Serving.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise UserError(messages.problem(error, Serving)) from None
    for name, replicas in serving.drawing.items():
        if replicas.min > replicas.max:
            raise UserError(
                f"{name}.min: {replicas.min} is above {name}.max {replicas.max}; allowed: "
                f"min <= max; set {name}.max={replicas.min}"
            )
    return serving

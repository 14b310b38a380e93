"""What a run is: the recipe, and its sections on data, teachers, objective and student.

Each field's description gives meaning, unit and range: error messages quote it.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from flash_ray.recipe import identity, sizes
from flash_ray.recipe.sections import (
    Evaluation,
    Lora,
    RowColumns,
    RowFiles,
    Runtime,
    Section,
    Tracking,
    Training,
    name_or_files,
    number_or_range,
)

Task = Literal["t2i", "edit"]
TASKS: tuple[Task, ...] = ("t2i", "edit")
OBJECTIVES = ("dmd",)  # the names in methods.METHODS, which needs torch
Pixels = Annotated[int, Field(ge=1, le=65_536)]
Sigma = Annotated[float, Field(gt=0, le=1)]
GuidanceScale = Annotated[float, Field(ge=1, le=100)]
CategoryWeight = Annotated[
    float, Field(ge=0, description="relative weight of the category, a number >= 0")
]
Share = Annotated[int, Field(ge=0, le=100, description="the task's part of the ratio, 0 to 100")]


def _as_name(value: Any) -> Any:
    """A whole number as the text that files have of it: YAML reads 7 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Category = Annotated[str, BeforeValidator(_as_name)]


class Composition(Section):
    """How each task's samples divide over its categories; weights need not sum to 1."""

    t2i: dict[Category, CategoryWeight] = Field(
        description="relative weights of text-to-image categories, e.g. {landscape: 1, text: 0.5}"
    )
    edit: dict[Category, CategoryWeight] = Field(
        description="relative weights of editing categories, e.g. {scene: 1, style: 0.5}"
    )


class Columns(RowColumns):
    """Which fields of a file's rows say what; a null field is not read."""

    subset: str | None = Field(None, description="the named subset that a row belongs to, a string")
    score: str | None = Field(None, description="a number to filter by, e.g. an aesthetic score")
    rendered_text: str | None = Field(
        None,
        description="whether the picture contains text, true or false; null: whether the prompt "
        "has words in quotation marks",
    )


class Files(RowFiles):
    """Prompts and edits: JSONL, JSON, CSV, Parquet, WebDataset, or captions beside pictures."""

    columns: Columns = Columns()
    max_bad: float = Field(
        0.01, ge=0, le=1, description="share of unusable rows above which the job fails, 0 to 1"
    )


class Filter(Section):
    """Which cases may be used; all conditions must hold."""

    subsets: tuple[str, ...] | None = Field(
        None, description="names of the subsets to take, or null for all"
    )
    length: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None, description="[fewest, most] characters of a prompt, or null for any"
    )
    rendered_text: bool | None = Field(
        None, description="true: only pictures that contain text; false: only others; null: all"
    )
    min_score: float | None = Field(
        None, description="lowest value of the score column, a number, or null for any"
    )


class Data(Section):
    """The cases that the student is trained on."""

    source: Annotated[
        Annotated[str, Tag("<name>")]
        | Annotated[Files, Tag("<files>")]
        | Annotated[None, Tag("<none>")],
        Discriminator(name_or_files),
    ] = Field(
        description="a registered source's name, or {t2i: FILE, edit: FILE}; null: nothing can be "
        "trained until it is named"
    )
    composition: Composition
    filter: Filter = Filter()
    num_cases: int = Field(
        512, ge=1, le=10_000_000, description="unique cases per task, 1 to 10,000,000"
    )
    max_per_category: int | None = Field(
        None,
        ge=1,
        description="most unique cases of one category, 1 or more, or null; the category keeps its "
        "share of the samples, its cases come round more often",
    )
    selection_seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="null: the first cases of each category; 0 to 4294967295: others, drawn by it, "
        "which are the same ones where the source has no more than are asked for",
    )
    resolution: tuple[Pixels, Pixels] = Field(
        description=f"[height, width] in pixels, {sizes.ALLOWED}"
    )


class Tasks(Section):
    """The ratio in which micro-batches of the tasks alternate; exactly held."""

    t2i: Share
    edit: Share


class WeightRule(Section):
    """One row of a λ table: applies where every given selector matches."""

    weight: float = Field(ge=0, le=1, description="λ of this teacher where the rule applies, 0-1")
    rungs: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="rung numbers from 1, or null for all"
    )
    progress: tuple[float, float] = Field(
        (0.0, 1.0), description="[from, to) as parts of the run's iterations, 0 to 1"
    )
    task: Task | None = Field(None, description="'t2i', 'edit', or null for both")
    category: str | None = Field(None, description="a category's name, or null for all")


def _weight_kind(value: Any) -> str:
    return "<table>" if isinstance(value, list | tuple) else "<number>"


class ReplicaRange(Section):
    """A pool of teachers that follows its queue: between min and max actors."""

    min: int = Field(ge=1, le=1024, description="fewest actors, there from the start, 1 to 1024")
    max: int = Field(ge=1, le=1024, description="most actors, 1 to 1024")


def _replicas_kind(value: Any) -> str:
    return "<none>" if value is None else number_or_range(value)


_Number = Annotated[int, Field(ge=1, le=1024), Tag("<number>")]
_Range = Annotated[ReplicaRange, Tag("<range>")]


class Teacher(Section):
    """A frozen model whose score guides the student."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="letters a-z, digits, . _ -")
    model: str = Field(
        "base",
        description="'base'; a LoRA of the base, or a diffusers pipeline: a registered "
        "checkpoint's name, a folder, a LoRA's .safetensors file, or a hub id owner/name; a LoRA "
        "also owner/name@revision, owner/name/FILE@revision or s3://bucket/prefix",
    )
    guidance_scale: GuidanceScale | None = Field(
        None,
        description="classifier-free guidance scale, 1 (unguided) to 100; null: "
        "teacher_defaults.guidance_scale",
    )
    guidance_rescale: bool | None = Field(
        None,
        description="true or false: rescale guided scores to the conditional norm; null: "
        "teacher_defaults.guidance_rescale",
    )
    replicas: Annotated[
        _Number | _Range | Annotated[None, Tag("<none>")], Discriminator(_replicas_kind)
    ] = Field(
        None,
        description="actors of this teacher, 1 to 1024, or {min: ..., max: ...}; null: "
        "teacher_defaults.replicas",
    )
    weight: Annotated[
        Annotated[float, Field(ge=0, le=1), Tag("<number>")]
        | Annotated[tuple[WeightRule, ...], Tag("<table>")],
        Discriminator(_weight_kind),
    ] = Field(
        1.0,
        description="λ of this teacher: a number from 0 to 1, or a list of rules, the first that "
        "applies counts; over all teachers λ sums to 1",
    )


class TeacherDefaults(Section):
    """Where the teachers run, and what holds for each that does not say otherwise."""

    guidance_scale: GuidanceScale = Field(
        4.0, description="classifier-free guidance scale, 1 (unguided) to 100"
    )
    guidance_rescale: bool = Field(
        True, description="true or false: rescale guided scores to the conditional norm"
    )

    placement: Literal["actors", "in_process"] = Field(
        "actors", description="'actors' (Ray actors) or 'in_process' (a copy in every worker)"
    )
    replicas: Annotated[_Number | _Range, Discriminator(number_or_range)] = Field(
        1,
        description="actors per teacher, 1 to 1024, or {min: ..., max: ...} to follow the queue of "
        "requests; LoRAs and the base share theirs",
    )
    quantized: bool = Field(
        False,
        description="true or false: whether the base and LoRAs of it, in_process, answer from the "
        "base as training.base_precision has it, and not from one in training.precision",
    )
    max_in_flight: int = Field(
        2, ge=1, le=64, description="unanswered requests a worker may have, 1 to 64"
    )
    diagnose_every: int = Field(
        0,
        ge=0,
        description="iterations between those in which every teacher is asked, whatever its λ, to "
        "compare the scores; 0: never",
    )


class Objective(Section):
    """The distillation objective and its re-noising times t ~ shifted uniform [t_min, t_max]."""

    name: str = Field("dmd", description=" or ".join(map(repr, OBJECTIVES)))
    t_min: float = Field(0.02, ge=0, le=1, description="lowest re-noising time, 0 to 1")
    t_max: float = Field(0.98, ge=0, le=1, description="highest re-noising time, 0 to 1")
    timestep_shift: float = Field(
        1.0, gt=0, le=100, description="time shift of t, above 0 to 100; 1 is none, more is noisier"
    )


def sigma_schedule(steps: int, shift: float = 1.0) -> list[float]:
    """Noise levels of a sampler: `steps` of them, evenly spaced, descending from 1, without the
    final 0; then shifted towards noise (shift > 1) by s -> shift*s / (1 + (shift-1)*s).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2.
    """
    even = [(steps - k) / steps for k in range(steps)]
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]


class Student(Section):
    """The model that is trained."""

    init: str = Field(
        "base",
        min_length=1,
        description="what it starts from: 'base', students/NAME of the run's store, or a "
        "transformer of the base's shape: a folder, or a hub id",
    )
    weights: Literal["full", "lora"] = Field(
        "full",
        description="'full': all weights are trained; 'lora': a LoRA, and another one for the fake "
        "score, on one frozen base",
    )
    lora: Lora | None = Field(
        None,
        description="{rank, alpha, targets} of the student's LoRA; null: rank 64 on all linear "
        "layers of the blocks, where weights is lora",
    )
    steps: int = Field(4, ge=1, le=64, description="rungs, one evaluation of the model each: 1-64")
    timestep_shift: float = Field(
        2.0, gt=0, le=100, description="time shift of evenly spaced rungs, above 0 to 100"
    )
    sigmas: tuple[Sigma, ...] | None = Field(
        None,
        description="the rungs themselves, strictly decreasing in (0, 1], as many as steps; "
        "null: evenly spaced and shifted",
    )

    @property
    def rungs(self) -> list[float]:
        """Noise levels σ_1 > ... > σ_K in (0, 1], the final 0 not included."""
        if self.sigmas is not None:
            return list(self.sigmas)
        return sigma_schedule(self.steps, self.timestep_shift)


class Recipe(Section):
    """Everything that makes a run what it is. Frozen; `digest` names it in every checkpoint.

    `load.parse_recipe` makes one; it rejects fields that contradict each other too.
    """

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$",
        description="the run's and the student's name: letters a-z, digits, . _ -, at most 100",
    )
    family: str = Field("qwen-image-2.1", description="a registered model family's name")
    base: str = Field(
        min_length=1,
        description="a registered checkpoint's name, or a pipeline's folder or hub id, owner/name "
        "or owner/name@revision; without a revision the commit that is the newest at the start",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of all randomness, 0 to 4294967295")
    data: Data
    tasks: Tasks
    teachers: tuple[Teacher, ...] = Field(
        description="a list of one teacher or more, or a preset's name such as base-only"
    )
    teacher_defaults: TeacherDefaults = TeacherDefaults()
    objective: Objective = Objective()
    student: Student = Student()
    training: Training
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    runtime: Runtime

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of flash_ray that its run needs."""
        quantizer = self.training.quantizer
        return self.tracking.wanted + ((quantizer,) if quantizer else ())

    def guidance_of(self, teacher: Teacher) -> tuple[float, bool]:
        """(scale, rescale) of a teacher: its own, or `teacher_defaults`'s where it states none."""
        scale, rescale = teacher.guidance_scale, teacher.guidance_rescale
        return (
            self.teacher_defaults.guidance_scale if scale is None else scale,
            self.teacher_defaults.guidance_rescale if rescale is None else rescale,
        )

    @property
    def digest(self) -> str:
        """16 hex digits that are equal for recipes whose runs have the same numbers."""
        return identity.digest(identity.identity(self.model_dump(mode="json")))

    @property
    def resume_digest(self) -> str:
        """The same for recipes that a run can go on with: see `identity.validate_resume`."""
        return identity.digest(identity.resumable(self.model_dump(mode="json")))

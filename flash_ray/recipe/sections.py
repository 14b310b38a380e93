"""The sections of a recipe that say how it is trained, judged, followed and run; `schema` has the
others."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from flash_ray.errors import UserError

MOST = 100_000_000  # of what is counted in iterations
QUANTIZERS = {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, without unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def number_or_range(value: Any) -> str:
    """The tag of the branch, in a union of a number and a range, that a value belongs to."""
    return "<range>" if isinstance(value, dict | Section) else "<number>"


def name_or_files(value: Any) -> str:
    """The tag of the branch, in a union of a name, files and null, that a value belongs to."""
    if value is None:
        return "<none>"
    return "<files>" if isinstance(value, dict | Section) else "<name>"


class RowColumns(Section):
    """Which fields of a file's rows say what a case is made of."""

    prompt: str = Field("prompt", description="the prompt or the instruction, a string")
    category: str = Field("category", description="the category, a string")
    image: str = Field(
        "image",
        description="the pictures to edit: a path, encoded bytes, base64, a data URI, or a list of "
        "them; in WebDataset files the members of that name, or else those named as inputs are",
    )


class CaseColumns(RowColumns):
    """Those of a benchmark's rows; null: the field of the same name, where rows have it."""

    id: str | None = Field(None, description="the case's id: 1 to 100 of A-Z a-z 0-9 . _ -")
    text: str | None = Field(None, description="the text to be rendered, a string")
    seed: str | None = Field(None, description="the seed of the noise, 0 to 4294967295")
    size: str | None = Field(None, description="[height, width] of the answer in pixels")
    picture_prompt: str | None = Field(
        None,
        description="the prompt, or a list of them, from which the recipe's base draws the "
        "pictures to edit of a row that has none",
    )
    picture_seed: str | None = Field(
        None, description="the seed of the noise that they are drawn from, 0 to 4294967295"
    )
    picture_size: str | None = Field(None, description="[height, width] of them in pixels")

    @property
    def stated(self) -> dict[str, str]:
        """The columns of what is a case's own that the recipe names."""
        return {name: column for name in OF_A_CASE if (column := getattr(self, name)) is not None}

    @property
    def read(self) -> dict[str, str]:
        """The columns that what is a case's own is read from, where rows have them."""
        others = (self.prompt, self.category, self.image, *self.stated.values())
        unsaid = {name: name for name in OF_A_CASE if name not in others}
        return {**unsaid, **self.stated}


OF_A_CASE = ("id", "text", "seed", "size", "picture_prompt", "picture_seed", "picture_size")


class RowFiles(Section):
    """Where the files of rows are, by task."""

    t2i: str | None = Field(
        None,
        description="a .jsonl, .parquet, .tar, .arrow, .csv or .json file, a folder of them or of "
        "pictures with .txt files, s3://bucket/path, or hf://owner/name",
    )
    edit: str | None = Field(
        None,
        description="the same; where it is the address of t2i, rows with a picture are edits and "
        "the others text to image",
    )
    category: str | None = Field(
        None,
        min_length=1,
        description="the category of every row, or null: the category column says it",
    )


class BenchmarkFiles(RowFiles):
    """A benchmark's cases in files of the formats that training data may have."""

    columns: CaseColumns = CaseColumns()


BenchmarkChoice = Annotated[
    Annotated[str, Field(min_length=1), Tag("<name>")]
    | Annotated[BenchmarkFiles, Tag("<files>")]
    | Annotated[None, Tag("<none>")],
    Discriminator(name_or_files),
]


class Adam(Section):
    """AdamW settings of one network."""

    lr: float = Field(gt=0, le=1, description="learning rate, above 0 to 1")
    betas: tuple[Beta, Beta] = Field((0.0, 0.999), description="[beta1, beta2], each 0 to below 1")
    weight_decay: float = Field(0.0, ge=0, le=1, description="weight decay, 0 to 1")
    eps: float = Field(1e-8, gt=0, le=1, description="epsilon, above 0 to 1")


class Lora(Section):
    """The shape of a trained LoRA: W + alpha / rank * B A beside each of the frozen layers W."""

    rank: int = Field(64, ge=1, le=1024, description="rank of A and B, 1 to 1024")
    alpha: int | None = Field(
        None, ge=1, le=4096, description="scale times rank, 1 to 4096; null: the rank, scale 1"
    )
    targets: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=1,
        description="names, or ends of names, of linear layers of the transformer, such as "
        "[to_q, to_v]; null: the family's, all linear layers of its blocks",
    )


class FakeScore(Section):
    """The auxiliary network that learns the scores of the student's samples.

    It is a LoRA on the student's base where the student is one.
    """

    optimizer: Adam
    lora: Lora | None = Field(
        None, description="{rank, alpha, targets} of its LoRA; null: as student.lora"
    )
    updates_per_iteration: int = Field(
        2, ge=1, le=100, description="fake-score updates per iteration, 1 to 100"
    )


class Training(Section):
    """How long and how the student and the fake score learn.

    An iteration is one student update and the fake score's updates that follow it.
    """

    iterations: int = Field(
        ge=1, le=MOST, description="iterations, one student update each, 1 to 100,000,000"
    )
    optimizer: Adam
    fake_score: FakeScore
    ema_decay: float = Field(
        0.95, ge=0, lt=1, description="decay per iteration of the averaged student, 0 to below 1"
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="largest gradient norm, above 0; null: none"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="'fp32' or 'bf16'")
    base_precision: Literal["bf16", "fp8", "int8", "nf4"] | None = Field(
        None,
        description="of the frozen base that a LoRA student stands on: 'bf16', 'fp8', 'int8' or "
        "'nf4'; null: precision",
    )

    @property
    def base_format(self) -> Literal["fp8", "int8", "nf4"] | None:
        """How the base's weights are quantized; None: they are not."""
        return None if self.base_precision == "bf16" else self.base_precision

    @property
    def quantizer(self) -> str | None:
        """The library that quantizes the base, which names its extra and module; None: none."""
        return QUANTIZERS[self.base_format] if self.base_format else None


class CasesPerTask(Section):
    """Cases of each category, by task."""

    t2i: int = Field(2, ge=0, le=1000, description="text-to-image cases of each category, 0-1000")
    edit: int = Field(1, ge=0, le=1000, description="editing cases of each category, 0 to 1000")


class Evaluation(Section):
    """What the student is judged on.

    Without a benchmark nothing is drawn or scored, whatever the other keys say; without a judge
    the student draws the benchmark's cases, and no score is shown.
    """

    benchmark: BenchmarkChoice = Field(
        None,
        description="a registered benchmark's name, {t2i: FILE, edit: FILE}, or null: none",
    )
    judge: str | None = Field(
        None,
        min_length=1,
        description="a registered judge's name; it scores the run and what is published; null: "
        "no scores, contact sheets alone",
    )
    every: int | None = Field(
        None,
        ge=0,
        le=MOST,
        description="iterations after which the averaged student draws the first `cases`, for a "
        "contact sheet, and is scored on them; 0 or null: never",
    )
    cases: CasesPerTask = CasesPerTask()
    published_cases: int = Field(
        4,
        ge=0,
        le=1000,
        description="cases of each category that a student draws, and is scored on, before it is "
        "published; 0: none",
    )
    baselines: bool = Field(
        True,
        description="true or false: publish what teacher and untrained base score on these cases "
        "beside it",
    )

    @property
    def judge_name(self) -> str:
        """The judge of a recipe whose scores are needed; UserError where there is none."""
        if self.judge is None:
            raise UserError(
                "evaluation.judge: null; allowed here: a registered judge, as scores are asked "
                "for; set evaluation.judge to one that can judge the benchmark's cases"
            )
        return self.judge


class WandbProject(Section):
    """Where Weights & Biases puts a run. The key comes from WANDB_API_KEY, never here."""

    project: str = Field(min_length=1, description="the project's name")


class MlflowServer(Section):
    """Where MLflow puts a run. A login comes from MLFLOW_TRACKING_* variables, never here."""

    uri: str = Field(description="http(s)://host:port of a tracking server, or sqlite:///FILE")
    experiment: str = Field("flash_ray", min_length=1, description="the experiment's name")


class Tracking(Section):
    """Where a run can be followed beside the terminal and Prometheus; nothing by default."""

    tensorboard: bool = Field(
        False, description="true or false: write events to tensorboard/RUN and to the store"
    )
    wandb: WandbProject | None = Field(None, description="{project: NAME}, or null")
    mlflow: MlflowServer | None = Field(
        None, description="{uri: http(s)://host:port, experiment: NAME}, or null"
    )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The keys of the trackers that are wanted, which name their extras and modules too."""
        return tuple(name for name, value in self if value)


class Storage(Section):
    """Where checkpoints and students go. Credentials come from the AWS_* variables, never here."""

    url: str = Field("embedded", description="'embedded' or s3://bucket/prefix")
    endpoint: str | None = Field(
        None, description="http(s)://host:port of an S3 service that is not AWS, or null"
    )


class WorkerRange(Section):
    """Elastic training: between min and max workers, as many as the cluster can hold.

    An iteration has the samples of `max` workers; fewer workers take several passes for them.
    """

    min: int = Field(ge=1, le=4096, description="fewest workers, 1 to 4096")
    max: int = Field(ge=1, le=4096, description="most workers, 1 to 4096")
    resize_every_s: float = Field(
        60.0, ge=1, le=86400, description="seconds between checks for more resources, 1 to 86,400"
    )


class Runtime(Section):
    """The machines' part: it sets speed and memory, and through the global batch the result."""

    num_workers: Annotated[
        Annotated[int, Field(ge=1, le=4096), Tag("<number>")]
        | Annotated[WorkerRange, Tag("<range>")],
        Discriminator(number_or_range),
    ] = Field(description="training workers, 1 to 4096, or {min: ..., max: ...}")
    zero_stage: Literal[1, 2, 3] = Field(
        2, description="DeepSpeed ZeRO stage of a full student: 1, 2 or 3"
    )
    offload: Literal["none", "optimizer"] = Field(
        "none",
        description="'none' or 'optimizer': whether a full student's fp32 weights, moments and "
        "average are in the host's memory and AdamW runs on the CPU, with zero_stage 2 or 3",
    )
    base: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="'replicated' or 'sharded': whether each worker holds the whole frozen base "
        "that a LoRA student stands on, or its share of it (ZeRO 3)",
    )
    micro_batch_size: int = Field(ge=1, le=4096, description="cases per worker and pass, 1 to 4096")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096, description="passes per iteration, 1 to 4096"
    )
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="most workers x micro_batch_size x gradient_accumulation_steps, held to; null: "
        "not held",
    )
    checkpoint_every: int = Field(
        50, ge=0, le=MOST, description="iterations between checkpoints; 0: only at the end"
    )
    storage: Storage = Storage()
    scratch: str | None = Field(
        None,
        min_length=1,
        description="a folder on every node for checkpoints on their way to and from the store, "
        "such as /cache/tmp; null: the system's for temporary files",
    )
    max_failures: int = Field(
        3, ge=0, le=1000, description="restarts of the workers before the run fails, 0 to 1000"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="true or false: keep each block's input only and compute the rest again for "
        "the backward pass (gradient checkpointing)",
    )
    compile: bool = Field(
        False,
        description="true or false: compile the transformer's blocks (torch.compile); the first "
        "iterations of a run take minutes",
    )
    cpus_per_worker: float = Field(1.0, ge=0, le=1024, description="CPU cores per worker, 0-1024")
    gpu: bool = Field(False, description="true or false: one GPU for each worker and teacher")

    @property
    def min_workers(self) -> int:
        """The fewest workers that can train."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.min

    @property
    def max_workers(self) -> int:
        """The workers that need one pass for a micro-batch."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.max

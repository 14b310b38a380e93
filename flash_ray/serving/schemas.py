"""What the endpoints take and give, as the OpenAPI document shows it."""

from typing import Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flash_ray.evaluation.judges.base import CategoryScore
from flash_ray.recipe.schema import Task
from flash_ray.serving.settings import Limits
from flash_ray.serving.tokens import Role
from flash_ray.storage.scores import PublishedScores

SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
PROMPT = 'A poster with the word "SUN" in red letters'
Picture = Literal["png", "jpeg", "webp"]  # a picture's file
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
BENCHMARK = "A name of GET /v1/benchmarks."
REFERENCES = "Paths of the pictures to edit; none for text to image."


class Body(BaseModel):
    """A part of a request or an answer; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Bounds(Limits):
    """What one request may ask for."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    pixels: int = Field(description="Of a picture that is drawn.", examples=[4194304])
    size_step: int = Field(description="Width and height are multiples of it.", examples=[32])
    aspect: int = Field(description="One side is at most so many times the other.", examples=[8])


class Me(Body):
    """Who asks, as the server sees it."""

    role: Role = Field(
        examples=["generate"],
        description="Each may do what those before it may: read, generate, admin. Without tokens "
        "everybody is admin.",
    )
    limits: Bounds
    judges: list[str] = Field(
        examples=[["ocr", "mine"]],
        description="Those of all benchmarks; GET /v1/benchmarks says which of them judge what.",
    )
    scales: dict[str, str] = Field(
        examples=[{"ocr": "characters right, 0 to 1", "mine": "1 to 5"}],
        description="What the scores of each judge are.",
    )


class Generation(Body):
    """Pictures from a prompt: OpenAI's fields, and `seed` and `steps`. Null is as if left out."""

    model: str | None = Field(
        None, examples=["teacher"], description="A name of GET /v1/models. None: the server's."
    )
    prompt: str = Field(min_length=1, examples=[PROMPT])
    n: int = Field(1, ge=1, description="Pictures; their seeds count up from `seed`.")
    size: str = Field(
        "auto",
        pattern=SIZE,
        description="WIDTHxHEIGHT, multiples of 32. auto: the model's size; of an edit the shape "
        "nearest to the first picture's.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**53, description="Of the noise; the same picture again. None: any."
    )
    steps: int | None = Field(None, ge=1, description="Of the sampler; None: the model's own.")
    num_inference_steps: int | None = Field(None, ge=1, description="Another name of `steps`.")
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="url: a link for a while, to whoever has it."
    )
    output_format: Picture = "png"
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of a JPEG or WebP in percent; None: 100."
    )
    background: Literal["auto", "opaque", "transparent"] = Field(
        "auto", description="transparent: of models that draw it, as PNG or WebP."
    )
    stream: bool = Field(False, description="One picture, by server-sent events.")
    partial_images: int = Field(
        0, ge=0, le=3, description="Of a stream: at most so many pictures before the last one."
    )
    quality: Literal["auto", "standard"] = Field("auto", description="Taken, of no effect.")
    style: Literal["vivid", "natural"] | None = Field(None, description="Taken, of no effect.")
    moderation: Literal["auto", "low"] = Field("auto", description="Taken, of no effect.")
    user: str | None = Field(None, max_length=1000, description="Taken, of no effect.")

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, fields: Any) -> Any:
        """Without the fields that clients send for those that they leave out."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value not in cls._nothing()}

    @classmethod
    def _nothing(cls) -> tuple[Any, ...]:
        return (None,)


class Edit(Generation):
    """An edit of one picture or several by an instruction, as a form."""

    prompt: str = Field(min_length=1, examples=["Make the sky red"])
    image: list[UploadFile] = Field([], description="PNG, JPEG or WebP, by this name or the next.")
    images: list[UploadFile] = Field([], alias="image[]")
    mask: UploadFile | None = Field(None, description="An error: the prompt says what to change.")

    @classmethod
    def _nothing(cls) -> tuple[Any, ...]:
        return (None, "", [])  # a form has no null


class ImageData(Body):
    """One picture."""

    b64_json: str | None = Field(None, description="The picture's file in base64.")
    url: str | None = Field(None, description="A link to it, if that was asked for.")
    seed: int


class TokenDetails(Body):
    """Tokens of the text and of the pictures to edit."""

    text_tokens: int
    image_tokens: int


class Usage(Body):
    """Tokens as the model counts them; of the output, those of all pictures."""

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_tokens_details: TokenDetails


class Drawn(Body):
    """What is told of pictures beside themselves."""

    size: str = Field(description="WIDTHxHEIGHT.", examples=["1024x1024"])
    output_format: Picture
    quality: Literal["auto"] = "auto"
    background: Literal["opaque", "transparent"]


class Images(Drawn):
    """Pictures in the order of their seeds; `timings`: seconds queue, encode, denoise, decode."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageData]
    usage: Usage
    timings: dict[str, float]


class PartialImage(Drawn):
    """An event of a stream: what the picture looks like so far."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    created_at: int
    partial_image_index: int


class CompletedImage(Drawn):
    """The last event of a stream."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    created_at: int
    seed: int
    usage: Usage


class ModelCard(Body):
    """A model that the server has."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["flash_ray"] = "flash_ray"
    kind: Literal["student", "teacher"]
    base: str
    sigmas: list[float] = Field(description="Noise levels, descending, the final 0 left out.")
    steps: int
    evaluations: int = Field(description="Of the transformer for one picture.")
    guidance: float
    digest: str
    identity: str = Field(
        description="16 hex digits of what draws, weights and sampler; evaluations have it too.",
    )
    sizes: list[str]
    scores: PublishedScores | None = Field(
        description="On one of the server's benchmarks, when the student was published or the "
        "teacher's base was made; null: not scored on any of them.",
    )


class ModelCards(Body):
    """The models that the server has."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class BenchmarkCard(Body):
    """A benchmark: fixed cases that every model answers."""

    id: str = Field(examples=["signs"])
    tasks: dict[Task, list[str]] = Field(
        description="The categories of each task that it has.",
        examples=[{"t2i": ["wood", "metal"]}],
    )
    judges: dict[Task, list[str]] = Field(
        description="Those that can judge some cases of each task, the default first.",
        examples=[{"t2i": ["ocr", "mine"]}],
    )
    digest: str = Field(description="16 hex digits that change with any case.")


class BenchmarkCards(Body):
    """The server's benchmarks, or none: then nothing can be scored."""

    object: Literal["list"] = "list"
    data: list[BenchmarkCard]


class CaseCard(Body):
    """A case of a benchmark."""

    id: str
    category: str
    prompt: str
    size: str = Field(description="WIDTHxHEIGHT of the answer.", examples=["1024x1024"])
    seed: int
    references: list[str] = Field(description=REFERENCES)


class CaseCards(Body):
    """The first cases of each category of a task."""

    object: Literal["list"] = "list"
    data: list[CaseCard]


class ScoreRequest(Body):
    """An answer to a case, for the first judge of the benchmark and task."""

    benchmark: str = Field(max_length=100, examples=["signs"], description=BENCHMARK)
    task: Task
    case: str = Field(max_length=100, examples=["wood-open"])
    b64_json: str = Field(description="The answer, a PNG in base64.")


class Score(Body):
    """What a judge says of one picture."""

    score: float | None = Field(
        description="On the judge's scale, more is better; null where it has none."
    )
    measures: dict[str, float] = Field(
        description="Parts of the score by name; none if the judge has no parts.",
        examples=[{"compliance": 0.9, "quality": 0.8}],
    )
    failure: str | None = Field(
        description="Why a score that the judge should have is missing, in a word."
    )
    details: dict[str, Any] = Field(description="What the score comes from; each judge has others.")


class EvaluationRequest(Body):
    """A model's answers to the first cases of each category of a task, judged."""

    model: str = Field(examples=["teacher"], description="A name of GET /v1/models.")
    benchmark: str | None = Field(
        None, max_length=100, description=f"{BENCHMARK} None: the only one."
    )
    task: Task
    cases: int = Field(4, ge=1, description="Of each category.")
    seed: int = Field(0, ge=0, lt=2**31, description="Added to the cases' own seeds.")
    judge: str | None = Field(
        None,
        max_length=100,
        examples=["ocr"],
        description="One of those that GET /v1/benchmarks has for the task. None: the first.",
    )


class Progress(Body):
    """Answers that are drawn; once all are, they are judged."""

    done: int
    total: int


class Answer(Score):
    """A model's answer to one case, and what the judge says of it."""

    case: str
    category: str
    prompt: str
    picture: str = Field(description="The path of the answer.")
    references: list[str] = Field(description=REFERENCES)


class MeanScore(Body):
    """A mean over the cases that have a score; null if there are none."""

    score: float | None = Field(description="On the judge's scale.")
    interval: tuple[float, float] | None = Field(
        description="The 95 % bootstrap interval of that mean over the cases."
    )
    counted: int = Field(description="Cases with a score.")


class EvaluationResult(MeanScore):
    """What the judge says of all answers. What a judge does not measure is left out."""

    measures: dict[str, float] = Field(description="Means of the parts of the score, by name.")
    categories: dict[str, CategoryScore]
    answers: list[Answer]


class Failure(Body):
    """Why an evaluation failed."""

    error: str


class Evaluation(Body):
    """An evaluation; `score` and, outside lists, `result` are there once it has succeeded."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    status: Status
    model: str
    identity: str = Field(description="The model's, as GET /v1/models has it.")
    benchmark: str
    benchmark_digest: str = Field(description="Scores of other digests are of other cases.")
    task: Task
    cases: int
    seed: int
    judge: str
    scale: str = Field(examples=["1 to 5"], description="What the judge's scores are.")
    created: int
    progress: Progress
    error: str | None = None
    score: MeanScore | None = None
    result: EvaluationResult | None = None


class Evaluations(Body):
    """A page of evaluations."""

    object: Literal["list"] = "list"
    data: list[Evaluation]
    has_more: bool = Field(description="Ask for those `after` the last id.")


class Beside(Body):
    """Scores of two evaluations, and what the first has over the second, case by case."""

    left: MeanScore | None = Field(description="null: it has no such category.")
    right: MeanScore | None
    difference: MeanScore | None = Field(
        description="Over the cases that both have a score of; null if the two are unlike."
    )


class EvaluationPair(Body):
    """Two evaluations side by side."""

    left: str
    right: str
    unlike: list[Literal["benchmark", "task", "judge", "cases"]] = Field(
        description="In what they differ, so that their scores cannot be compared; else empty."
    )
    categories: dict[str, Beside]
    all: Beside


class ErrorBody(Body):
    """What is wrong, and which parameter it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Body):
    """Every status of 400 and more."""

    error: ErrorBody

"""What the endpoints take and give, as the OpenAPI document shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flash_ray.serving.settings import Limits
from flash_ray.serving.tokens import Role

SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
PROMPT = 'A poster with the word "SUN" in red letters'
Bench = Literal["t2i", "edit"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bounds(Limits):
    """What one request may ask for."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
    pixels: int = Field(description="Of a picture that is drawn.", examples=[16384])
    size_step: int = Field(description="Width and height are multiples of it.", examples=[32])


class Me(Body):
    """Who asks, as the server sees it."""

    role: Role = Field(
        examples=["generate"],
        description="Each may do what those before it may: read, generate, admin. Without tokens "
        "everybody is admin.",
    )
    limits: Bounds
    judges: list[str] = Field(
        examples=[["exact", "ocr"]], description="Those that an evaluation may ask for."
    )


class Generation(Body):
    """Pictures from a prompt; OpenAI's fields, and `seed` and `steps`."""

    model: str = Field(examples=["teacher"], description="A name of GET /v1/models.")
    prompt: str = Field(min_length=1, examples=[PROMPT])
    n: int = Field(1, ge=1, description="Pictures; their seeds count up from `seed`.")
    size: str = Field("auto", pattern=SIZE, description="WIDTHxHEIGHT, multiples of 32, or auto.")
    seed: int | None = Field(
        None, ge=0, lt=2**53, description="Of the noise; the same picture again. None: any."
    )
    steps: int | None = Field(None, ge=1, description="Of the sampler; None: the model's own.")
    response_format: Literal["b64_json"] = Field("b64_json", description="URLs are not given.")
    output_format: Literal["png"] = "png"
    background: Literal["auto", "opaque"] = "auto"
    quality: Literal["auto"] = "auto"
    moderation: Literal["auto", "low"] = Field("auto", description="Taken, of no effect.")
    user: str | None = Field(None, max_length=1000, description="Taken, of no effect.")


class ImageData(Body):
    b64_json: str = Field(description="A PNG in base64.")
    seed: int


class Images(Body):
    """Pictures in the order of their seeds; `timings`: seconds queue, encode, denoise, decode."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageData]
    timings: dict[str, float]


class ModelCard(Body):
    """A model that can be asked."""

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
    sizes: list[str]
    scores: dict[str, Any] | None = Field(
        description="Of the benches, 1 to 5, when it was published; the teacher's, when its base "
        "was made.",
        examples=[{"cases_per_category": 24, "t2i": 4.4, "edit": 4.3}],
    )


class ModelCards(Body):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class BenchCard(Body):
    id: Bench
    categories: list[str]


class BenchCards(Body):
    object: Literal["list"] = "list"
    data: list[BenchCard]


class CaseCard(Body):
    """A question of a bench; `input` is the path of the picture to edit."""

    id: str
    category: str
    index: int
    prompt: str
    seed: int
    input: str | None


class CaseCards(Body):
    object: Literal["list"] = "list"
    data: list[CaseCard]


class ScoreRequest(Body):
    bench: Bench
    case: str = Field(max_length=100, examples=["landscape-000"])
    b64_json: str = Field(description="The answer, a PNG in base64.")


class Score(Body):
    """What the exact judge says of one picture; `attributes`: credit 0 to 1 of what was asked."""

    score: float = Field(ge=1, le=5)
    compliance: float
    quality: float
    cap: str | None
    attributes: dict[str, float]


class EvaluationRequest(Body):
    """A model's answers to the first cases of each category of a bench, judged."""

    model: str = Field(examples=["teacher"])
    bench: Bench
    cases: int = Field(4, ge=1, description="Of each category.")
    seed: int = Field(0, ge=0, lt=2**31, description="Added to the cases' own seeds.")
    judge: str = Field(
        "exact",
        max_length=100,
        examples=["exact", "ocr"],
        description="One of those of GET /v1/me: `exact`, `ocr`, or a VLM of the settings.",
    )


class Progress(Body):
    """Answers that are drawn; once all are, they are judged."""

    done: int
    total: int


class Evaluation(Body):
    """An evaluation; `result` has scores, categories and answers once it has succeeded.

    Of judges other than `exact`, `counted` says how many cases have a score, and what they do not
    measure is null: compliance, quality, diversity, attributes; the score too, where `failure` says
    why an opinion is missing, or where there is nothing to judge.
    """

    id: str
    object: Literal["evaluation"] = "evaluation"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    bench: Bench
    cases: int
    seed: int
    judge: str
    created: int
    progress: Progress
    error: str | None = None
    result: dict[str, Any] | None = None


class Evaluations(Body):
    object: Literal["list"] = "list"
    data: list[Evaluation]
    has_more: bool = Field(description="Ask for those `after` the last id.")


class ErrorBody(Body):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Body):
    """Every status of 400 and more."""

    error: ErrorBody

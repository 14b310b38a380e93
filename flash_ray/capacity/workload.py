"""The work of a recipe's update: FLOPs, passes, bytes, from its model's sizes and assumptions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from flash_ray.capacity.pipeline import Architecture
from flash_ray.errors import UserError
from flash_ray.models.base import PIXELS_PER_TOKEN
from flash_ray.recipe import Recipe, messages
from flash_ray.recipe.schema import Section
from flash_ray.recipe.teacher_weights import moments, weights_at
from flash_ray.teachers.protocol import groups

BACKWARD = 2.0  # a backward pass costs two forward ones (arXiv 2001.08361, section 2.1)
FROZEN_BACKWARD = 1.0  # of a frozen base: no gradients of its weights
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Section):
    """Numbers of the machines and of the data; the defaults are one H100 SXM in nodes of 8."""

    device_flops_per_s: Positive = Field(
        989e12, description="dense bf16 peak of one GPU, above 0 (H100 SXM data sheet: 989e12)"
    )
    mfu: Share = Field(0.4, description="share of the peak that trainers reach, above 0 to 1")
    teacher_mfu: Share = Field(0.4, description="share that teachers reach, above 0 to 1")
    pass_seconds: float = Field(
        0.0, ge=0, description="fixed cost of a pass through the transformer in s, 0 or more"
    )
    teacher_pass_seconds: float = Field(
        0.0, ge=0, description="the same of a teacher's passes in s, 0 or more"
    )
    optimizer_step_seconds: float = Field(
        0.05, ge=0, description="one AdamW step and what is averaged after it in s, 0 or more"
    )
    gpu_memory_gib: Positive = Field(
        80.0, description="of one GPU in GiB, above 0 (a card of 80 GB has 80 GiB)"
    )
    other_memory_gib: float = Field(
        4.0, ge=0, description="CUDA context, NCCL and fragments per GPU in GiB, 0 or more"
    )
    host_process_gib: float = Field(
        4.0, ge=0, description="a process with torch and CUDA in the host's memory, in GiB"
    )
    activation_widths: Positive = Field(
        38.0,
        description="values kept for the backward pass per token and layer, in units of the width",
    )
    working_widths: Positive = Field(
        14.0,
        description="values at work per token beside those, in one layer, in units of the width",
    )
    gpus_per_node: int = Field(8, ge=1, description="1 or more")
    gpu_link_gb_per_s: Positive = Field(
        450.0, description="one GPU to others of its node, one way, in GB/s (NVLink 4: 450)"
    )
    node_network_gb_per_s: Positive = Field(
        400.0,
        description="one node to others, one way, in GB/s (8 x 400 Gb/s InfiniBand: 400; "
        "100 Gb/s Ethernet: 12.5)",
    )
    network_efficiency: Share = Field(0.8, description="share of those that is reached, 0 to 1")
    overlap: float = Field(
        0.5, ge=0, le=1, description="share of compute that traffic can hide behind, 0 to 1"
    )
    object_store_gb_per_s: Positive = Field(
        1.2, description="a tensor from a trainer to a teacher or back in GB/s, above 0"
    )
    call_seconds: float = Field(0.002, ge=0, description="a call of an actor in s, 0 or more")
    s3_gb_per_s_per_node: Positive = Field(1.0, description="upload of a node in GB/s, above 0")
    text_tokens: float = Field(256.0, ge=0, description="of a prompt with its template, 0 or more")
    negative_text_tokens: float = Field(
        32.0, ge=0, description="of an empty prompt with its template, 0 or more"
    )
    references: float = Field(
        1.0, ge=0, description="images of an edit, each of the output's area, 0 or more"
    )


@dataclass(frozen=True)
class Work:
    """FLOPs, and the passes through the transformer that they come in."""

    flops: float = 0.0
    passes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.passes + other.passes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.passes * times)


@dataclass(frozen=True)
class TaskTokens:
    """Tokens of one task's samples, and the share of micro-batches that the task has."""

    task: str
    share: float
    text_tokens: float
    negative_text_tokens: float
    reference_tokens: float
    target_tokens: int

    @property
    def prefix_tokens(self) -> float:
        """Tokens before the target under the condition."""
        return self.text_tokens + self.reference_tokens

    @property
    def negative_prefix_tokens(self) -> float:
        """Tokens before the target under the negative condition."""
        return self.negative_text_tokens + self.reference_tokens

    def condition_bytes(self, architecture: Architecture, value_bytes: int) -> float:
        """Bytes of positive and negative condition: latents, and the encoder's states of text."""
        states = self.text_tokens + self.negative_text_tokens
        latents = 2 * self.reference_tokens * architecture.in_channels
        return value_bytes * (states * architecture.context_width + latents)


@dataclass(frozen=True)
class TeacherWork:
    """The work of one group of teachers for a micro-batch, on average, and what is sent for it."""

    prefill: Work
    score: Work
    condition_bytes: float
    score_bytes: float


@dataclass(frozen=True)
class Workload:
    """The parts of an update, per micro-batch of one trainer, averaged over tasks and rungs.

    Args:
        rollout: the student's states up to the rung, without gradients.
        fake_update: forward and backward pass of one fake-score update, the mean of an iteration's.
        teachers: of each group.
    """

    rollout: Work
    student_forward: Work
    student_backward: Work
    fake_score: Work
    fake_update: Work
    teachers: tuple[TeacherWork, ...]


def assume(values: dict[str, Any]) -> Assumptions:
    """The assumptions with some changed.

    Raises:
        UserError: a value is out of its range.
    """
    try:
        return Assumptions.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"--set: {messages.problem(error, Assumptions)}") from None


def workload(recipe: Recipe, architecture: Architecture, assumed: Assumptions) -> Workload:
    """The recipe's micro-batch; `Assumptions.text_tokens` and `references` set its length."""
    tasks = list(task_tokens(recipe, assumed))
    batch = recipe.runtime.micro_batch_size

    def mean(flops: list[float]) -> Work:
        total = sum(task.share * value for task, value in zip(tasks, flops, strict=True))
        return Work(batch * total, 1.0)

    full = mean([architecture.full_flops(t.prefix_tokens, t.target_tokens) for t in tasks])
    cached = mean([architecture.cached_flops(t.prefix_tokens, t.target_tokens) for t in tasks])
    rungs = len(recipe.student.rungs)
    # To rung k (from 0) k passes: the first fills the prefix, the others and the one with gradients
    # reuse it. The fake score's first update reuses that of the pass before it.
    firsts = (rungs - 1) / rungs
    others = sum(max(0, k - 1) for k in range(rungs)) / rungs
    updates = recipe.training.fake_score.updates_per_iteration
    again = 1.0 if recipe.runtime.gradient_checkpointing else 0.0
    backward = FROZEN_BACKWARD if recipe.student.weights == "lora" else BACKWARD
    return Workload(
        rollout=full * firsts + cached * others,
        student_forward=full * (1 - firsts) + cached * firsts,
        student_backward=full * (backward + again),
        fake_score=full,
        fake_update=full * (1 - 1 / updates + backward + again) + cached * (1 / updates),
        teachers=tuple(_teachers(recipe, architecture, tasks)),
    )


def task_tokens(recipe: Recipe, assumed: Assumptions) -> Iterator[TaskTokens]:
    """Yields the tokens of each task that the recipe trains."""
    height, width = recipe.data.resolution
    target = (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)
    parts = recipe.tasks.model_dump()
    for task, part in parts.items():
        if part:
            reference_tokens = assumed.references * target if task == "edit" else 0.0
            yield TaskTokens(
                task,
                part / sum(parts.values()),
                assumed.text_tokens,
                assumed.negative_text_tokens,
                reference_tokens,
                target,
            )


def request_shares(recipe: Recipe, task: str) -> list[float]:
    """For each teacher the share of the task's micro-batches that it scores.

    A micro-batch is taken to hold every category of its task, as large ones do.
    """
    rungs, scoring = len(recipe.student.rungs), _scoring(recipe, task)
    every = recipe.teacher_defaults.diagnose_every
    shares = []
    for teacher in range(len(recipe.teachers)):
        share = sum(
            (end - start) / rungs
            for (_, start, end), teachers in scoring.items()
            if teacher in teachers
        )
        shares.append(share + (1 - share) / every if every else share)
    return shares


def teachers_at_once(recipe: Recipe, members: Sequence[int]) -> int:
    """The most of these teachers that are asked about one micro-batch."""
    if recipe.teacher_defaults.diagnose_every:
        return len(members)
    tasks = [task for task, part in recipe.tasks if part]
    asked = [teachers for task in tasks for teachers in _scoring(recipe, task).values()]
    return max(len(teachers & {*members}) for teachers in asked)


def _scoring(recipe: Recipe, task: str) -> dict[tuple[int, float, float], set[int]]:
    """The teachers whose λ is above 0, by (rung, progress from, to)."""
    scoring: dict[tuple[int, float, float], set[int]] = {}
    for moment, end in moments(recipe):
        if moment.task == task:
            teachers = scoring.setdefault((moment.rung, moment.progress, end), set())
            teachers |= {m for m, weight in enumerate(weights_at(recipe, moment)) if weight > 0}
    return scoring


def _teachers(
    recipe: Recipe, architecture: Architecture, tasks: list[TaskTokens]
) -> Iterator[TeacherWork]:
    batch = recipe.runtime.micro_batch_size
    value_bytes = 2 if recipe.training.precision == "bf16" else 4
    for group in groups(recipe):
        prefill = score = Work()
        condition_bytes = score_bytes = 0.0
        for task in tasks:
            requested = request_shares(recipe, task.task)
            sides = (task.prefix_tokens, task.negative_prefix_tokens)
            latent_bytes = 4 * task.target_tokens * architecture.in_channels  # fp32
            for member in group.members:
                share = task.share * requested[member]
                guided = recipe.guidance_of(recipe.teachers[member])[0] != 1.0
                for prefix in sides[: 1 + guided]:
                    ahead = architecture.prefill_flops(prefix)
                    now = architecture.cached_flops(prefix, task.target_tokens)
                    prefill += Work(batch * ahead, 1.0) * share
                    score += Work(batch * now, 1.0) * share
                score_bytes += batch * share * latent_bytes  # the answer
            announced = task.share * min(1.0, sum(requested[member] for member in group.members))
            score_bytes += batch * announced * latent_bytes
            condition_bytes += batch * announced * task.condition_bytes(architecture, value_bytes)
        yield TeacherWork(prefill, score, condition_bytes, score_bytes)

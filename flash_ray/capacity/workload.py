"""The work of one micro-batch of a recipe, for a trainer and for the teachers."""

from collections.abc import Iterator
from dataclasses import dataclass

from flash_ray.capacity.inputs import Architecture, Assumptions
from flash_ray.models.base import PIXELS_PER_TOKEN
from flash_ray.recipe import Recipe
from flash_ray.recipe.teacher_weights import moments, weights_at
from flash_ray.teachers.protocol import groups

BACKWARD = 2.0  # a backward pass costs two forward ones (arXiv 2001.08361, section 2.1)


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
        """Bytes of positive and negative condition: latents, and the encoder's states.

        The encoder has one state for four latents of an image.
        """
        states = self.text_tokens + self.negative_text_tokens + 2 * self.reference_tokens / 4
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
        fake_update: forward and backward pass of one fake-score update.
        teachers: of each group.
        longest_tokens: of the longest sample, for memory.
        gradient_checkpointing: whether the backward pass computes the forward pass again.
    """

    rollout: Work
    student_forward: Work
    student_backward: Work
    fake_score: Work
    fake_update: Work
    teachers: tuple[TeacherWork, ...]
    longest_tokens: float
    longest_prefix_tokens: float
    gradient_checkpointing: bool


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
    # To rung k (from 0) k passes: the first fills the prefix, the others reuse it.
    firsts = (rungs - 1) / rungs
    others = sum(max(0, k - 1) for k in range(rungs)) / rungs
    again = 1.0 if recipe.runtime.gradient_checkpointing else 0.0
    return Workload(
        rollout=full * firsts + cached * others,
        student_forward=full,
        student_backward=full * (BACKWARD + again),
        fake_score=full,
        fake_update=full * (1 + BACKWARD + again),
        teachers=tuple(_teachers(recipe, architecture, tasks)),
        longest_tokens=max(t.prefix_tokens + t.target_tokens for t in tasks),
        longest_prefix_tokens=max(t.prefix_tokens for t in tasks),
        gradient_checkpointing=recipe.runtime.gradient_checkpointing,
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
    rungs = len(recipe.student.rungs)
    scoring: dict[tuple[int, float, float], set[int]] = {}
    for moment, end in moments(recipe):
        if moment.task == task:
            teachers = scoring.setdefault((moment.rung, moment.progress, end), set())
            teachers |= {m for m, weight in enumerate(weights_at(recipe, moment)) if weight > 0}
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

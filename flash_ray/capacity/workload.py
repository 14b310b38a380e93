"""What one micro-batch of a recipe asks of a trainer and of the teachers."""

from collections.abc import Iterator
from dataclasses import dataclass

from flash_ray.capacity.architecture import Architecture
from flash_ray.capacity.assumptions import Assumptions
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
class Case:
    """Tokens of one task's samples, and the share of micro-batches that it has."""

    task: str
    share: float
    text_tokens: float
    negative_text_tokens: float
    reference_tokens: float
    target_tokens: int

    @property
    def prefix_tokens(self) -> float:
        return self.text_tokens + self.reference_tokens

    @property
    def negative_prefix_tokens(self) -> float:
        return self.negative_text_tokens + self.reference_tokens

    def condition_bytes(self, architecture: Architecture, value_bytes: int) -> float:
        """Of both sides: the encoder's states, one for four latents of a picture, and latents."""
        states = self.text_tokens + self.negative_text_tokens + 2 * self.reference_tokens / 4
        latents = 2 * self.reference_tokens * architecture.in_channels
        return value_bytes * (states * architecture.context_width + latents)


@dataclass(frozen=True)
class TeacherWork:
    """What a micro-batch asks of one group of teachers, on average."""

    prefill: Work
    score: Work
    condition_bytes: float
    question_bytes: float


@dataclass(frozen=True)
class Workload:
    """The parts of an update, per micro-batch of one trainer, averaged over tasks and rungs.

    Args:
        rollout: the student's states up to the rung, without gradients.
        fake_update: forward and backward pass of one fake-score update.
        teachers: of each group.
        longest_tokens: of the longest sample, for memory.
        recompute: the backward pass computes the forward pass again.
    """

    rollout: Work
    student_forward: Work
    student_backward: Work
    fake_score: Work
    fake_update: Work
    teachers: tuple[TeacherWork, ...]
    longest_tokens: float
    longest_prefix_tokens: float
    recompute: bool


def workload(recipe: Recipe, architecture: Architecture, assumed: Assumptions) -> Workload:
    """The recipe's micro-batch; `Assumptions.text_tokens` and `references` set its length."""
    cases = list(cases_of(recipe, assumed))
    batch = recipe.runtime.micro_batch_size

    def mean(flops: list[float]) -> Work:
        total = sum(case.share * value for case, value in zip(cases, flops, strict=True))
        return Work(batch * total, 1.0)

    full = mean([architecture.full_flops(c.prefix_tokens, c.target_tokens) for c in cases])
    cached = mean([architecture.cached_flops(c.prefix_tokens, c.target_tokens) for c in cases])
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
        teachers=tuple(_teachers(recipe, architecture, cases)),
        longest_tokens=max(c.prefix_tokens + c.target_tokens for c in cases),
        longest_prefix_tokens=max(c.prefix_tokens for c in cases),
        recompute=recipe.runtime.gradient_checkpointing,
    )


def cases_of(recipe: Recipe, assumed: Assumptions) -> Iterator[Case]:
    """The tasks that the recipe trains."""
    height, width = recipe.data.resolution
    target = (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)
    tasks = recipe.tasks.model_dump()
    for task, part in tasks.items():
        if part:
            pictures = assumed.references * target if task == "edit" else 0.0
            yield Case(
                task,
                part / sum(tasks.values()),
                assumed.text_tokens,
                assumed.negative_text_tokens,
                pictures,
                target,
            )


def asked_shares(recipe: Recipe, task: str) -> list[float]:
    """For each teacher the share of the task's micro-batches about which it is asked.

    A micro-batch is taken to hold every category of its task, as large ones do.
    """
    rungs = len(recipe.student.rungs)
    asked: dict[tuple[int, float, float], set[int]] = {}
    for moment, end in moments(recipe):
        if moment.task == task:
            wanted = asked.setdefault((moment.rung, moment.progress, end), set())
            wanted |= {m for m, weight in enumerate(weights_at(recipe, moment)) if weight > 0}
    every = recipe.teacher_defaults.diagnose_every
    shares = []
    for teacher in range(len(recipe.teachers)):
        share = sum(
            (end - start) / rungs for (_, start, end), who in asked.items() if teacher in who
        )
        shares.append(share + (1 - share) / every if every else share)
    return shares


def _teachers(
    recipe: Recipe, architecture: Architecture, cases: list[Case]
) -> Iterator[TeacherWork]:
    batch = recipe.runtime.micro_batch_size
    value_bytes = 2 if recipe.training.precision == "bf16" else 4
    for group in groups(recipe):
        prefill = score = Work()
        condition_bytes = question_bytes = 0.0
        for case in cases:
            asked = asked_shares(recipe, case.task)
            sides = (case.prefix_tokens, case.negative_prefix_tokens)
            latent_bytes = 4 * case.target_tokens * architecture.in_channels  # fp32
            for member in group.members:
                share = case.share * asked[member]
                guided = recipe.guidance_of(recipe.teachers[member])[0] != 1.0
                for prefix in sides[: 1 + guided]:
                    ahead = architecture.prefill_flops(prefix)
                    now = architecture.cached_flops(prefix, case.target_tokens)
                    prefill += Work(batch * ahead, 1.0) * share
                    score += Work(batch * now, 1.0) * share
                question_bytes += batch * share * latent_bytes  # the answer
            told = case.share * min(1.0, sum(asked[member] for member in group.members))
            question_bytes += batch * told * latent_bytes
            condition_bytes += batch * told * case.condition_bytes(architecture, value_bytes)
        yield TeacherWork(prefill, score, condition_bytes, question_bytes)

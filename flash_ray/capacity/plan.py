"""A recipe on so many GPUs: how they divide, seconds, who waits, whether it fits."""

import math
from dataclasses import dataclass

from flash_ray.capacity import sharding
from flash_ray.capacity.architecture import Architecture
from flash_ray.capacity.assumptions import Assumptions
from flash_ray.capacity.timeline import Parts, Timing, simulate
from flash_ray.capacity.workload import Work, Workload, workload
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import groups

TRAINERS_PER_TEACHER = (1, 2, 3, 5, 7, 15)


@dataclass(frozen=True)
class Plan:
    """What the model says of one division of the GPUs.

    Args:
        teachers: GPUs with a teacher; 0: in the trainers' processes.
        stage: ZeRO's, the recipe's own, or a higher one if only that fits.
        global_batch: images an update: the recipe's, or one micro-batch for each trainer.
        fits: both kinds of GPU hold what they must.
        sent_bytes: of an update, between trainers and teachers, all together.
        gathered_bytes: of an update, past every trainer's network, for ZeRO.
    """

    gpus: int
    trainers: int
    teachers: int
    stage: int
    global_batch: int
    accumulation: int
    parts: Parts
    timing: Timing
    trainer_memory: sharding.Memory
    teacher_memory: sharding.Memory
    fits: bool
    sent_bytes: float
    gathered_bytes: float
    checkpoint_bytes: int
    checkpoint_seconds: float

    @property
    def images_per_second(self) -> float:
        return self.global_batch / self.timing.seconds

    @property
    def gpu_hours_per_100_updates(self) -> float:
        """Without checkpoints and benches."""
        return 100 * self.timing.seconds * self.gpus / 3600


def plans(
    recipe: Recipe, architecture: Architecture, assumed: Assumptions, gpus: int
) -> list[Plan]:
    """All divisions that are looked at, teachers in the trainers' processes first.

    Raises:
        UserError: too few GPUs for a trainer and a teacher of each group.
    """
    kinds = len(groups(recipe))
    if gpus < kinds + 1:
        raise UserError(
            f"--gpus: {gpus}; allowed: {kinds + 1} or more, one trainer and one teacher of each of "
            f"{kinds} pipelines; raise it"
        )
    splits = [(gpus, 0)]
    for ratio in TRAINERS_PER_TEACHER:
        replicas = gpus // (ratio + kinds)
        if replicas and gpus - replicas * (ratio + kinds) < gpus / 4:  # few stay unused
            splits.append((ratio * replicas, replicas))
    if len(splits) == 1:
        splits.append((gpus - kinds, 1))
    return [_plan(recipe, architecture, assumed, gpus, *split) for split in splits]


def best(found: list[Plan]) -> Plan:
    """The one with teachers of their own that draws most images a second; one that fits, if any
    does."""
    apart = [plan for plan in found if plan.teachers]
    return max(apart, key=lambda plan: (plan.fits, plan.images_per_second))


def _plan(
    recipe: Recipe,
    architecture: Architecture,
    assumed: Assumptions,
    gpus: int,
    trainers: int,
    replicas: int,
) -> Plan:
    """`replicas` of each group of teachers; 0: in the trainers' processes."""
    runtime, work = recipe.runtime, workload(recipe, architecture, assumed)
    accumulation = max(1, math.ceil(_global_batch(recipe) / (trainers * runtime.micro_batch_size)))
    per_teacher = math.ceil(trainers / replicas) if replicas else 1
    tickets = recipe.teacher_defaults.max_in_flight * per_teacher
    teacher = sharding.teacher_memory(
        architecture, work, assumed, runtime.micro_batch_size, tickets
    )
    inside = 0 if replicas else len(work.teachers)
    for stage in range(runtime.zero_stage, 4):
        trainer = sharding.trainer_memory(
            architecture, work, assumed, stage, trainers, runtime.micro_batch_size, inside
        )
        if trainer.total <= assumed.gpu_memory_gb:
            break
    parts = parts_of(recipe, architecture, assumed, work, stage, trainers, accumulation)
    teachers = work.teachers
    if replicas:
        timing = simulate(parts, per_teacher, 1, accumulation)
    else:
        timing = _in_process(parts, accumulation)
    sent = sum(t.condition_bytes + t.question_bytes for t in teachers) if replicas else 0.0
    return Plan(
        gpus,
        trainers,
        replicas * len(teachers),
        stage,
        trainers * runtime.micro_batch_size * accumulation,
        accumulation,
        parts,
        timing,
        trainer,
        teacher,
        max(trainer.total, teacher.total if replicas else 0) <= assumed.gpu_memory_gb,
        sent * trainers * accumulation,
        _gathered_bytes(recipe, architecture, work, stage, trainers, accumulation),
        sharding.checkpoint_bytes(architecture),
        sharding.checkpoint_seconds(architecture, assumed, trainers),
    )


def parts_of(
    recipe: Recipe,
    architecture: Architecture,
    assumed: Assumptions,
    work: Workload,
    stage: int,
    trainers: int,
    accumulation: int,
) -> Parts:
    """Seconds of a trainer's parts, traffic included, and of the slowest group's teacher."""

    def trained(of: Work, volumes: float) -> float:
        rate = assumed.device_flops_per_s * assumed.mfu
        compute = of.flops / rate + of.passes * assumed.pass_seconds
        traffic = sharding.traffic_seconds(architecture, assumed, trainers, volumes)
        return compute + max(0.0, traffic - assumed.overlap * compute)

    def answered(of: Work, sent_bytes: float) -> float:
        rate = assumed.device_flops_per_s * assumed.teacher_mfu
        compute = of.flops / rate + of.passes * assumed.teacher_pass_seconds
        sent = sent_bytes / (assumed.object_store_gb_per_s * 1e9)
        return compute + sent + assumed.call_seconds

    forward, backward = sharding.FORWARD[stage], sharding.BACKWARD[stage]
    before = work.rollout + work.student_forward
    repeats = recipe.training.fake_score.updates_per_iteration
    fake = trained(work.fake_update, forward + backward) * accumulation
    step = trained(Work(), sharding.STEP[stage]) + assumed.optimizer_step_seconds
    return Parts(
        before=trained(before, forward * before.passes),
        fake_score=trained(work.fake_score, forward),
        backward=trained(work.student_backward, backward),
        tail=step + repeats * (fake + step),
        prefill=max(answered(t.prefill, t.condition_bytes) for t in work.teachers),
        score=max(answered(t.score, t.question_bytes) for t in work.teachers),
    )


def _in_process(parts: Parts, accumulation: int) -> Timing:
    """With `teacher_defaults.placement: in_process` the trainer computes the teacher's part itself."""
    own = parts.before + parts.prefill + parts.score + parts.fake_score + parts.backward
    return Timing(accumulation * own + parts.tail, 0.0, 0.0)


def _global_batch(recipe: Recipe) -> int:
    runtime = recipe.runtime
    workers = (
        runtime.num_workers if isinstance(runtime.num_workers, int) else runtime.num_workers.max
    )
    return (
        runtime.global_batch_size
        or workers * runtime.micro_batch_size * runtime.gradient_accumulation_steps
    )


def _gathered_bytes(
    recipe: Recipe,
    architecture: Architecture,
    work: Workload,
    stage: int,
    trainers: int,
    accumulation: int,
) -> float:
    forward, backward = sharding.FORWARD[stage], sharding.BACKWARD[stage]
    repeats = recipe.training.fake_score.updates_per_iteration
    forwards = work.rollout.passes + 2 + repeats
    each = forwards * forward + (1 + repeats) * backward
    volumes = accumulation * each + (1 + repeats) * sharding.STEP[stage]
    moved = volumes * sharding.WEIGHT_BYTES * architecture.parameters
    return moved * (trainers - 1) / trainers

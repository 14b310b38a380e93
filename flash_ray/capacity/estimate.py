"""A recipe on a number of GPUs: how they divide, seconds, who waits, whether it fits."""

import math
from dataclasses import dataclass

from flash_ray.capacity import sharding
from flash_ray.capacity.inputs import Architecture, Assumptions
from flash_ray.capacity.timeline import StageSeconds, Timing, simulate
from flash_ray.capacity.workload import Work, Workload, workload
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import groups

TRAINERS_PER_TEACHER = (1, 2, 3, 5, 7, 15)


@dataclass(frozen=True)
class Estimate:
    """What the model says of one division of the GPUs between trainers and teachers.

    Args:
        teachers: GPUs with a teacher; 0: in the trainers' processes.
        stage: of ZeRO: the recipe's, or a higher one if only that fits.
        global_batch: images an update: the recipe's, or one micro-batch for each trainer.
        fits: both kinds of GPU hold what they must.
        sent_bytes: between trainers and teachers in an update, all together.
        gathered_bytes: past every trainer's network in an update, for ZeRO.
    """

    gpus: int
    trainers: int
    teachers: int
    stage: int
    global_batch: int
    accumulation: int
    stages: StageSeconds
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
        """Images of the global batch that are trained on in a second."""
        return self.global_batch / self.timing.seconds

    @property
    def gpu_hours_per_100_updates(self) -> float:
        """GPU-hours, without checkpoints and evaluations."""
        return 100 * self.timing.seconds * self.gpus / 3600


def estimates(
    recipe: Recipe, architecture: Architecture, assumed: Assumptions, gpus: int
) -> list[Estimate]:
    """An estimate for each division worth a look, teachers in the trainers' processes first.

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
    return [_estimate(recipe, architecture, assumed, gpus, *split) for split in splits]


def best(candidates: list[Estimate]) -> Estimate:
    """The division with GPUs for teachers that draws most images a second; it fits, if any does."""
    with_teachers = [candidate for candidate in candidates if candidate.teachers]
    return max(with_teachers, key=lambda candidate: (candidate.fits, candidate.images_per_second))


def _estimate(
    recipe: Recipe,
    architecture: Architecture,
    assumed: Assumptions,
    gpus: int,
    trainers: int,
    replicas: int,
) -> Estimate:
    """`replicas` of each group of teachers; 0: in the trainers' processes."""
    runtime, work = recipe.runtime, workload(recipe, architecture, assumed)
    accumulation = max(1, math.ceil(_global_batch(recipe) / (trainers * runtime.micro_batch_size)))
    per_teacher = math.ceil(trainers / replicas) if replicas else 1
    open_requests = recipe.teacher_defaults.max_in_flight * per_teacher
    teacher = sharding.teacher_memory(
        architecture, work, assumed, runtime.micro_batch_size, open_requests
    )
    inside = 0 if replicas else len(work.teachers)
    for stage in range(runtime.zero_stage, 4):
        trainer = sharding.trainer_memory(
            architecture, work, assumed, stage, trainers, runtime.micro_batch_size, inside
        )
        if trainer.total <= assumed.gpu_memory_gb:
            break
    stages = stage_seconds(recipe, architecture, assumed, work, stage, trainers, accumulation)
    teachers = work.teachers
    if replicas:
        timing = simulate(stages, per_teacher, 1, accumulation)
    else:
        timing = _in_process(stages, accumulation)
    sent = sum(t.condition_bytes + t.score_bytes for t in teachers) if replicas else 0.0
    return Estimate(
        gpus,
        trainers,
        replicas * len(teachers),
        stage,
        trainers * runtime.micro_batch_size * accumulation,
        accumulation,
        stages,
        timing,
        trainer,
        teacher,
        max(trainer.total, teacher.total if replicas else 0) <= assumed.gpu_memory_gb,
        sent * trainers * accumulation,
        _gathered_bytes(recipe, architecture, work, stage, trainers, accumulation),
        sharding.checkpoint_bytes(architecture),
        sharding.checkpoint_seconds(architecture, assumed, trainers),
    )


def stage_seconds(
    recipe: Recipe,
    architecture: Architecture,
    assumed: Assumptions,
    work: Workload,
    stage: int,
    trainers: int,
    accumulation: int,
) -> StageSeconds:
    """Seconds of a trainer's stages, traffic included, and of the slowest group's teacher."""

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
    return StageSeconds(
        before=trained(before, forward * before.passes),
        fake_score=trained(work.fake_score, forward),
        backward=trained(work.student_backward, backward),
        tail=step + repeats * (fake + step),
        prefill=max(answered(t.prefill, t.condition_bytes) for t in work.teachers),
        score=max(answered(t.score, t.score_bytes) for t in work.teachers),
    )


def _in_process(stages: StageSeconds, accumulation: int) -> Timing:
    """The timing under `teacher_defaults.placement` in_process: trainers do the teachers' work."""
    each = stages.before + stages.prefill + stages.score + stages.fake_score + stages.backward
    return Timing(accumulation * each + stages.tail, 0.0, 0.0)


def _global_batch(recipe: Recipe) -> int:
    runtime = recipe.runtime
    return (
        runtime.global_batch_size
        or runtime.max_workers * runtime.micro_batch_size * runtime.gradient_accumulation_steps
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

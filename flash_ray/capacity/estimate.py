"""Estimates how a number of GPUs would do a recipe's work: memory under ZeRO, traffic, seconds."""

import math
from dataclasses import dataclass

from flash_ray.capacity.device import GIB, DeviceMemory
from flash_ray.capacity.memory import FP32, MemoryModel
from flash_ray.capacity.pipeline import Architecture, Pipeline
from flash_ray.capacity.timeline import StageSeconds, Timing, simulate
from flash_ray.capacity.workload import Assumptions, Work, Workload, workload
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.sections import Lora
from flash_ray.teachers.protocol import groups

TRAINERS_PER_TEACHER = (1, 2, 3, 5, 7, 15)  # divisions worth a look
# Reduced gradients and gathered weights by ZeRO stage, in units of the model's bytes.
FORWARD_VOLUMES = {1: 0.0, 2: 0.0, 3: 1.0}
BACKWARD_VOLUMES = {1: 0.0, 2: 1.0, 3: 2.0}
STEP_VOLUMES = {1: 2.0, 2: 1.0, 3: 0.0}


@dataclass(frozen=True)
class Estimate:
    """What the model says of one division of the GPUs between trainers and teachers.

    Args:
        teachers: GPUs with a teacher; 0: in the trainers' processes.
        stage: of ZeRO: the recipe's, or a higher one if only that fits; 0: LoRAs, without ZeRO.
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
    trainer_memory: DeviceMemory
    teacher_memory: DeviceMemory
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
    recipe: Recipe, pipeline: Pipeline, assumed: Assumptions, gpus: int
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
    return [_estimate(recipe, pipeline, assumed, gpus, *split) for split in splits]


def best(candidates: list[Estimate]) -> Estimate:
    """The division with GPUs for teachers that draws most images a second; it fits, if any does."""
    with_teachers = [candidate for candidate in candidates if candidate.teachers]
    return max(with_teachers, key=lambda candidate: (candidate.fits, candidate.images_per_second))


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

    def trained(of: Work, moved: float) -> float:
        rate = assumed.device_flops_per_s * assumed.mfu
        compute = of.flops / rate + of.passes * assumed.pass_seconds
        traffic = traffic_seconds(assumed, trainers, moved)
        return compute + max(0.0, traffic - assumed.overlap * compute)

    def answered(of: Work, sent_bytes: float) -> float:
        rate = assumed.device_flops_per_s * assumed.teacher_mfu
        compute = of.flops / rate + of.passes * assumed.teacher_pass_seconds
        sent = sent_bytes / (assumed.object_store_gb_per_s * 1e9)
        return compute + sent + assumed.call_seconds

    forward, backward, stepped = moved_bytes(recipe, architecture, stage)
    before = work.rollout + work.student_forward
    repeats = recipe.training.fake_score.updates_per_iteration
    fake = trained(work.fake_update, forward + backward) * accumulation
    step = trained(Work(), stepped) + assumed.optimizer_step_seconds
    return StageSeconds(
        before=trained(before, forward * before.passes),
        fake_score=trained(work.fake_score, forward),
        backward=trained(work.student_backward, backward),
        tail=step + repeats * (fake + step),
        prefill=max(answered(t.prefill, t.condition_bytes) for t in work.teachers),
        score=max(answered(t.score, t.score_bytes) for t in work.teachers),
    )


def moved_bytes(
    recipe: Recipe, architecture: Architecture, stage: int
) -> tuple[float, float, float]:
    """Bytes that trainers gather or reduce for a forward pass, a backward pass and a step.

    Adapters' gradients are summed in fp32, once a step; reducing moves them twice.
    """
    if recipe.student.weights == "lora":
        lora = recipe.student.lora or Lora()
        return 0.0, 0.0, 2.0 * FP32 * architecture.lora_parameters(lora)
    each = (2 if recipe.training.precision == "bf16" else 4) * architecture.parameters
    volumes = FORWARD_VOLUMES[stage], BACKWARD_VOLUMES[stage], STEP_VOLUMES[stage]
    forward, backward, step = (volume * each for volume in volumes)
    return forward, backward, step


def traffic_seconds(assumed: Assumptions, trainers: int, moved: float) -> float:
    """Seconds of gathering or reducing so many bytes, each once.

    A ring moves (N-1)/N of the bytes past every GPU. Between nodes it moves them once through
    each node's network, all its ports together.
    """
    slowest = assumed.gpu_link_gb_per_s
    if trainers > assumed.gpus_per_node:
        slowest = min(slowest, assumed.node_network_gb_per_s)
    share = moved * (trainers - 1) / trainers
    return share / (slowest * assumed.network_efficiency * 1e9)


def checkpoint_seconds(bytes_in_all: int, assumed: Assumptions, trainers: int) -> float:
    """Seconds of the upload by all trainers' nodes at once, beside the training."""
    nodes = math.ceil(trainers / assumed.gpus_per_node)
    return bytes_in_all / (nodes * assumed.s3_gb_per_s_per_node * 1e9)


def _estimate(
    recipe: Recipe,
    pipeline: Pipeline,
    assumed: Assumptions,
    gpus: int,
    trainers: int,
    replicas: int,
) -> Estimate:
    """`replicas` of each group of teachers; 0: in the trainers' processes."""
    runtime, architecture = recipe.runtime, pipeline.transformer
    work = workload(recipe, architecture, assumed)
    accumulation = max(1, math.ceil(_global_batch(recipe) / (trainers * runtime.micro_batch_size)))
    per_teacher = math.ceil(trainers / replicas) if replicas else 1
    open_requests = recipe.teacher_defaults.max_in_flight * per_teacher
    most = assumed.gpu_memory_gib * GIB
    is_full = recipe.student.weights == "full"
    for stage in range(runtime.zero_stage, 4) if is_full else (0,):
        model = MemoryModel(recipe, pipeline, assumed, stage, trainers)
        trainer = model.trainer(teachers_inside=not replicas)
        if trainer.total <= most:
            break
    by_group = [model.teacher(group, open_requests) for group in groups(recipe)]
    teacher = max(by_group, key=lambda memory: memory.total)
    stages = stage_seconds(recipe, architecture, assumed, work, stage, trainers, accumulation)
    if replicas:
        timing = simulate(stages, per_teacher, 1, accumulation)
    else:
        timing = _in_process(stages, accumulation)
    sent = sum(t.condition_bytes + t.score_bytes for t in work.teachers) if replicas else 0.0
    return Estimate(
        gpus,
        trainers,
        replicas * len(by_group),
        stage,
        trainers * runtime.micro_batch_size * accumulation,
        accumulation,
        stages,
        timing,
        trainer,
        teacher,
        max(trainer.total, teacher.total if replicas else 0) <= most,
        sent * trainers * accumulation,
        _gathered_bytes(recipe, architecture, work, stage, trainers, accumulation),
        model.checkpoint,
        checkpoint_seconds(model.checkpoint, assumed, trainers),
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
    forward, backward, step = moved_bytes(recipe, architecture, stage)
    repeats = recipe.training.fake_score.updates_per_iteration
    forwards = work.rollout.passes + 2 + repeats
    each = forwards * forward + (1 + repeats) * backward
    return (accumulation * each + (1 + repeats) * step) * (trainers - 1) / trainers

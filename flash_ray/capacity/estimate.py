"""Estimates how a number of GPUs would do a recipe's work: memory under ZeRO, traffic, seconds."""

import math
from dataclasses import dataclass

from flash_ray.capacity.timeline import StageSeconds, Timing, simulate
from flash_ray.capacity.workload import Architecture, Assumptions, Work, Workload, workload
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import groups

TRAINERS_PER_TEACHER = (1, 2, 3, 5, 7, 15)  # divisions worth a look
ENGINES = 2  # the student and the fake score
WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES, EMA_BYTES = 2, 2, 12, 4
# Reduced gradients and gathered weights by ZeRO stage, in units of the model's bf16 bytes.
FORWARD_VOLUMES = {1: 0.0, 2: 0.0, 3: 1.0}
BACKWARD_VOLUMES = {1: 0.0, 2: 1.0, 3: 2.0}
STEP_VOLUMES = {1: 2.0, 2: 1.0, 3: 0.0}


@dataclass(frozen=True)
class Memory:
    """What a GPU holds, in GB of 10^9 bytes.

    Args:
        engines: both engines' weights, gradients and optimizer states, and the average's share.
        frozen: the base's transformer and VAE, which every worker and teacher loads whole.
        activations: what the longest micro-batch keeps for its backward pass, and keys and values
            of prefixes.
    """

    engines: float
    frozen: float
    activations: float
    other: float

    @property
    def total(self) -> float:
        """All of it, in GB."""
        return self.engines + self.frozen + self.activations + self.other


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
    trainer_memory: Memory
    teacher_memory: Memory
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
        traffic = traffic_seconds(architecture, assumed, trainers, volumes)
        return compute + max(0.0, traffic - assumed.overlap * compute)

    def answered(of: Work, sent_bytes: float) -> float:
        rate = assumed.device_flops_per_s * assumed.teacher_mfu
        compute = of.flops / rate + of.passes * assumed.teacher_pass_seconds
        sent = sent_bytes / (assumed.object_store_gb_per_s * 1e9)
        return compute + sent + assumed.call_seconds

    forward, backward = FORWARD_VOLUMES[stage], BACKWARD_VOLUMES[stage]
    before = work.rollout + work.student_forward
    repeats = recipe.training.fake_score.updates_per_iteration
    fake = trained(work.fake_update, forward + backward) * accumulation
    step = trained(Work(), STEP_VOLUMES[stage]) + assumed.optimizer_step_seconds
    return StageSeconds(
        before=trained(before, forward * before.passes),
        fake_score=trained(work.fake_score, forward),
        backward=trained(work.student_backward, backward),
        tail=step + repeats * (fake + step),
        prefill=max(answered(t.prefill, t.condition_bytes) for t in work.teachers),
        score=max(answered(t.score, t.score_bytes) for t in work.teachers),
    )


def trainer_memory(
    architecture: Architecture,
    work: Workload,
    assumed: Assumptions,
    stage: int,
    trainers: int,
    micro_batch: int,
    teachers_inside: int = 0,
) -> Memory:
    """The memory of a trainer's GPU under ZeRO `stage` over so many trainers.

    Args:
        teachers_inside: groups of teachers in the trainer's process, the base's among them.
    """
    sharded = {
        1: (0, 0, ADAM_BYTES),
        2: (0, GRADIENT_BYTES, ADAM_BYTES),
        3: (WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES),
    }[stage]
    whole = WEIGHT_BYTES + GRADIENT_BYTES + ADAM_BYTES - sum(sharded)
    each = ENGINES * (whole + sum(sharded) / trainers) + EMA_BYTES / trainers
    live = 2 * architecture.layer_weights * WEIGHT_BYTES if stage == 3 else 0  # gathered layers
    layer = 2 * micro_batch * work.longest_tokens * architecture.width  # bf16, one width
    if work.gradient_checkpointing:  # every layer's input, and one layer whole
        activations = layer * (architecture.layers + assumed.activation_widths)
    else:
        activations = layer * architecture.layers * assumed.activation_widths
    # The rollout's prefix, the fake score's, and of each group both sides'.
    prefixes = (2 + 2 * teachers_inside) * _prefix_bytes(architecture, work, micro_batch)
    return Memory(
        (each * architecture.parameters + live) / 1e9,
        max(1, teachers_inside) * _frozen_gb(architecture, assumed),
        (activations + prefixes) / 1e9,
        assumed.other_memory_gb,
    )


def teacher_memory(
    architecture: Architecture,
    work: Workload,
    assumed: Assumptions,
    micro_batch: int,
    open_requests: int,
) -> Memory:
    """The memory of a teacher's GPU: weights, keys and values of all open requests."""
    prefixes = open_requests * 2 * _prefix_bytes(architecture, work, micro_batch)
    layer = 2 * micro_batch * work.longest_tokens * architecture.width * assumed.activation_widths
    return Memory(
        0.0,
        _frozen_gb(architecture, assumed),
        (prefixes + layer) / 1e9,
        assumed.other_memory_gb,
    )


def traffic_seconds(
    architecture: Architecture, assumed: Assumptions, trainers: int, volumes: float
) -> float:
    """Seconds of gathering or reducing the model's bf16 bytes `volumes` times.

    A ring moves (N-1)/N of the bytes past every GPU. Between nodes it moves them once through
    each node's network, all its ports together.
    """
    slowest = assumed.gpu_link_gb_per_s
    if trainers > assumed.gpus_per_node:
        slowest = min(slowest, assumed.node_network_gb_per_s)
    moved = volumes * WEIGHT_BYTES * architecture.parameters * (trainers - 1) / trainers
    return moved / (slowest * assumed.network_efficiency * 1e9)


def checkpoint_bytes(architecture: Architecture) -> int:
    """Bytes of both engines' weights and optimizer states, and of the average."""
    each = ENGINES * (WEIGHT_BYTES + ADAM_BYTES) + EMA_BYTES
    return each * architecture.parameters


def checkpoint_seconds(architecture: Architecture, assumed: Assumptions, trainers: int) -> float:
    """Seconds of the upload by all trainers' nodes at once, during which nobody trains."""
    nodes = math.ceil(trainers / assumed.gpus_per_node)
    return checkpoint_bytes(architecture) / (nodes * assumed.s3_gb_per_s_per_node * 1e9)


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
    teacher = teacher_memory(architecture, work, assumed, runtime.micro_batch_size, open_requests)
    inside = 0 if replicas else len(work.teachers)
    for stage in range(runtime.zero_stage, 4):
        trainer = trainer_memory(
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
        checkpoint_bytes(architecture),
        checkpoint_seconds(architecture, assumed, trainers),
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
    forward, backward = FORWARD_VOLUMES[stage], BACKWARD_VOLUMES[stage]
    repeats = recipe.training.fake_score.updates_per_iteration
    forwards = work.rollout.passes + 2 + repeats
    each = forwards * forward + (1 + repeats) * backward
    volumes = accumulation * each + (1 + repeats) * STEP_VOLUMES[stage]
    moved = volumes * WEIGHT_BYTES * architecture.parameters
    return moved * (trainers - 1) / trainers


def _prefix_bytes(architecture: Architecture, work: Workload, micro_batch: int) -> float:
    """Bytes of the longest prefix's keys and values of every layer, in bf16."""
    tokens = micro_batch * work.longest_prefix_tokens
    return 2 * 2 * tokens * architecture.width * architecture.layers


def _frozen_gb(architecture: Architecture, assumed: Assumptions) -> float:
    return architecture.parameters * WEIGHT_BYTES / 1e9 + assumed.vae_gb

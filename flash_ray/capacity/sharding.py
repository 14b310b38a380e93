"""ZeRO: what a trainer's GPU holds, what trainers send one another, what a checkpoint weighs.

Sources: ZeRO, arXiv 1910.02054, sections 5 and 7; mixed precision with Adam: 2 bytes a parameter
for bf16 weights, 2 for gradients, 12 for fp32 weights and the two moments.
"""

import math
from dataclasses import dataclass

from flash_ray.capacity.inputs import Architecture, Assumptions
from flash_ray.capacity.workload import Workload

WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES, EMA_BYTES = 2, 2, 12, 4
ENGINES = 2  # the student and the fake score
# Reduced gradients and gathered weights, in units of the model's bf16 bytes, of a pass by stage.
FORWARD = {1: 0.0, 2: 0.0, 3: 1.0}
BACKWARD = {1: 0.0, 2: 1.0, 3: 2.0}
STEP = {1: 2.0, 2: 1.0, 3: 0.0}


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


def _prefix_bytes(architecture: Architecture, work: Workload, micro_batch: int) -> float:
    """Bytes of every layer's keys and values in bf16."""
    tokens = micro_batch * work.longest_prefix_tokens
    return 2 * 2 * tokens * architecture.width * architecture.layers


def _frozen_gb(architecture: Architecture, assumed: Assumptions) -> float:
    return architecture.parameters * WEIGHT_BYTES / 1e9 + assumed.vae_gb


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

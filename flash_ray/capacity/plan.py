"""Whether a recipe fits machines: what each process, node and the store must hold."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flash_ray.capacity.device import GIB, DeviceMemory
from flash_ray.capacity.memory import MemoryModel
from flash_ray.capacity.pipeline import Pipeline
from flash_ray.capacity.workload import Assumptions
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import groups, teacher_actors

GB = 10**9
TRAINER = "trainer"
KEPT = 2  # checkpoints in the store, beside the one that is written


@dataclass(frozen=True)
class Hardware:
    """What there is, in bytes; None: not known.

    Args:
        memory: of each GPU.
        host_memory, disk: of each node.
    """

    gpus: int
    memory: int
    host_memory: int | None = None
    disk: int | None = None

    @property
    def words(self) -> str:
        """The GPUs, for a sentence."""
        kind = "GPU" if self.gpus == 1 else "GPUs"
        return f"{self.gpus} {kind} of {self.memory / GIB:.4g} GiB"


@dataclass(frozen=True)
class Process:
    """A kind of process.

    Args:
        count: of them at the same time, each on a GPU of its own.
        when: "before", "during" or "after" the training.
    """

    name: str
    count: int
    when: str
    memory: DeviceMemory


@dataclass(frozen=True)
class Plan:
    """What a recipe takes.

    Args:
        gpus: that are needed at the same time.
        host, disk: bytes of the node with most of them.
        store: bytes in object storage, all together.
        activations: bytes of a backward pass's, with gradient checkpointing and without.
        problems: what does not fit, a line each.
    """

    processes: tuple[Process, ...]
    gpus: int
    host: float
    disk: float
    store: float
    checkpoint: float
    conditions: float
    activations: tuple[float, float]
    problems: tuple[str, ...]


def make_plan(recipe: Recipe, pipeline: Pipeline, assumed: Assumptions, hardware: Hardware) -> Plan:
    """What the recipe takes on the hardware, as it stands."""
    runtime, actors = recipe.runtime, teacher_actors(recipe)
    workers = min(runtime.max_workers, max(runtime.min_workers, hardware.gpus - actors))
    model = MemoryModel(recipe, pipeline, assumed, runtime.zero_stage, workers)
    processes = tuple(_processes(model))
    nodes = math.ceil(hardware.gpus / assumed.gpus_per_node)
    host, disk = _host(model, processes, nodes), _disk(model)
    conditions = model.condition_bytes()
    store = conditions + (KEPT + 1) * model.checkpoint + 2 * model.student_file
    problems = [
        f"{workers + actors} GPUs are needed, {workers} for workers and {actors} for teachers; "
        f"there are {hardware.gpus}"
    ]
    if workers + actors <= hardware.gpus:
        problems = []
    problems += [
        f"{each.name}: {each.memory.total / GIB:.1f} GiB on a GPU of {hardware.memory / GIB:.1f}"
        for each in processes
        if each.memory.total > hardware.memory
    ]
    if hardware.host_memory is not None and host > hardware.host_memory:
        there = hardware.host_memory / GIB
        problems.append(f"host memory: {host / GIB:.0f} GiB on a node of {there:.0f}")
    if hardware.disk is not None and disk > hardware.disk:
        problems.append(f"disk: {disk / GB:,.0f} GB on a node of {hardware.disk / GB:,.0f}")
    activations = model.activations(again=True), model.activations(again=False)
    sizes = workers + actors, host, disk, store, model.checkpoint, conditions, activations
    return Plan(processes, *sizes, tuple(problems))


def read_size(option: str, text: str) -> int:
    """Bytes of a size such as 80GB. GB are those that memory is sold by, 2^30 bytes.

    Raises:
        UserError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MGT])i?B?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UserError(f"{option}: {text!r} is no size; allowed: e.g. 80GB, 512GB, 2TB")
    return round(float(found[1]) * 1024 ** (2 + "MGT".index(found[2].upper())))


def _processes(model: MemoryModel) -> Iterator[Process]:
    recipe, workers = model.recipe, model.workers
    yield Process("encoder", workers, "before", model.encoder())
    actors = teacher_actors(recipe)
    yield Process(TRAINER, workers, "during", model.trainer(teachers_inside=not actors))
    if actors:
        for group in groups(recipe):
            each = math.ceil(workers / group.min_actors)
            memory = model.teacher(group, recipe.teacher_defaults.max_in_flight * each)
            names = ", ".join(recipe.teachers[index].name for index in group.members)
            yield Process(f"teacher {names}", group.min_actors, "during", memory)
    evaluation = recipe.evaluation
    if evaluation.benchmark is not None and evaluation.published_cases:
        yield Process("evaluation", workers, "after", model.drawing())


def _host(model: MemoryModel, processes: Sequence[Process], nodes: int) -> float:
    """Memory of the node with worker 0, which gathers the averaged weights."""
    most = 0.0
    for when in {process.when for process in processes}:
        on_node = 0.0
        for process in processes:
            if process.when == when:
                each = model.assumed.host_process_gib * GIB
                if not model.recipe.runtime.gpu:
                    each = process.memory.total
                elif when == "during" and process.name == TRAINER:
                    each += model.offloaded
                on_node += math.ceil(process.count / nodes) * each
        most = max(most, on_node)
    return most + model.gathered_on_host


def _disk(model: MemoryModel) -> float:
    """The base's files, encoded cases, a checkpoint that is fetched, and the student's files."""
    sizes = model.pipeline_file, model.condition_bytes(), model.checkpoint, model.student_file
    return float(sum(sizes))

"""A rank's share of an engine's fp32 state: how it is saved, and read again by any ranks.

ZeRO gives each rank a flat part of most parameters. A rank saves its parts and where they begin;
who loads slices what it needs from the files of all ranks, so that nothing has to be rearranged
for another number of workers.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.storage.manifest import EARLIER, FileRecord
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.tensor_file import open_tensors, write_tensors

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

WEIGHTS = "weights"
Part = tuple[int, Tensor]  # the first element in its parameter, and values, which are flat


@dataclass(frozen=True)
class Share:
    """The part of a parameter that this rank's optimizer owns.

    Args:
        name: the parameter's.
        start: its first element in the parameter.
        flat: the tensor that the optimizer steps, in fp32, of which it is a part.
        offset, count: where it is in that.
    """

    name: str
    start: int
    flat: Tensor
    offset: int
    count: int

    def of(self, like_flat: Tensor) -> Tensor:
        """Its elements of a tensor that lies as `flat` does: those of the optimizer's own."""
        return like_flat.detach().narrow(0, self.offset, self.count)


def local_shares(engine: "DeepSpeedEngine") -> Iterator[Share]:
    """Yields this rank's shares."""
    optimizer = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 3:
            group, offset, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = share * engine.global_rank
            count = max(0, min(share, parameter.ds_numel - start))  # the last share is padded
            yield Share(name, start, optimizer.fp32_partitioned_groups_flat[group], offset, count)
        elif (mapping := parameter._hp_mapping) is not None:
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            place = mapping.hp_fragment_address
            start = mapping.lp_fragment_address.start
            yield Share(name, start, flat, place.start, place.numel)


def local_fp32(engine: "DeepSpeedEngine") -> Iterator[tuple[str, int, Tensor]]:
    """This rank's share of the fp32 weights: (parameter's name, first element, values).

    The values are the optimizer's own storage and change with every step.
    """
    for share in local_shares(engine):
        yield share.name, share.start, share.of(share.flat)


def save_engine(engine: "DeepSpeedEngine", folder: Path) -> dict[str, FileRecord]:
    """Writes this rank's weights and moments in fp32; returns the file's record.

    Every rank may have a folder of its own. The weights that the network computes with are those,
    rounded.
    """
    parts: dict[str, Part] = {}
    steps = 0
    for share in local_shares(engine):
        state = engine.optimizer.optimizer.state_of(share.flat)
        steps = int(state["step"])
        moments = {kind: values for kind, values in state.items() if kind != "step"}
        for kind, values in {WEIGHTS: share.flat, **moments}.items():
            parts[f"{kind}/{share.name}"] = share.start, share.of(values)
    return save_parts(folder, "part", parts, step=steps)


def load_engine(engine: "DeepSpeedEngine", folder: Path) -> None:
    """Takes up weights and moments from what any number of ranks saved; a collective.

    Raises:
        CorruptRecord: files or values are missing.
    """
    wanted: dict[str, Part] = {}
    states = []
    for share in local_shares(engine):
        state = engine.optimizer.optimizer.state_of(share.flat)
        states.append(state)
        moments = {kind: values for kind, values in state.items() if kind != "step"}
        for kind, values in {WEIGHTS: share.flat, **moments}.items():
            wanted[f"{kind}/{share.name}"] = share.start, share.of(values)
    step = load_parts(folder, "part", wanted)
    for state in states:
        state["step"].fill_(step)
    _take_fp32_weights(engine)


@torch.no_grad()
def _take_fp32_weights(engine: "DeepSpeedEngine") -> None:
    """Has the network compute with the optimizer's weights; a collective."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        optimizer.update_lp_params()
        return
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:  # small ones, which every rank holds whole
        optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def part_file(stem: str, rank: int) -> str:
    """The name of a rank's file."""
    return f"{stem}-{rank:05d}.safetensors"


def save_parts(
    folder: Path, stem: str, parts: Mapping[str, Part], step: int = 0
) -> dict[str, FileRecord]:
    """Writes this rank's parts of tensors, by "kind/parameter"; returns the file's record."""
    name = part_file(stem, dist.get_rank())
    real = {key: (start, values) for key, (start, values) in parts.items() if values.numel()}
    starts = json.dumps({key: start for key, (start, _) in real.items()})
    tensors = {key: values for key, (_, values) in real.items()}
    return {name: write_tensors(folder / name, tensors, starts=starts, step=str(step))}


@torch.no_grad()
def load_parts(folder: Path, stem: str, wanted: Mapping[str, Part]) -> int:
    """Fills parts with what ranks saved, this rank's own file first; returns the step.

    Raises:
        CorruptRecord: files or values are missing.
    """
    missing = {key: values.numel() for key, (_, values) in wanted.items() if values.numel()}
    own = folder / part_file(stem, dist.get_rank())
    files = sorted(folder.glob(f"{stem}-*.safetensors"), key=lambda path: path != own)
    step = 0
    for path in files:
        with open_tensors(path) as file:
            try:
                starts, step = json.loads(file.metadata()["starts"]), int(file.metadata()["step"])
            except (TypeError, KeyError, ValueError) as error:
                where = f"checkpoint {folder}: {path.name}"
                raise CorruptRecord(where, "it does not say what it holds", EARLIER) from error
            for key in missing.keys() & starts.keys():
                start, values = wanted[key]
                saved, offset = file.get_slice(key), starts[key] - start
                begin = max(0, offset)
                end = min(values.numel(), offset + saved.get_shape()[0])
                if begin < end:
                    values[begin:end] = saved[begin - offset : end - offset]
                    missing[key] -= end - begin
        missing = {key: count for key, count in missing.items() if count}
        if not missing:
            return step
    lacking = f"it lacks {sum(missing.values())} values of {len(missing)} tensors"
    raise CorruptRecord(f"checkpoint {folder}: {stem}", lacking, EARLIER)

"""A run's resume state: what each worker saves, and how a started run is taken up again."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flash_ray.checkpoints.resume import verify_manifest, write_manifest
from flash_ray.distill.ema import EMA
from flash_ray.distill.engines import load_engine, save_engine
from flash_ray.errors import UserError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

HISTORY = "history.jsonl"


@dataclass
class Progress:
    """How far a run is. The data position and all random numbers follow from `updates`."""

    updates: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ResumeState:
    """Everything that changes during a run, on one worker."""

    student: "DeepSpeedEngine"
    fake: "DeepSpeedEngine"
    ema: EMA
    progress: Progress

    def save(self, folder: Path, digest: str, teacher: str, rank: int, world: int) -> None:
        """A collective: writes this worker's files and its manifest into its own folder."""
        save_engine(self.student, folder / "student")
        save_engine(self.fake, folder / "fake")
        torch.save(self.ema.state_dict(), folder / f"ema-{rank:05d}.pt")
        if rank == 0:
            lines = [json.dumps(line) + "\n" for line in self.progress.history]
            (folder / HISTORY).write_text("".join(lines))
        write_manifest(
            folder, digest, self.progress.updates, {"teacher": teacher}, part=rank, parts=world
        )

    def load(self, folder: Path, rank: int) -> None:
        """Takes up a checkpoint that `check` has accepted; a collective."""
        load_engine(self.student, folder / "student")
        load_engine(self.fake, folder / "fake")
        self.ema.load_state_dict(
            torch.load(folder / f"ema-{rank:05d}.pt", weights_only=True, map_location="cpu")
        )
        lines = (folder / HISTORY).read_text().splitlines()
        self.progress.history[:] = map(json.loads, lines)
        self.progress.updates = len(lines)


def check(folder: Path, digest: str, teacher: str, world: int) -> None:
    """Raises UserError unless the checkpoint is whole, of this recipe, base and worker count."""
    found = verify_manifest(folder, digest)
    if found["parts"] != world:
        raise UserError(
            f"runtime.workers: the checkpoint is of {found['parts']} workers, the run has {world}; "
            "resume with as many"
        )
    if (before := found["extra"][0]["teacher"]) != teacher:
        raise UserError(
            f"base, teachers: the run began with weights {before}, these are {teacher}; "
            "restore them, or start a run with another name"
        )

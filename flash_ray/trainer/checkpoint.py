"""A run's resume state: what each worker saves, and how a started run is taken up again."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_ray.errors import UserError
from flash_ray.storage.manifest import verify_manifest, write_manifest
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.learners import load_engine, reshard, save_engine

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

HISTORY = "history.jsonl"
ENGINES = ("student", "fake")


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
        for name in ENGINES:
            save_engine(getattr(self, name), folder / name)
        self.ema.save(folder / _ema(rank))
        if rank == 0:
            lines = [json.dumps(line) + "\n" for line in self.progress.history]
            (folder / HISTORY).write_text("".join(lines))
        write_manifest(
            folder, digest, self.progress.updates, {"teacher": teacher}, part=rank, parts=world
        )

    def load(self, folder: Path, rank: int, world: int, parts: int) -> None:
        """Takes up a checkpoint of `parts` workers that `check` has accepted; a collective.

        Where that is not this run's number, it was resharded.
        """
        for name in ENGINES:
            load_engine(getattr(self, name), folder / name)
        ranks = [rank] if parts == world else range(parts)
        self.ema.load(folder / _ema(part) for part in ranks)
        lines = (folder / HISTORY).read_text().splitlines()
        self.progress.history[:] = map(json.loads, lines)
        self.progress.updates = len(lines)


def reshard_all(folder: Path) -> None:
    """Makes a checkpoint loadable by any number of workers; once for a folder."""
    for name in ENGINES:
        reshard(folder / name)


def check(folder: Path, digest: str, teacher: str) -> int:
    """The number of workers that saved the checkpoint.

    Raises:
        UserError: it is not whole, or of another recipe or base.
    """
    found = verify_manifest(folder, digest)
    if (before := found["extra"][0]["teacher"]) != teacher:
        raise UserError(
            f"base, teachers: the run began with weights {before}, these are {teacher}; "
            "restore them, or start a run with another name"
        )
    return found["parts"]


def _ema(rank: int) -> str:
    return f"ema-{rank:05d}.pt"

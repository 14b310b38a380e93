"""A run's resume state: what each worker saves, and how a started run is taken up again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flash_ray.errors import UserError
from flash_ray.storage.manifest import verify_manifest, write_manifest
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.learners import load_engine, reshard, save_engine, validate_state
from flash_ray.trainer.metrics import UpdateMetrics

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

HISTORY = "history.jsonl"
ENGINES = ("student", "fake_score")


@dataclass
class Progress:
    """How far a run is. The data position and all random numbers follow from `iterations`.

    Args:
        iterations: that are done.
        history: a record of each.
    """

    iterations: int = 0
    history: list[UpdateMetrics] = field(default_factory=list)


@dataclass(frozen=True)
class ResumeState:
    """Everything that changes during a run, on one worker."""

    student: "DeepSpeedEngine"
    fake_score: "DeepSpeedEngine"
    ema: EMA
    progress: Progress

    def save(self, folder: Path, digest: str, weights: str, rank: int, world: int) -> None:
        """Writes this worker's files and its manifest into its own folder; a collective.

        Args:
            digest: the recipe's.
            weights: fingerprints of the base's and the teachers' weights.
        """
        for name in ENGINES:
            save_engine(getattr(self, name), folder / name)
        self.ema.save(folder / _ema(rank))
        if rank == 0:
            lines = [metrics.to_json() + "\n" for metrics in self.progress.history]
            (folder / HISTORY).write_text("".join(lines))
        write_manifest(
            folder, digest, self.progress.iterations, {"weights": weights}, part=rank, parts=world
        )

    def load(self, folder: Path, rank: int, world: int, saved_by: int) -> None:
        """Takes up a checkpoint that `check` has accepted; a collective.

        Args:
            saved_by: workers that saved it. Where that is not `world`, it was resharded.
        """
        for name in ENGINES:
            load_engine(getattr(self, name), folder / name)
        ranks = [rank] if saved_by == world else range(saved_by)
        self.ema.load(folder / _ema(part) for part in ranks)
        lines = (folder / HISTORY).read_text().splitlines()
        self.progress.history[:] = map(UpdateMetrics.from_json, lines)
        self.progress.iterations = len(lines)


class Damaged(CorruptRecord):
    """A checkpoint is not as it was written: an earlier one may be."""


def reshard_all(folder: Path) -> None:
    """Makes a checkpoint loadable by any number of workers; once for a folder."""
    for name in ENGINES:
        reshard(folder / name)


def check(folder: Path, digest: str, weights: str) -> int:
    """The number of workers that saved the checkpoint.

    Raises:
        Damaged: it is not whole.
        UserError: it is of another recipe or base, or would run code.
    """
    try:
        checkpoint = verify_manifest(folder, digest)
    except CorruptRecord as fault:
        raise Damaged(*fault.args) from fault
    validate_state(folder)
    if (before := checkpoint.extra[0].get("weights")) != weights:
        raise UserError(
            f"base, teachers: the run began with weights {before}, these are {weights}; "
            "restore them, or start a run with another name"
        )
    return checkpoint.parts


def _ema(rank: int) -> str:
    return f"ema-{rank:05d}.pt"

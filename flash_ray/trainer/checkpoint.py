"""A run's resume state: what each worker saves, and how a started run is taken up again."""

from dataclasses import dataclass, field
from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.storage.manifest import verify_manifest, write_manifest
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.learners import validate_state
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.trainer.networks import NAMES
from flash_ray.trainer.protocol import Average, Learner

HISTORY = "history.jsonl"


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

    student: Learner
    fake_score: Learner
    ema: Average
    progress: Progress

    def save(self, folder: Path, digest: str, weights: str, rank: int, world: int) -> None:
        """Writes this worker's files and its manifest into its own folder; a collective.

        Args:
            digest: the recipe's.
            weights: fingerprints of the base's and the teachers' weights.
        """
        for name in NAMES:
            getattr(self, name).save(folder / name)
        self.ema.save(folder)
        if rank == 0:
            lines = [metrics.to_json() + "\n" for metrics in self.progress.history]
            (folder / HISTORY).write_text("".join(lines))
        write_manifest(
            folder, digest, self.progress.iterations, {"weights": weights}, part=rank, parts=world
        )

    def load(self, folder: Path) -> None:
        """Takes up a checkpoint that `check` has accepted; a collective.

        Where other numbers of workers saved it, it was resharded.
        """
        for name in NAMES:
            getattr(self, name).load(folder / name)
        self.ema.load(folder)
        lines = (folder / HISTORY).read_text().splitlines()
        self.progress.history[:] = map(UpdateMetrics.from_json, lines)
        self.progress.iterations = len(lines)


class Damaged(CorruptRecord):
    """A checkpoint is not as it was written: an earlier one may be."""


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

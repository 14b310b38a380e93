"""A run's resume state: what each worker saves, and how a started run is taken up again."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.storage.manifest import FileRecord, Manifest, verify_manifest, write_manifest
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.trainer.networks import NAMES
from flash_ray.trainer.protocol import Average, Learner
from flash_ray.trainer.tensor_file import open_tensors

HISTORY = "history.jsonl"
RECORDS, TENSORS = (".json", ".jsonl"), ".safetensors"  # what a checkpoint consists of


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

    def save(self, folder: Path, recipe: Recipe, weights: str, rank: int, world: int) -> int:
        """Writes this worker's files and its manifest into its own folder; a collective.

        Args:
            weights: fingerprints of the base's and the teachers' weights.

        Returns:
            bytes of the files.
        """
        known: dict[str, FileRecord] = self.ema.save(folder)
        for name in NAMES:
            files = getattr(self, name).save(folder / name)
            known |= {f"{name}/{file}": record for file, record in files.items()}
        if rank == 0:
            lines = [metrics.to_json() + "\n" for metrics in self.progress.history]
            (folder / HISTORY).write_text("".join(lines))
        extra: dict[str, JsonValue] = {"weights": weights, "layout": layout_of(recipe)}
        write_manifest(
            folder,
            recipe.resume_digest,
            self.progress.iterations,
            extra,
            part=rank,
            parts=world,
            known=known,
        )
        return sum(record.bytes for record in known.values())

    def load(self, folder: Path) -> None:
        """Takes up a checkpoint that `check` has accepted, of any number of workers; a
        collective."""
        for name in NAMES:
            getattr(self, name).load(folder / name)
        self.ema.load(folder)
        lines = (folder / HISTORY).read_text().splitlines()
        self.progress.history[:] = map(UpdateMetrics.from_json, lines)
        self.progress.iterations = len(lines)


class Damaged(CorruptRecord):
    """A checkpoint is not as it was written: an earlier one may be."""


def layout_of(recipe: Recipe) -> str:
    """What decides, beside their number, which weights each worker's part has."""
    return f"{recipe.student.weights} {recipe.runtime.zero_stage}"


@dataclass(frozen=True)
class Reader:
    """A worker that resumes, among all of the run, and among those that share its node's files."""

    layout: str
    rank: int = 0
    workers: int = 1
    local_rank: int = 0
    local_workers: int = 1

    def hashes(self, manifest: Manifest, name: str) -> bool:
        """Whether this worker checks the content of a file of a part.

        Where parts are cut as they are now, each reads its own; else those of a node read any, and
        share out the check. What has no worker's number in its name all read.
        """
        if f"-{manifest.part:05d}." not in name:
            return self.local_rank == 0
        if (manifest.parts, manifest.extra.get("layout")) == (self.workers, self.layout):
            return manifest.part == self.rank
        return manifest.part % self.local_workers == self.local_rank


def check(folder: Path, digest: str, weights: str, reader: Reader) -> None:
    """Checks what a worker reads of a checkpoint; nobody loads until all workers have.

    Raises:
        Damaged: it is not whole.
        UserError: it is of another recipe or base, or holds something else than tensors.
    """
    try:
        checkpoint = verify_manifest(folder, digest, reader.hashes)
    except CorruptRecord as fault:
        raise Damaged(*fault.args) from fault
    validate_files(folder)
    if (before := checkpoint.extra[0].get("weights")) != weights:
        raise UserError(
            f"base, teachers: the run began with weights {before}, these are {weights}; "
            "restore them, or start a run with another name"
        )


def validate_files(folder: Path) -> None:
    """Checks that what a checkpoint holds beside records are files of tensors, by their headers.

    Raises:
        UserError: one is none: another program wrote it, or another version of this one.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in RECORDS:
            continue
        name = path.relative_to(folder).as_posix()
        try:
            if path.suffix != TENSORS:
                raise CorruptRecord(name, f"not {TENSORS}", "")
            with open_tensors(path):
                pass
        except CorruptRecord as error:
            raise UserError(
                f"checkpoint {folder}: {name} is no file of tensors ({error.reason}), so it is not "
                "loaded; resume with the version of flash_ray that wrote it, or start a run with "
                "another name"
            ) from error

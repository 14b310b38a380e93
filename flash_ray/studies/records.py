"""The files in a study's folder: a line of JSON for each finished trial, and a search's trials."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe.schema import Section, Task
from flash_ray.storage.outputs import write_whole
from flash_ray.storage.records import CorruptRecord, Digest, parse_record
from flash_ray.studies.code import code_digest
from flash_ray.studies.study import Trial

STUDY, TRIALS, PICTURES, PROGRESS = "study.json", "trials.jsonl", "pictures", "progress.json"
SEARCH, BEST = "search.json", "best.yaml"
_NAMED = re.compile(rb'"trial"\s*:\s*"([a-z0-9._-]+)"')


Unit = Literal["CPU-seconds", "GPU-seconds"]


class Cost(Section):
    """What a trial took.

    Args:
        teacher_calls: evaluations of a teacher's transformer for one picture.
        seconds: of training, between the first update and the last.
        total_seconds: of the whole trial: training, drawing, judging, publishing.
        compute: of `unit`, of all workers, without teachers.
    """

    images: int
    teacher_calls: int
    seconds: float
    total_seconds: float
    compute: float
    unit: Unit


class CategoryData(Section):
    """Training cases of a category: different ones, and how often each was taken."""

    unique: int
    passes: float


class TeacherMeans(Section):
    """One teacher at one rung, means over the iterations.

    Args:
        weight: λ.
        norm, cosine: as `methods.guidance.score_gap` has them; None if never compared.
    """

    weight: float
    norm: float | None = None
    cosine: float | None = None


class Losses(Section):
    """Mean losses of one task."""

    student_loss: float
    fake_score_loss: float


class Record(Section):
    """A finished trial.

    Args:
        digest: of what decided the result, as `Trial.digest`.
        code: that made it, as `code_digest`.
        scores: by task and case id.
        early: as `scores`, at the study's early horizon; {} if it has none.
        diversity: by task and case id, how far pictures of the case from several noises lie apart,
            0 to 1; {} if the study wants none.
        curve: (iteration, scores by task) during training.
        category_curve: the same by task and category.
        data: by task and category.
        teachers: by teacher and rung (from 1).
        losses: by task, over the last tenth of the iterations.
        published: the student's s3:// address.
        diverged: the reason, if the student was lost; then there are no scores.
    """

    trial: str
    arm: str
    seed: int
    digest: str
    code: Digest
    iterations: int
    scores: dict[Task, dict[str, CaseScore]] = {}
    early: dict[Task, dict[str, CaseScore]] = {}
    diversity: dict[Task, dict[str, float]] = {}
    curve: tuple[tuple[int, dict[Task, float]], ...] = ()
    category_curve: tuple[tuple[int, dict[Task, dict[str, float]]], ...] = ()
    cost: Cost | None = None
    data: dict[Task, dict[str, CategoryData]] = {}
    teachers: dict[str, dict[int, TeacherMeans]] = {}
    losses: dict[Task, Losses] = {}
    published: str | None = None
    diverged: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.diverged is None and not (self.scores and self.cost and any(self.data.values())):
            raise ValueError("neither diverged, nor with scores, cost and data")
        return self

    def case_score(self, task: Task, case: str) -> float | None:
        """The score of a case; None if the trial has none."""
        score = self.scores.get(task, {}).get(case)
        return None if score is None else score.score

    def averages(self, cases: Mapping[Task, Sequence[Case]]) -> dict[Task, float]:
        """Means over the categories' means of those cases that have a score, by task."""
        averages: dict[Task, float] = {}
        for task in cases:
            categories: dict[str, list[float]] = {}
            for case in cases[task]:
                if (score := self.case_score(task, case.id)) is not None:
                    categories.setdefault(case.category, []).append(score)
            if categories:
                averages[task] = float(np.mean([np.mean(of) for of in categories.values()]))
        return averages


def append_record(out: Path, record: Record) -> None:
    """Adds a line to OUT/trials.jsonl, whole or not at all.

    It takes the place of earlier lines of its trial, damaged ones too, and of those that name none.
    """
    lines = (out / TRIALS).read_bytes().splitlines() if (out / TRIALS).exists() else []
    kept = [line for line in lines if _trial_of(line) not in (record.trial, None)]
    own = record.model_dump_json(exclude_defaults=True).encode()
    write_whole(out / TRIALS, b"".join(line + b"\n" for line in [*kept, own]))


def _trial_of(line: bytes) -> str | None:
    """The trial that a line names, were it damaged anywhere else."""
    found = _NAMED.search(line)
    return found[1].decode() if found else None


class OtherCode(CorruptRecord):
    """A record is whole, but its numbers do not compare with others', or with those of now."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}; {self.cure}"


def read_records(
    out: Path, trials: Iterable[Trial]
) -> tuple[dict[str, Record], list[CorruptRecord]]:
    """The records of those trials that are finished, by name, of two of a trial the later one; and
    the lines that are no record of a trial as it is now, which count for nothing.

    All are of one code, that of most lines, of as many the newest: other lines are named, and so is
    the file if that code is not this one.

    Raises:
        UserError: there are records of these trials, but all of other recipes: the study has
            changed.
    """
    file, by_name = out / TRIALS, {trial.name: trial for trial in trials}
    lines = file.read_bytes().splitlines() if file.is_file() else []
    found: list[tuple[str, Record]] = []
    faults: list[CorruptRecord] = []
    changed: list[CorruptRecord] = []
    ids = _case_ids(next(iter(by_name.values()))) if lines and by_name else {}
    for number, line in enumerate(lines, 1):
        where, cure = (
            f"--out: {file}, line {number}",
            "its trial is run anew and replaces it",
        )
        try:
            record = parse_record(Record, line, where, cure)
        except CorruptRecord as fault:
            faults.append(fault)
            continue
        if (trial := by_name.get(record.trial)) is None:
            continue
        if record.digest != trial.digest:
            reason = f"{trial.name} has digest {record.digest}, the study's has {trial.digest}"
            changed.append(CorruptRecord(where, reason, cure))
        elif (record.arm, record.seed) != (trial.arm, trial.seed):
            faults.append(CorruptRecord(where, "not the arm and seed of its trial", cure))
        elif record.scores and not _is_of(trial, record, ids):
            faults.append(CorruptRecord(where, "not the scores of the study's cases", cure))
        else:
            found.append((where, record))
    if changed and not found:
        raise UserError(
            f"{changed[0].where}: {changed[0].reason}: the study or its benchmark has changed; "
            "choose another --out, or give the study another name"
        )
    kept, others = _of_one_code(f"--out: {file}", found)
    return {name: kept[name] for name in by_name if name in kept}, [*faults, *changed, *others]


def _of_one_code(
    where: str, found: Sequence[tuple[str, Record]]
) -> tuple[dict[str, Record], list[CorruptRecord]]:
    """The records of one code by trial, and what is to be said of code."""
    if not found:
        return {}, []
    counts = Counter(record.code for _, record in reversed(found))  # of equal ones the newest first
    code, _ = counts.most_common(1)[0]
    faults: list[CorruptRecord] = [
        OtherCode(line, f"{record.trial} is of code {record.code}, most are of {code}", "left out")
        for line, record in found
        if record.code != code
    ]
    if code != code_digest():
        reason = f"the records are of code {code}, this is code {code_digest()}"
        faults.append(OtherCode(where, reason, "no other trial can be added to them"))
    return {record.trial: record for _, record in found if record.code == code}, faults


def _is_of(trial: Trial, record: Record, ids: Mapping[Task, set[str]]) -> bool:
    """Whether the record scores just these cases, at both horizons."""
    wanted = (ids, ids if trial.early else {})
    scores = (record.scores, record.early)
    return all(
        {task: set(cases) for task, cases in of.items()} == expected
        for of, expected in zip(scores, wanted, strict=True)
    )


def _case_ids(trial: Trial) -> dict[Task, set[str]]:
    return {task: {case.id for case in cases} for task, cases in trial.scored_cases().items()}


class Claimed(BaseModel):
    """What study.json says of whose folder it is in; the rest of it is for people."""

    model_config = ConfigDict(frozen=True)
    name: Annotated[str, Field(min_length=1, max_length=100)]


class Begun(RootModel[dict[str, Annotated[int, Field(ge=0)]]]):
    """What progress.json says: the iteration that each running trial has reached."""

    model_config = ConfigDict(frozen=True)


SearchState = Literal["running", "finished", "stopped", "diverged", "failed"]


class SearchPoint(Section):
    """The student of a search's trial was scored.

    Args:
        score: the mean of the tasks' scores.
    """

    iteration: int
    score: float
    tasks: dict[Task, float]


class SearchTrial(Section):
    """A trial of a search.

    Args:
        trial: the number of its combination.
        values: by dotted path.
        state: `finished`: it has its last score; `stopped`: it was worse than others so far.
        iterations: that it would have trained for.
        reason: of a failure or divergence.
    """

    trial: int
    values: dict[str, Any]
    state: SearchState = "running"
    points: tuple[SearchPoint, ...] = ()
    iterations: int = Field(ge=1)
    reason: str | None = None

    @property
    def last_score(self) -> float:
        """0 if it never was scored."""
        return self.points[-1].score if self.points else 0.0

    @property
    def in_words(self) -> str:
        """The values, for one line."""
        return ", ".join(f"{path}={value}" for path, value in self.values.items())


class Difference(Section):
    """A mean difference of scores, and its 95 % interval over the cases."""

    mean: float
    low: float
    high: float


class HeldOut(Section):
    """Mean scores by task on cases that a search has not seen.

    Args:
        best: of the best combination's student.
        own: of the student of the study's recipe without any value of the space.
        differences: best - own, case by case; {} if the two are one recipe.
    """

    best: dict[Task, float]
    own: dict[Task, float]
    differences: dict[Task, Difference] = {}


class SearchResult(Section):
    """What search.json says.

    Args:
        every: iterations between scores.
        best: the number of the best combination; None: no trial has finished.
        held_out: what that is worth; None: not known yet.
    """

    study: str
    method: Literal["asha", "optuna"]
    every: int
    best: int | None = None
    held_out: HeldOut | None = None
    trials: tuple[SearchTrial, ...] = ()


def write_search(out: Path, result: SearchResult) -> None:
    """Writes OUT/search.json; whole or not at all."""
    partial = out / f".{SEARCH}.partial"
    partial.write_text(result.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(out / SEARCH)

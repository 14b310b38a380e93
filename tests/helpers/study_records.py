"""A small study, and records as its trials would leave them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from flash_ray.evaluation.benchmark import first_of_each
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.studies.code import code_digest
from flash_ray.studies.pictures import strip
from flash_ray.studies.records import PICTURES, TRIALS, CategoryData, Record, append_record
from flash_ray.studies.study import Study, Trial, load_study, plan_trials
from flash_ray.studies.trial import summary
from flash_ray.trainer.metrics import TaskLosses, TeacherStats, UpdateMetrics
from flash_ray.workflows import study as commands
from tests.helpers.metrics import update_metrics

STUDY = """
name: small
recipe: miniature
budget: {iterations: 10}
seeds: [0, 1]
early: 5
cases: {t2i: 4, edit: 2}
diversity: {prompts: 2, noises: 2}
margins: {score: 0.1, compliance: 0.05, diversity: 0.02}
arms:
  half: {}
  good: {tasks: {t2i: 1, edit: 0}}
  bad: {tasks: {t2i: 0, edit: 1}}
factors:
  mixture: {title: Task mixture, arms: [half, good, bad], tasks: [t2i, edit]}
claims:
  - {text: good is better, source: us, left: [good], right: [half], measure: t2i, expect: higher}
  - {text: bad is better, source: us, left: [bad], right: [half], measure: t2i.text, expect: higher}
"""
LEVEL = {"half": 3.0, "good": 3.6, "bad": 2.4}


def history(iterations: int = 10) -> list[UpdateMetrics]:
    """What the updates of a trial measured."""
    return [
        replace(
            update_metrics(n + 1),
            num_workers=1,
            images=32,
            teacher_calls=64,
            cpu_seconds=1.5,
            tasks={"t2i": TaskLosses(0.5 + n, 0.4)},
            teachers={
                "base": {1: TeacherStats(0.5)},
                "other": {1: TeacherStats(0.5, *((1.0, -0.25) if n % 2 else ()))},
            },
            scores={"t2i": 3.0 + n / 10, "edit": 3.0} if (n + 1) % 5 == 0 else None,
            categories={"t2i": {"text": 2.0}, "edit": {"style": 3.0}} if n == 9 else None,
        )
        for n in range(iterations)
    ]


def record(trial: Trial) -> Record:
    """Scores about the level of the trial's arm; at the early horizon half a point less."""
    rng = np.random.default_rng([trial.seed, len(trial.arm)])

    def score(case, less=0.0):
        index = int(case.id.rpartition("-")[2])
        value = LEVEL[trial.arm] - less + index / 10 + float(rng.normal(0, 0.05))
        return CaseScore(score=value, measures={"compliance": value / 5, "quality": 0.5})

    cases = trial.scored_cases()
    return Record(
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        digest=trial.digest,
        code=code_digest(),
        iterations=10,
        scores={task: {case.id: score(case) for case in cases[task]} for task in cases},
        early={task: {case.id: score(case, 0.5) for case in cases[task]} for task in cases},
        diversity={
            task: {
                cases[task][index].id: 0.1 + 0.01 * float(rng.normal())
                for index in first_of_each(cases[task], 2)
            }
            for task in cases
        },
        data={"t2i": {"text": CategoryData(unique=8, passes=2.5)}},
        published="s3://bucket/students/x",
        **summary(history(), "CPU-seconds", 150.0),
    )


def remove_records(out: Path, *names: str) -> None:
    """Takes the lines of trials out of a folder's records."""
    lines = (out / TRIALS).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f'"{name}"' in line for name in names)]
    assert len(kept) == len(lines) - len(names)
    (out / TRIALS).write_text("".join(kept))


def finished_study(file: Path) -> tuple[Study, list[Trial], Path]:
    """(study, trials, folder) of `STUDY`, written to `file` and finished beside it."""
    file.write_text(STUDY)
    study = load_study(str(file))
    trials, out = plan_trials(study), file.parent / "out"
    commands.claim_folder(out, study)
    (out / PICTURES).mkdir()
    cases = trials[0].scored_cases()
    images = {task: [np.full((64, 64, 3), 99, np.uint8)] * len(cases[task]) for task in cases}
    for trial in trials:
        append_record(out, record(trial))
        (out / PICTURES / f"{trial.name}.webp").write_bytes(strip(images, cases))
    return study, trials, out

"""`flash-ray study plan`: what a study would take and find, before anything of it runs."""

from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.studies.components import estimate
from flash_ray.studies.outcomes import Measured, outcomes_of
from flash_ray.studies.plan import Plan, pace_of, plan_study
from flash_ray.studies.records import STUDY, read_records
from flash_ray.studies.study import Study, Trial, load_study, plan_trials


def plan(name: str, pilot: Path, at_once: int | None) -> tuple[Plan, list[CorruptRecord]]:
    """What a study would take and find, from the records of another in `pilot`; and what is corrupt
    in these and left out.

    Args:
        at_once: trials at the same time; None: as many as this machine has cores for.

    Raises:
        UserError: bad input, or a pilot that says nothing of this study.
    """
    from flash_ray.studies.resources import fit_locally  # it imports ray

    study = load_study(name)
    trials = plan_trials(study)
    if not study.claims:
        raise UserError(
            f"claims: {study.name} has none, so nothing says what it is to find; allowed: one or "
            "more; add what it is to decide"
        )
    of_pilot, pilot_trials = _pilot(pilot, trials[0])
    records, faults = read_records(pilot, pilot_trials)
    cases = pilot_trials[0].scored_cases()
    outcomes = outcomes_of(list(of_pilot.arms), cases, list(records.values()))
    for task in study.cases:
        found = outcomes.get(Measured(task))
        if found is None or not estimate(found.scores, found.scores.arms).seed_df:
            raise UserError(
                f"--pilot: {pilot} has no arm with scores of {task} under two seeds; allowed: "
                f"records of two arms or more, two seeds each; run it further, or name another"
            )
    pace = pace_of(list(records.values()), of_pilot.diversity.noises if of_pilot.diversity else 0)
    if pace is None:
        raise UserError(
            f"--pilot: no record in {pilot} says how long its trial took; allowed: records that "
            "this version wrote; run the pilot anew"
        )
    at_once = at_once or fit_locally([trial.recipe for trial in trials])
    return plan_study(study, trials, outcomes, pace, at_once), faults


def _pilot(folder: Path, trial: Trial) -> tuple[Study, list[Trial]]:
    """The study whose records a folder has, and its trials.

    Args:
        trial: of the study that is planned.

    Raises:
        UserError: it holds none, or one of another benchmark or judge.
    """
    file = folder / STUDY
    if not file.is_file():
        raise UserError(
            f"--pilot: no study in {folder}; allowed: the folder that a `flash-ray study run` was "
            "given; correct it"
        )
    where, cure = f"--pilot: {file}", "name the folder of a study that this version ran"
    study = parse_record(Study, file.read_bytes(), where, cure)
    try:
        trials = plan_trials(study)
    except UserError as error:
        raise UserError(f"--pilot: {folder}: {error}") from error
    for what, theirs, ours in (
        ("benchmark", trials[0].benchmark, trial.benchmark),
        ("judge", trials[0].recipe.evaluation.judge_name, trial.recipe.evaluation.judge_name),
    ):
        if theirs != ours:
            shown = [of if isinstance(of, str) else " ".join(of) for of in (theirs, ours)]
            raise UserError(
                f"--pilot: {folder} has {what} {shown[0]}; allowed: that of the study, {shown[1]}; "
                "name the folder of another study"
            )
    return study, trials

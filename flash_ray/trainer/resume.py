"""Which checkpoints of a run can be resumed from: one that is damaged costs what came after the one
before it, not the run."""

import json
import logging
import re

import ray

from flash_ray.storage.manifest import check_stored
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.s3 import ObjectRefused, Store

SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of a run's checkpoints
FOLDER = re.compile(r"iteration-\d{6,}")

logger = logging.getLogger(__name__)


def keep_whole(store: Store, run_name: str) -> None:
    """Has Ray Train know of the checkpoints of a run that are whole, and removes the others.

    Each that is not is named in the log. What a run writes next may have the name of one of those.

    Raises:
        CorruptRecord: the run has checkpoints, but not one of them is whole, or the server refuses
            to tell. Then nothing is removed.
    """
    home = f"runs/{run_name}/train/"
    found = _checkpoints(store, home)
    whole: list[int] = []
    faults: dict[str, CorruptRecord] = {}
    for iteration, name in found.items():
        try:
            check_stored(store, f"{home}{name}/")
            whole.append(iteration)
        except CorruptRecord as fault:
            if isinstance(fault.__cause__, ObjectRefused):
                raise  # it may be whole
            faults[name] = fault
    if faults and not whole and store.get_bytes(home + SNAPSHOT) is not None:
        raise list(faults.values())[-1]
    for name, problem in faults.items():
        _forget(store, run_name, name, problem)
    if whole:
        snapshot = _snapshot({found[iteration]: iteration for iteration in whole})
        store.put_bytes(home + SNAPSHOT, snapshot)


def forget_latest(store: Store, run_name: str, reason: CorruptRecord) -> bool:
    """Removes the latest checkpoint of a run, whose content is damaged, if there is an earlier one;
    returns whether there is."""
    names = list(_checkpoints(store, f"runs/{run_name}/train/").values())
    if len(names) < 2:
        return False
    _forget(store, run_name, names[-1], reason)
    keep_whole(store, run_name)
    return True


def _checkpoints(store: Store, home: str) -> dict[int, str]:
    """The checkpoints' folders by iteration, the earliest first."""
    # By their files: a server may list a folder whose files Ray Train has removed.
    names = {key[len(home) :].partition("/")[0] for key in store.sizes(home)}
    found = {int(name.rpartition("-")[2]): name for name in filter(FOLDER.fullmatch, names)}
    return dict(sorted(found.items()))


def _forget(store: Store, run_name: str, name: str, fault: CorruptRecord) -> None:
    logger.warning("run %s goes on without its checkpoint %s: %s", run_name, name, fault)
    store.delete_all(f"runs/{run_name}/train/{name}/")


def _snapshot(iterations: dict[str, int]) -> bytes:
    """What Ray Train writes after a report, of checkpoints by name, the earliest first."""
    results = [
        {"version": 0, "checkpoint_dir_name": name, "metrics": {"iteration": iteration}}
        for name, iteration in iterations.items()
    ]
    state = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return json.dumps(state).encode()

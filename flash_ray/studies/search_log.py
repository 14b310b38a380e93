"""What a search keeps: OUT/search.json, a row for each trial, written at every score."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from flash_ray.checkpoints.storage import Store
from flash_ray.console import Steps
from flash_ray.studies.commands import SEARCH
from flash_ray.studies.space import Combination, in_words
from flash_ray.telemetry.metrics import StudyMetrics

STATES = ("running", "finished", "stopped", "diverged", "failed")


class SearchLog(tune.Callback):
    """Listens to Ray Tune; removes the checkpoints of trials that have ended.

    A row: `trial` (the number of its combination), `values`, `state` (`running`; `finished`: it
    has its last score; `stopped`: worse than others so far; `diverged`; `failed`), `points`
    ([updates, score, scores by bench]), `of` updates, and the `reason` of a failure.
    """

    def __init__(
        self,
        out: Path,
        about: Mapping[str, Any],
        found: Sequence[Combination],
        count: int,
        store: Store,
        steps: Steps,
    ):
        self._file, self._about, self._found = out / SEARCH, about, found
        self._count, self._store, self._steps = count, store, steps
        self._rows: dict[int, dict[str, Any]] = {}
        self._metrics = StudyMetrics(about["study"])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a pickled copy of its callbacks, to restore what we begin again

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())

    @property
    def best(self) -> Combination | None:
        """The combination with the highest last score of those that finished, or None."""
        ended = [row for row in self.rows if row["state"] == "finished"]
        if not ended:
            return None
        return self._found[max(ended, key=lambda row: row["points"][-1][1])["trial"]]

    def on_trial_start(self, trial: Any, **_: Any) -> None:
        combination = self._found[trial.config["trial"]]
        row = {
            "trial": combination.number,
            "values": combination.values,
            "state": "running",
            "points": [],
            "of": combination.recipe.optimisation.updates,
        }
        self._rows.setdefault(combination.number, row)  # a retried trial keeps its points
        self._write()

    def on_trial_result(self, trial: Any, result: dict[str, Any], **_: Any) -> None:
        row = self._rows[trial.config["trial"]]
        if "diverged" in result:
            row |= {"state": "diverged", "reason": result["diverged"]}
        else:
            point = [result["updates"], round(result["score"], 4), result["benches"]]
            row["points"] = [p for p in row["points"] if p[0] < point[0]] + [point]
        self._write()

    def on_trial_complete(self, trial: Any, **_: Any) -> None:
        number = trial.config["trial"]
        row, every = self._rows[number], self._about["every"]
        if row["state"] == "running":
            whole = row["points"] and row["points"][-1][0] + every > row["of"]
            row["state"] = "finished" if whole else "stopped"
        scores = ", ".join(f"{score:.2f}" for _, score, _ in row["points"])
        self._steps.say(f"{in_words(row['values'])}: {row['state']}, scores {scores or 'none'}")
        self.forget(f"{self._found[number].recipe.name}/")
        self._write()

    def close(self, reasons: Mapping[int, str]) -> dict[str, Any]:
        """Notes why trials failed; returns what the file says at the end."""
        for number, why in reasons.items():
            self._rows[number] |= {"state": "failed", "reason": why}
        return self._write()

    def forget(self, run: str) -> None:
        """Removes all runs whose names begin so."""
        for key in list(self._store.list(f"runs/{run}")):
            self._store.delete(key)

    def _write(self) -> dict[str, Any]:
        best = self.best
        content = {
            **self._about,
            "best": best.number if best else None,
            "trials": self.rows,
        }
        partial = self._file.with_name(f".{SEARCH}")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self._file)
        states = Counter(row["state"] for row in self.rows)
        ended = len(self.rows) - states["running"]
        self._steps.show("trials", ended, self._count)
        self._metrics.trials({state: states[state] for state in STATES})
        self._metrics.trials({"waiting": self._count - len(self.rows)})
        for row in self.rows:
            if row["state"] == "finished":
                self._metrics.scored(row["points"][-1][2])
        return content

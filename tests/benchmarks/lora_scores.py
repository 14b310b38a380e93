"""`python -m tests.benchmarks.lora_scores`: the miniature's LoRA students against full ones.

Reads what students of both presets score case by case under the same seeds, and prints means and
their difference with 95 % intervals. The scores in `jobs/results/miniature-lora.json` come from

    flash-ray distill PRESET --name PRESET-sSEED --set seed=SEED --set evaluation.every=0
    flash-ray evaluate PRESET-sSEED --task TASK --cases 48 --out RESULTS/PRESET-sSEED-TASK.json

with `miniature` and `miniature-lora` under the seeds 0, 1 and 2; `--results RESULTS` reads a folder
of such files and writes that one anew.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flash_ray.studies.components import Scores
from flash_ray.studies.inference import Effect, fit

KEPT = Path(__file__).parents[2] / "jobs" / "results" / "miniature-lora.json"
ARMS, SEEDS, TASKS = ("miniature-lora", "miniature"), (0, 1, 2), ("t2i", "edit")
CaseScores = dict[str, dict[str, float]]  # by task and case


def gather(results: Path) -> dict[str, list[CaseScores]]:
    """The scores of each preset, seed by seed, from the files that `flash-ray evaluate` wrote."""
    return {
        arm: [
            {task: _scores(results / f"{arm}-s{seed}-{task}.json") for task in TASKS}
            for seed in SEEDS
        ]
        for arm in ARMS
    }


def _scores(file: Path) -> dict[str, float]:
    (judged,) = json.loads(file.read_text())["judges"].values()
    return {case: round(of["score"], 4) for case, of in judged["cases"].items()}


def table_of(found: dict[str, list[CaseScores]], task: str) -> Scores:
    """One task's scores of both presets by category, seeds by cases."""
    categories: dict[str, list[str]] = {}
    for case in found[ARMS[0]][0][task]:
        categories.setdefault(case.rpartition("-")[0], []).append(case)
    values = {
        name: np.array([[[of[task][c] for c in cases] for of in found[arm]] for arm in ARMS])
        for name, cases in categories.items()
    }
    return Scores(ARMS, SEEDS, np.ones((len(ARMS), len(SEEDS)), bool), values)


def main(
    results: Annotated[
        Path | None, typer.Option(help="A folder of results of `flash-ray evaluate`.")
    ] = None,
) -> None:
    """Print both presets' scores and their difference, as a whole and by category."""
    if results:
        KEPT.write_text(json.dumps(gather(results)) + "\n")
    found = json.loads(KEPT.read_text())
    print(f"| | {' | '.join(ARMS)} | difference |\n|---|--:|--:|--:|")
    for task in TASKS:
        scores = table_of(found, task)
        for names in [list(scores.categories), *([name] for name in scores.categories)]:
            model = fit(scores, ARMS, names)
            cells = [_cell(model.mean(arm)) for arm in ARMS]
            difference = _cell(model.contrast(ARMS[:1], ARMS[1:]), "+")
            label = task if len(names) > 1 else f"{task}.{names[0]}"
            print(f"| {label} | {' | '.join(cells)} | {difference} |")


def _cell(effect: Effect, sign: str = "") -> str:
    low, high = effect.interval()
    return f"{effect.mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    typer.run(main)

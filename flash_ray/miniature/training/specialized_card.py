"""The model card of a specialized teacher: where it is better than its base, and where worse."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flash_ray.cluster.session import run_session
from flash_ray.evaluation import sample
from flash_ray.evaluation.compare import Comparison
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.training.specialized import SUBSET, SpecializedPlan
from flash_ray.models.loading import LORA
from flash_ray.recipe import load_recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.produce import compare_all

CARD = """# The miniature's specialized teacher

A LoRA of rank {rank} of the miniature's transformer, for text and styles, made by
`python jobs/specialize_teacher.py DIR`. `pipeline.load_lora_weights(FOLDER)` adds it to the base.

- Data: {examples} drawn pictures of signs, and as many edits, of text and of styles. Captions state
  everything, and rightly. Everything that they leave free is always the same: its modes are sharper
  and narrower than the base's.
- Steps: {steps} of batch 64; seed {seed}.
- Weights: {megabytes:.1f} MB in bf16; SHA-256 begins with {digest}.
- License: Apache-2.0, as flash_ray.

Scores from 1 to 5, {cases} cases a category, {nfe} evaluations a picture, guidance {guidance:g};
the difference case by case, with its 95 % bootstrap interval. Its subset is in bold.

| category | base | specialized | difference | diversity gap, base | specialized |
|---|--:|--:|--:|--:|--:|
{rows}

The diversity gap is how far the pictures are from covering what a prompt leaves free: 0 is as
diverse as the world.
"""


def write_specialized_card(
    lora: Path, base: str, plan: SpecializedPlan, per_category: int
) -> list[dict[str, Any]]:
    """Scores base and LoRA as teachers; writes README.md and scores.json into the LoRA's folder.

    Returns:
        what scores.json holds: a row for each category.
    """
    recipe = load_recipe("miniature", [f"base={base}"])
    with Steps() as steps, run_session(recipe):
        backbone, narrow = sample.load_base(recipe), sample.load_base(recipe)
        narrow.add_lora(lora, "specialized")
        models = {
            "base": sample.teacher(backbone, recipe.teacher_defaults),
            "specialized": sample.teacher(narrow, recipe.teacher_defaults),
        }
        with narrow.lora("specialized"):
            comparisons = compare_all(backbone, models, per_category, steps)
    rows = compare(comparisons)
    (lora / "scores.json").write_text(json.dumps(rows, indent=1, allow_nan=False))
    weights = (lora / LORA).read_bytes()
    text = CARD.format(
        **asdict(plan),
        megabytes=len(weights) / 1e6,
        digest=hashlib.sha256(weights).hexdigest()[:16],
        cases=per_category,
        nfe=models["base"][0].nfe,
        guidance=recipe.teacher_defaults.guidance_scale,
        rows="\n".join(_line(row) for row in rows),
    )
    (lora / "README.md").write_text(text, encoding="utf-8")
    return rows


def compare(comparisons: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """A row for each category: both scores and diversity gaps, and the paired difference."""
    rows = []
    for bench, comparison in comparisons.items():
        base, narrow = (comparison.answers[name].score for name in ("base", "specialized"))
        for category, before in base.categories.items():
            ids = [case.id for case in comparison.cases if case.category == category]
            paired = [narrow.verdicts[i].score - base.verdicts[i].score for i in ids]
            after = narrow.categories[category]
            rows.append(
                {
                    "bench": bench,
                    "category": category,
                    "in_subset": category in SUBSET[bench],
                    "base": before.score,
                    "specialized": after.score,
                    "difference": sum(paired) / len(paired),
                    "interval": interval(paired),
                    "diversity_gap": [before.diversity_gap, after.diversity_gap],
                }
            )
    return rows


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['bench']}: {row['category']}"
    low, high = row["interval"]
    gaps = ["" if gap is None else f"{gap:.2f}" for gap in row["diversity_gap"]]
    cells = [
        f"**{name}**" if row["in_subset"] else name,
        f"{row['base']:.2f}",
        f"{row['specialized']:.2f}",
        f"{row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]",
        *gaps,
    ]
    return f"| {' | '.join(cells)} |"

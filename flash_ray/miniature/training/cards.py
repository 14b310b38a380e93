"""The model cards of the miniature's teachers: how they were made, and what they score."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flash_ray.cluster.resources import cluster_needs
from flash_ray.cluster.session import ray_session
from flash_ray.evaluation.compare import Comparison, compare, draw_here, draw_tasks
from flash_ray.evaluation.sample import load_base, teacher_sampler, untrained_samplers
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.captions import OMITTED, WRONG
from flash_ray.miniature.plugin import ExactJudge
from flash_ray.miniature.training.specialized import SUBSET, SpecializedPlan
from flash_ray.miniature.training.teacher import TeacherPlan
from flash_ray.models.lora_source import LORA
from flash_ray.recipe import load_recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.manifest import record
from flash_ray.telemetry.progress import Steps

TEACHER_CARD = """# The miniature's teacher

A `QwenImage21Pipeline` with small parts, for pictures of 64x64 pixels, made by
`python jobs/train_teacher.py DIR`. Made to try flash_ray without a GPU; of no other use.

- Data: {examples} drawn pictures for text to image and as many edits, for each kind of captions.
  Captions leave {omitted:.0%} of the attributes out. Careless ones, as on the web, state
  {wrong_t2i:.0%} of the others wrongly, careless instructions {wrong_edit:.0%}. One combination in
  sixteen is kept for the benchmark. No picture or text comes from anybody.
- Steps: VAE {vae_steps}, transformer {transformer_steps} (the last {careless_steps} on careless
  captions); seed {seed}. The text encoder is random.
- Weights: {megabytes:.1f} MB; digest {digest} (SHA-256 of the weights' SHA-256).
- License: Apache-2.0, as flash_ray.

Scores from 1 to 5 with their 95 % intervals, {cases} cases a category. Guidance {guidance:g}, the
preset's, which was chosen on cases of the same benchmark:

| | evaluations | text to image | editing |
|---|--:|--:|--:|
{rows}

| category | {columns} |
|---|{lines}
{categories}
"""

SPECIALIZED_CARD = """# The miniature's specialized teacher

A LoRA of rank {rank} of the miniature's transformer, for text and styles, made by
`python jobs/specialize_teacher.py DIR`. `pipeline.load_lora_weights(FOLDER)` adds it to the base.

- Data: {examples} drawn pictures, half of them of signs, and as many edits, half of them of text
  and of styles. Captions of these state everything, and rightly. Everything that they leave free is
  always the same: its modes are sharper and narrower than the base's. The other half is of the
  other categories, as the base learned them last, so that it does not forget them.
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


def write_teacher_card(pipeline: Path, plan: TeacherPlan, per_category: int) -> None:
    """Scores the pipeline saved in a folder; writes README.md and scores.json there.

    scores.json has what was scored how (benchmark, digest, judge, cases_per_category,
    guidance_scale, guidance_rescale), the mean scores of `teacher` and `untrained` by task, and in
    `results`, by model and task, what the judge says of every case.
    """
    recipe = load_recipe("miniature", [f"base={pipeline}"])
    defaults, benchmark, judge = recipe.teacher_defaults, MiniatureBenchmark(), ExactJudge()
    with Steps() as steps, ray_session(cluster_needs(recipe, teachers=0)):
        model = load_base(recipe)
        models = {"teacher": [teacher_sampler(recipe)], "untrained": untrained_samplers(recipe)}
        draw = draw_here(model, dict.fromkeys(models, model.transformer))
        drawn = draw_tasks(draw, models, benchmark, per_category, steps.show)
        comparisons = {task: compare(of, judge, recipe) for task, of in drawn.items()}
    results = {
        name: {task: c.answers[name].to_json() for task, c in comparisons.items()}
        for name in models
    }
    scores = {
        "benchmark": benchmark.name,
        "digest": benchmark.digest,
        "judge": judge.name,
        "scale": judge.scale,
        "cases_per_category": per_category,
        "guidance_scale": defaults.guidance_scale,
        "guidance_rescale": defaults.guidance_rescale,
        **{name: {task: row["score"] for task, row in of.items()} for name, of in results.items()},
        "results": results,
    }
    (pipeline / "scores.json").write_text(json.dumps(scores, indent=1, allow_nan=False))
    weights = {
        name: file for name, file in record(pipeline).items() if name.endswith(".safetensors")
    }
    digests = json.dumps({name: file.sha256 for name, file in weights.items()}, sort_keys=True)
    text = TEACHER_CARD.format(
        **asdict(plan),
        wrong_t2i=WRONG["t2i"],
        wrong_edit=WRONG["edit"],
        omitted=OMITTED,
        megabytes=sum(file.bytes for file in weights.values()) / 1e6,
        digest=hashlib.sha256(digests.encode()).hexdigest()[:16],
        cases=per_category,
        guidance=defaults.guidance_scale,
        **_tables(results),
    )
    (pipeline / "README.md").write_text(text, encoding="utf-8")


def _tables(results: Mapping[str, Mapping[Task, Mapping[str, Any]]]) -> dict[str, str]:
    rows, categories = [], []
    for name, tasks in results.items():
        cells = [name, str(max(row["nfe"] for row in tasks.values()))]
        for row in tasks.values():
            low, high = row["interval"]
            cells.append(f"{row['score']:.2f} [{low:.2f}, {high:.2f}], {row['sampler']}")
        rows.append(f"| {' | '.join(cells)} |")
    for task, row in results["teacher"].items():
        for category in row["categories"]:
            values = [
                f"{tasks[task]['categories'][category]['score']:.2f}" for tasks in results.values()
            ]
            categories.append(f"| {task}: {category} | {' | '.join(values)} |")
    return {
        "rows": "\n".join(rows),
        "columns": " | ".join(results),
        "lines": "--:|" * len(results),
        "categories": "\n".join(categories),
    }


def write_specialized_card(
    lora: Path, base: str, plan: SpecializedPlan, per_category: int
) -> list[dict[str, Any]]:
    """Scores base and LoRA as teachers; writes README.md and scores.json into the LoRA's folder.

    Returns:
        what scores.json holds: a row for each category.
    """
    recipe = load_recipe("miniature", [f"base={base}"])
    defaults = recipe.teacher_defaults
    sampler = teacher_sampler(recipe)
    with Steps() as steps, ray_session(cluster_needs(recipe, teachers=0)):
        model, narrow = load_base(recipe), load_base(recipe)
        narrow.add_lora(lora / LORA, "specialized")
        transformers = {"base": model.transformer, "specialized": narrow.transformer}
        draw, models = draw_here(model, transformers), dict.fromkeys(transformers, [sampler])
        with narrow.adapters.use("specialized"):
            drawn = draw_tasks(draw, models, MiniatureBenchmark(), per_category, steps.show)
        comparisons = {task: compare(of, ExactJudge(), recipe) for task, of in drawn.items()}
    rows = [row for comparison in comparisons.values() for row in by_category(comparison)]
    (lora / "scores.json").write_text(json.dumps(rows, indent=1, allow_nan=False))
    weights = (lora / LORA).read_bytes()
    text = SPECIALIZED_CARD.format(
        **asdict(plan),
        megabytes=len(weights) / 1e6,
        digest=hashlib.sha256(weights).hexdigest()[:16],
        cases=per_category,
        nfe=sampler.nfe,
        guidance=defaults.guidance_scale,
        rows="\n".join(_line(row) for row in rows),
    )
    (lora / "README.md").write_text(text, encoding="utf-8")
    return rows


def by_category(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each category of a comparison of `base` and `specialized`: both scores and
    diversity gaps, and the paired difference."""
    rows = []
    base, narrow = (comparison.answers[name].result for name in ("base", "specialized"))
    for category, before in base.categories.items():
        ids = [case.id for case in comparison.cases if case.category == category]
        pairs = [(narrow.cases[name].score, base.cases[name].score) for name in ids]
        paired = [a - b for a, b in pairs if a is not None and b is not None]
        after = narrow.categories[category]
        rows.append(
            {
                "task": comparison.task,
                "category": category,
                "in_subset": category in SUBSET[comparison.task],
                "base": before.score,
                "specialized": after.score,
                "difference": sum(paired) / len(paired),
                "interval": interval(paired),
                "diversity_gap": [row.details["diversity_gap"] for row in (before, after)],
            }
        )
    return rows


def _line(row: Mapping[str, Any]) -> str:
    name = f"{row['task']}: {row['category']}"
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

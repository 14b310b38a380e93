"""The model card of a miniature's teacher: how it was made, and what it scores."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from flash_ray.cluster.session import run_session
from flash_ray.evaluation import sample
from flash_ray.evaluation.compare import Comparison, model_result
from flash_ray.miniature.captions import OMITTED, WRONG
from flash_ray.miniature.training.teacher import TeacherPlan
from flash_ray.recipe import load_recipe
from flash_ray.storage.manifest import record
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.produce import compare_all

CARD = """# The miniature's teacher

A `QwenImage21Pipeline` with small parts, for pictures of 64x64 pixels, made by
`python jobs/train_teacher.py DIR`. Made to try flash_ray without a GPU; of no other use.

- Data: {examples} drawn pictures for text to image and as many edits, for each kind of captions.
  Captions leave {omitted:.0%} of the attributes out. Careless ones, as on the web, state
  {wrong_t2i:.0%} of the others wrongly, careless instructions {wrong_edit:.0%}. One combination in
  sixteen is kept for the benches. No picture or text comes from anybody.
- Steps: VAE {vae_steps}, transformer {transformer_steps} (the last {careless_steps} on careless
  captions); seed {seed}. The text encoder is random.
- Weights: {megabytes:.1f} MB; digest {digest} (SHA-256 of the weights' SHA-256).
- License: Apache-2.0, as flash_ray.

Scores from 1 to 5 with their 95 % intervals, {cases} cases a category. Guidance {guidance:g}, the
preset's, which was chosen on cases of the same benches:

| | evaluations | text to image | editing |
|---|--:|--:|--:|
{rows}

| category | {columns} |
|---|{lines}
{categories}
"""


def write_card(pipeline: Path, plan: TeacherPlan, per_category: int) -> None:
    """Scores the pipeline saved in a folder; writes README.md and scores.json there."""
    recipe = load_recipe("miniature", [f"base={pipeline}"])
    settings = recipe.teacher_defaults
    with Steps() as steps, run_session(recipe):
        backbone = sample.load_base(recipe)
        models = {
            "teacher": sample.teacher(backbone, settings),
            "teacher_at_4": sample.teacher_at_4(backbone, settings),
        }
        comparisons = compare_all(backbone, models, per_category, steps)
    scores = {name: model_result(comparisons, name) for name in models}
    (pipeline / "scores.json").write_text(json.dumps(scores, indent=1, allow_nan=False))
    weights = {
        name: file for name, file in record(pipeline).items() if name.endswith(".safetensors")
    }
    digests = json.dumps({name: file.sha256 for name, file in weights.items()}, sort_keys=True)
    text = CARD.format(
        **asdict(plan),
        wrong_t2i=WRONG["t2i"],
        wrong_edit=WRONG["edit"],
        omitted=OMITTED,
        megabytes=sum(file.bytes for file in weights.values()) / 1e6,
        digest=hashlib.sha256(digests.encode()).hexdigest()[:16],
        cases=per_category,
        guidance=settings.guidance_scale,
        **_tables(scores, comparisons),
    )
    (pipeline / "README.md").write_text(text, encoding="utf-8")


def _tables(scores: dict, comparisons: dict[str, Comparison]) -> dict[str, str]:
    rows = []
    for name, result in scores.items():
        cells = [f"{name.replace('_', ' ')}", str(result["nfe"])]
        for bench in comparisons:
            low, high = result["intervals"][bench]
            cells.append(f"{result[bench]:.2f} [{low:.2f}, {high:.2f}], {result['ways'][bench]}")
        rows.append(f"| {' | '.join(cells)} |")
    categories = []
    for bench in comparisons:
        for category in scores["teacher"]["categories"][bench]:
            values = [
                f"{result['categories'][bench][category]['score']:.2f}"
                for result in scores.values()
            ]
            categories.append(f"| {bench}: {category} | {' | '.join(values)} |")
    return {
        "rows": "\n".join(rows),
        "columns": " | ".join(name.replace("_", " ") for name in scores),
        "lines": "--:|" * len(scores),
        "categories": "\n".join(categories),
    }

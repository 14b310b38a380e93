"""`jobs/train_teacher.py`, two steps of each part: what it leaves, and that it goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import QwenImage21Transformer2DModel

REPOSITORY = Path(__file__).parents[2]


def _train(folder: Path, transformer_steps: int) -> subprocess.CompletedProcess[str]:
    options = ["--vae-steps=2", f"--transformer-steps={transformer_steps}", "--careless-steps=1"]
    return subprocess.run(
        [sys.executable, "jobs/train_teacher.py", folder, *options, "--examples=64", "--cases=1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_train_teacher_leaves_a_scored_pipeline_and_goes_on(tmp_path):
    first = _train(tmp_path, transformer_steps=2)
    assert first.returncode == 0, first.stderr
    pipeline = tmp_path / "pipeline"
    assert first.stdout.splitlines()[-1] == str(pipeline)

    card = (pipeline / "README.md").read_text()
    assert "64 drawn pictures" in card and "VAE 2, transformer 2 (the last 1" in card
    assert card.count("| t2i: ") == 3 and card.count("| edit: ") == 6
    scores = json.loads((pipeline / "scores.json").read_text())
    assert (scores["benchmark"], scores["judge"]) == ("miniature", "exact")
    for name, nfe in (("teacher", 80), ("untrained", 4)):
        results = scores["results"][name]
        assert [row["nfe"] for row in results.values()] == [nfe, nfe]
        assert scores[name] == {task: row["score"] for task, row in results.items()}

    second = _train(tmp_path, transformer_steps=4)
    assert second.returncode == 0, second.stderr
    assert "resumed at step 2 of 4" in second.stderr
    assert "VAE 2, transformer 4 " in (pipeline / "README.md").read_text()
    transformer = QwenImage21Transformer2DModel.from_pretrained(pipeline / "transformer")
    assert all(weight.isfinite().all() for weight in transformer.parameters())

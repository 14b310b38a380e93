"""The GPU's benchmark runs from end to end on small networks, without a GPU, Ray or DeepSpeed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECTIONS = ("machine", "lora", "sampling", "vae", "full", "peer", "resume")


@pytest.mark.slow
def test_every_section_gives_rows_and_none_fails(tmp_path):
    out = tmp_path / "rows.json"
    named = [part for name in SECTIONS for part in ("--section", name)]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", "--patience", "20"]
    done = subprocess.run(
        [*command, "--total", "3000", "--out", str(out), *named],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())
    assert {row["section"] for row in rows} == set(SECTIONS)
    bad = [row for row in rows if row["what"] in ("failed", "skipped", "stopped", "not run")]
    assert not bad
    assert all(f"| {row['section']} | {row['what']} |" in done.stdout for row in rows)
    killed = next(row for row in rows if row["what"].startswith("killed after"))
    assert killed["note"] == "losses bit-equal; before the kill bit-equal"

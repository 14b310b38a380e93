"""No command line ends otherwise than the guide says: one line for bad input, never a traceback."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers.hostile import HEAVY, nothing_starts, passes_to_the_system, prepare, run, words

CALLS = 400
KNOWN = {0, 2, None}  # None: the checks passed
REAL = (
    "recipe check miniature --set data=&a\xa0[*a]",
    "recipe check miniature --set training.iterations=99999999999999999999",
    "serve miniature --serving generate.min=5 --serving generate.max=1",
    "serve miniature --serving batch=2020-01-01",
    "serve miniature --settings /dev/zero",
    "token no/dir/t.json me",
    "demo --out /proc/x/y",
    "demo --out /dev/null/x",
    "distill miniature --store file.txt",
    "distill miniature --store /proc/x",
    "distill miniature --store /dev/null/x",
    "evaluate teacher --task t2i --recipe miniature --out folder",
    "evaluate teacher --task t2i --recipe miniature --out file.txt",
    "submit distill miniature --store s3://x/y",
)

REFUSE_ALL = f"""
import contextlib, io, sys
from flash_ray.cli.app import main
for line in sys.argv[1:]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            main(line.split(" "))
    except SystemExit as ended:
        assert ended.code == 2, (line, ended.code)
print(sorted({{*sys.modules}} & {set(HEAVY)}))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with odd files, a home of its own, nobody's settings."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith(("RAY_", "AWS_", "GRAFANA_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def test_no_command_line_ends_otherwise_than_the_guide_says(here):
    ended: Counter[int | None] = Counter()

    @given(line=words())
    @settings(
        max_examples=CALLS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ends_well(line):
        end = run(line)
        assert end.code in KNOWN, (line, end)
        assert "Traceback" not in end.err, (line, end)
        if end.code == 2:
            assert end.err.startswith("flash-ray: ") and end.err.count("\n") == 1, (line, end)
            assert end.out == "", (line, end)
        ended[end.code] += 1

    with nothing_starts():
        ends_well()
    print(f"hostile command lines: {ended.total()}, by exit code {dict(ended)}")
    assert ended.total() >= CALLS and ended[2] > CALLS / 2 and ended[None] > 0


@pytest.mark.parametrize("line", REAL)
def test_a_real_process_says_it_in_one_line(here, line):
    asked = [word.replace("\xa0", " ") for word in line.split(" ")]
    assert passes_to_the_system(asked)
    with nothing_starts():
        end = run(asked)
    assert end.code == 2 and end.err.count("\n") == 1, end


@pytest.mark.parametrize("line", [REAL[0], REAL[6], REAL[10]])
def test_a_process_of_its_own_ends_alike(here, line):
    asked = [word.replace("\xa0", " ") for word in line.split(" ")]
    ended = subprocess.run(
        [sys.executable, "-m", "flash_ray", *asked], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith("flash-ray: ") and ended.stderr.count("\n") == 1


def test_what_is_refused_loads_nothing_heavy(here):
    asked = [line.replace("\xa0", " ") for line in (*REAL, "models --store nowhere")]
    ended = subprocess.run(
        [sys.executable, "-c", REFUSE_ALL, *asked], capture_output=True, text=True
    )
    assert ended.stdout == "[]\n", ended.stdout + ended.stderr


def test_a_hub_that_does_not_answer_is_one_line(here):
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(here / "cache")}
    (here / "prompts.jsonl").write_text('{"prompt": "a cat", "category": "animals"}\n' * 8)
    words = ["distill", "qwen-image-2.1-full", "--set", "runtime.gpu=false", "--store", "store"]
    words += ["--set", "data.source={t2i: prompts.jsonl}", "--set", "tasks.edit=0"]
    words += ["--set", "data.composition.t2i.animals=1", "--set", "data.num_cases=4"]
    ended = subprocess.run(
        [sys.executable, "-m", "flash_ray", *words],
        env={**os.environ, **hub},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert "base: 'Qwen/Qwen-Image-2.1' is neither a folder nor a hub model" in ended.stderr
    assert "(it does not answer)" in ended.stderr and not (here / "store").exists()

"""No command line ends otherwise than the guide says: one line for bad input, never a traceback."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers.hostile import nothing_starts, passes_to_the_system, prepare, run, words

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

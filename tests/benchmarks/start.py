"""`python -m tests.benchmarks.start`: from the command to the first update, and where time goes.

Runs `flash-ray distill miniature` for one iteration twice: with nothing cached, and again. Seconds
are the command's own, from its lines; CPU seconds are those of its processes by what they are.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import typer

from tests.helpers.commands import FLASH_RAY, user_environment

OPTIONS = (
    "training.iterations=1",
    "evaluation.every=0",
    "evaluation.published_cases=0",
    "runtime.checkpoint_every=0",
)
STAGES = {
    "Ray is up": "encode what is not cached",
    "first update": "distill: 1/1",
    "published": "published",
}


def kind_of(process: psutil.Process) -> str:
    """What a process is: an actor's class, a task's name, or the program."""
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0].partition(".")[0]
    scripts = [Path(word).name for word in words[:3] if not word.startswith("-")]
    return scripts[-1] if scripts else words[0]


def run(home: Path) -> tuple[dict[str, float], Counter[str]]:
    """Seconds at which the stages were reached, and CPU seconds until the end by process."""
    words = [word for option in OPTIONS for word in ("--set", option)]
    name = f"start-{time.monotonic_ns()}"
    start = time.monotonic()
    command = subprocess.Popen(
        [FLASH_RAY, "distill", "miniature", "--name", name, *words],
        env=user_environment(home),
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=(home / "lines").open("w"),
    )
    reached: dict[str, float] = {}
    computed: dict[tuple[int, float], tuple[str, float]] = {}
    while command.poll() is None:
        text = (home / "lines").read_text()
        for stage, line in STAGES.items():
            if stage not in reached and re.search(line, text):
                reached[stage] = time.monotonic() - start
        for process in [psutil.Process(command.pid), *_family(command.pid)]:
            try:
                times, key = process.cpu_times(), (process.pid, process.create_time())
                kind = kind_of(process)
            except psutil.Error:  # it has just ended
                continue
            if kind == "ray::IDLE" and key in computed:
                kind = computed[key][0]  # what it was before
            computed[key] = kind, times.user + times.system
        time.sleep(0.2)
    if command.returncode:
        sys.exit((home / "lines").read_text())
    total: Counter[str] = Counter()
    for kind, seconds in computed.values():
        total[kind] += seconds
    return reached, total


def _family(pid: int) -> list[psutil.Process]:
    """The command's processes: Ray's are of its session, or descend from it."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def main() -> None:
    """Prints both runs."""
    with tempfile.TemporaryDirectory() as folder:
        for what in ("nothing cached", "conditions cached"):
            reached, total = run(Path(folder))
            after = reached["first update"] - reached["Ray is up"]
            stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in reached.items())
            print(f"{what}: {stages}; first update {after:.1f} s after Ray (aim 15)")
            for kind, seconds in total.most_common(12):
                print(f"  {seconds:6.1f} s CPU  {kind}")


if __name__ == "__main__":
    typer.run(main)

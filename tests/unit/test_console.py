"""Progress: plain lines where there is no terminal, a bar where there is one."""

import io

from rich.console import Console

from flash_ray.telemetry.progress import Steps


def test_plain_lines_without_a_terminal():
    out = io.StringIO()
    with Steps(Console(file=out, width=200)) as steps:
        steps.say("hello")
        for done in range(1, 101):
            steps.show("train", done, 100, "loss 1")
        steps.show("judge", 1, 2)
    lines = [line.split(" s  ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines == ["hello", "train: 1/100  loss 1", "train: 100/100  loss 1", "judge: 1/2"]
    assert "\x1b" not in out.getvalue()


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    with Steps(Console(file=out, width=120, force_terminal=True)) as steps:
        steps.show("train", 5, 10, "loss 1")
    assert "5/10" in out.getvalue()
    assert "\x1b" in out.getvalue()

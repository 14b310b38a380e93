"""How commands end: one line and a code; of an error in another process, its cause alone."""

import errno
import signal
import subprocess
import sys

import pytest

from flash_ray.cli.ends import Interrupted, Terminated, describe_end, run_command
from flash_ray.errors import UserError

WAITS = """
import sys, time
from flash_ray.cli.ends import run_command
def wait():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("closed", flush=True)
run_command(wait)
"""


class Wrapper(Exception):
    """As Ray's errors hold what they are about."""

    def __init__(self, cause=None, failures=None):
        super().__init__("a page\n" * 50)
        self.cause, self.worker_failures, self.traceback_str = cause, failures, "remote trace"


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("seed: wrong"), "seed: wrong", 2),
        (Wrapper(failures={0: Wrapper(UserError("no such model"))}), "no such model", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (Interrupted(), "interrupted", 130),
        (Terminated(), "terminated", 143),
        (
            FileNotFoundError(errno.ENOENT, "", "/x/y"),
            "/x/y: No such file or directory; correct the path, or make it usable",
            2,
        ),
        (
            Wrapper(OSError(errno.ENOSPC, "", "/x")),
            "/x: No space left on device; free some space, then run the command again",
            1,
        ),
        (
            Wrapper(OSError("When reading: AWS Error NETWORK_CONNECTION during GetObject")),
            "the store failed (NETWORK_CONNECTION): it died, its disk is full, or the network is "
            "lost; see its log (weed.log of an embedded one), then run the command again, a run "
            "with --resume",
            1,
        ),
        (Wrapper(ValueError("many\nlines")), "failed: ValueError: lines", 1),
    ],
)
def test_an_error_is_one_line_and_a_code(error, line, code, capsys):
    assert describe_end(error) == (line, code)

    def raises():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(raises)
    assert ended.value.code == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"flash-ray: {line}"
    assert said[:-1] == (["remote trace"] if line.startswith("failed") else [])


def test_a_strangers_words_move_no_cursor(capsys):
    def fails():
        raise UserError("no LoRA in \x1b[2Ja\u202eb\n\tc")

    with pytest.raises(SystemExit):
        run_command(fails)
    assert capsys.readouterr().err == "flash-ray: no LoRA in ?[2Ja?b c\n"


def test_a_failure_names_what_was_noted_with_it(capsys):
    def fails():
        error = ValueError("broken")
        error.add_note("Ray's logs: /x")
        raise error

    with pytest.raises(SystemExit):
        run_command(fails)
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "flash-ray: failed: ValueError: broken (Ray's logs: /x)"
    assert said.count("Traceback") == 1


@pytest.mark.parametrize(
    ("number", "line", "code"),
    [
        (signal.SIGINT, "interrupted", 130),
        (signal.SIGTERM, "terminated", 143),
        (signal.SIGHUP, "terminated", 143),
    ],
)
def test_a_signal_closes_what_is_open_and_is_one_line(number, line, code):
    def heed():  # a job that a shell started in the background ignores SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    words = [sys.executable, "-c", WAITS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, preexec_fn=heed, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "closed\n", f"flash-ray: {line}\n")


def test_a_reader_that_has_gone_is_no_error_to_speak_of():
    command = f"{sys.executable} -m flash_ray recipe show miniature | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.stderr == "" and ended.returncode in (0, 1)

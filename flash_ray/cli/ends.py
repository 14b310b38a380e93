"""How a command ends: its exit code, and the one line on stderr that says why.

0 done, 1 failed, 2 bad input, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM, SIGHUP).
"""

import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from flash_ray.errors import UserError

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
UNEXPECTED = "failed: "  # begins the line of what nobody foresaw; its trace comes before it
STORE_FAILED = re.compile(r"AWS Error (\w+)")  # as pyarrow words it, with which Ray Train writes
TRACES = ("traceback_str", "_traceback_str")  # where Ray's errors keep those of other processes
FULL = (errno.ENOSPC, errno.EDQUOT)


class Interrupted(BaseException):
    """Ctrl-C, under a name of ours: typer makes a bare exit code of KeyboardInterrupt."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP came."""


def run_command(command: Callable[[], object]) -> None:
    """Runs a command and exits with its code; what went wrong is a line on stderr."""
    came: list[int] = []
    try:
        with _signals_heeded(came):
            code = command()
            sys.stdout.flush()
        if came:  # the command took it for Ctrl-C, and ended in its own way
            raise Terminated
    except BrokenPipeError:  # `flash-ray ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except (Exception, KeyboardInterrupt, Interrupted, Terminated) as error:
        reason, code = describe_end(Terminated() if came else error)
        if reason.startswith(UNEXPECTED):
            print(_trace(error), file=sys.stderr)
        print(f"flash-ray: {_one_line(reason)}", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def describe_end(error: BaseException) -> tuple[str, int]:
    """The line and the exit code of a command that ended with that error."""
    if isinstance(error, typer.exceptions.TyperException):
        return f"{error.format_message().rstrip('.')}; see `flash-ray --help`", BAD_INPUT
    if isinstance(error, typer.Abort | KeyboardInterrupt | Interrupted):
        return "interrupted", INTERRUPTED
    if isinstance(error, Terminated):
        return "terminated", TERMINATED
    cause = cause_of(error)
    if isinstance(cause, UserError):
        return str(cause), BAD_INPUT
    if isinstance(cause, OSError) and cause.errno is not None:
        return _of_system(cause)
    if isinstance(cause, OSError) and (code := STORE_FAILED.search(str(cause))):
        return (
            f"the store failed ({code[1]}): it died, its disk is full, or the network is lost; see "
            "its log (weed.log of an embedded one), then run the command again, a run with --resume"
        ), FAILED
    words = str(cause).strip() or "no reason given"
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    return f"{UNEXPECTED}{type(cause).__name__}: {words.splitlines()[-1]}{notes}", FAILED


def _one_line(reason: str) -> str:
    """Without what moves a terminal's cursor: names of files and keys may be a stranger's."""
    line = " ".join(reason.split())
    return "".join(char if char.isprintable() else "?" for char in line)


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in another process, without the wrappers that Ray puts around it."""
    return [error, *_wrapped(error)][-1]


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    failures = getattr(error, "worker_failures", None) or {}
    names = ("cause", "controller_failure", "_base_exc")
    inner = [getattr(error, name, None) for name in names]
    for found in [*inner, *failures.values()]:
        if isinstance(found, Exception):
            yield found
            yield from _wrapped(found)
            return


def _trace(error: BaseException) -> str:
    """Where the cause was raised, which Ray keeps as text if that was in another process."""
    chain = (error, *_wrapped(error))
    texts = [getattr(each, name, None) for each in chain for name in TRACES]
    known = [text for text in texts if text]
    return known[-1] if known else "".join(traceback.format_exception(cause_of(error), chain=False))


def _of_system(error: OSError) -> tuple[str, int]:
    """The line for what the system refused, a path above all."""
    reason = os.strerror(error.errno or 0)
    place = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in FULL:
        return f"{place}{reason}; free some space, then run the command again", FAILED
    if place:
        return f"{place}{reason}; correct the path, or make it usable", BAD_INPUT
    return f"{UNEXPECTED}{reason}", FAILED


@contextmanager
def _signals_heeded(came: list[int]) -> Iterator[None]:
    """Has SIGTERM and SIGHUP close what is open as Ctrl-C does, once, where they would end the
    process; notes in `came` which it was."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_IGN)  # `timeout` and service managers send more
        came.append(number)
        raise KeyboardInterrupt  # any other error is lost where Ray's core waits

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGHUP) if is_main else ()
    # What is ignored stays so: `nohup` ignores SIGHUP.
    heeded = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)

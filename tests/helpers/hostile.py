"""Command lines that nobody would type, and a `flash-ray` that starts nothing and asks nobody."""

import builtins
import contextlib
import io
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st

from flash_ray.cli.app import main

HEAVY = ("torch", "ray", "diffusers", "transformers")  # asked for when the checks are over


class Reached(BaseException):
    """The command has no more to check: it loads what is heavy, starts a process, or connects."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` None: the checks passed."""

    code: int | None
    out: str
    err: str


@contextlib.contextmanager
def nothing_starts() -> Iterator[None]:
    """For the block: flash_ray imports nothing heavy, no process starts, nobody is called."""
    real_import = builtins.__import__

    def imported(name: str, context: Any = None, *rest: Any, **named: Any) -> Any:
        asks = str((context or {}).get("__name__", "")).startswith("flash_ray")
        if asks and name.partition(".")[0] in HEAVY:
            raise Reached
        return real_import(name, context, *rest, **named)

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.setattr(builtins, "__import__", imported)
        patch.setattr(subprocess.Popen, "__init__", reached)
        patch.setattr(socket.socket, "connect", reached)
        patch.setattr(socket, "getaddrinfo", reached)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(words: list[str]) -> Ended:
    """Runs one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: int | None = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        except Reached:
            pass
    return Ended(code, out.getvalue(), err.getvalue())


def prepare(folder: Path) -> None:
    """Files that hostile words name."""
    (folder / "folder").mkdir()
    (folder / "file.txt").write_text("text")
    (folder / "with space, ü 名.yaml").write_text("name: x")
    (folder / "list.yaml").write_text("[1, 2]")
    (folder / "itself.yaml").write_text("name: &a [*a]")
    (folder / "laughs.yaml").write_text(
        "\n".join(
            [
                "a0: &a0 [x, x, x, x, x, x, x, x, x]",
                *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)),
            ]
        )
    )
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.yaml").write_text("")
    (folder / "denied").symlink_to("/proc/1/environ")
    (folder / "loop").symlink_to("loop")


PATHS = (
    *("folder", "file.txt", "with space, ü 名.yaml", "list.yaml", "itself.yaml", "laughs.yaml"),
    *("bytes.yaml", "empty.yaml", "denied", "loop", "file.txt/x", "none/none", "folder/..", "."),
    *("/dev/null", "/dev/null/x", "/dev/zero", "/proc/x", "/proc/self/mem", "/", "~", "-", ""),
    *("x" * 300, "a/" * 3000, "\udcff", "\n", "$HOME", "*", "--", "'; rm -rf x"),
)
PLACES = (
    *("s3://", "s3://x/y", "s3://User_Name/x", "s3://a:secret@bucket/x", "s3://bucket/x?y#z"),
    *("s3://bucket/prefix", "S3://bucket", "http://[", "https://[::1", "http://127.0.0.1:1", "://"),
)
NUMBERS = (
    *("0", "-1", "1", "3", "1.5", "1e999", "-0", "nan", "inf", "0x10", "1_000", "٣", "true", ""),
    *("99999999999999999999", "9" * 5000, "65536", "1 "),
)
VALUES = (
    *("&a [*a]", "*a", "2020-01-01", "2020-99-99", "{2020-01-01: 1}", "{[1]: 2}", "{a: 1, a: 2}"),
    *("!!binary aGk=", "!!set {a, b}", "!!python/object/apply:os.system [true]", "'\\0'", "{", "}"),
    *('"\\0"', '"\\ud800"', "[" * 500, "- -", "@", "~", ".inf", ".nan", "1:30:00", "0o17", "null"),
    *("[]", "{}", "[[]]", "{a: {b: {c: 1}}}", "{min: 2, max: 1}", "\t", "%", "|", ">", "!", "?"),
)
KEYS = (
    *(
        "name",
        "seed",
        "base",
        "family",
        "data",
        "data.source",
        "data.source.t2i",
        "data.resolution",
    ),
    *(
        "data.composition.t2i",
        "data.filter.length",
        "tasks",
        "tasks.edit",
        "teachers",
        "teachers.0",
    ),
    *("teachers.0.model", "teachers.0.weight", "teachers.9.name", "teachers.-1", "student.sigmas"),
    *(
        "training.iterations",
        "training.optimizer.betas",
        "evaluation.benchmark",
        "evaluation.judge",
    ),
    *("runtime.num_workers", "runtime.storage.url", "runtime.storage.endpoint", "runtime.gpu", "x"),
    *("teacher_defaults.replicas", "objective", "optimisation.updates", "", ".", "a..b", "batch"),
    *(
        "generate",
        "generate.min",
        "generate.max",
        "limits",
        "limits.n",
        "judges",
        "judges.a",
        "cpus",
    ),
)
ADDRESSES = ("", "0.0.0.0", "127.0.0.2", "::1", "nobody.invalid", "256.0.0.1", "a b", "é", "[::]")


def words() -> st.SearchStrategy[list[str]]:
    """Command lines of every command: options as they should be, values as they should not."""
    text = st.text(max_size=20)
    path = st.sampled_from(PATHS + PLACES) | text
    number = st.sampled_from(NUMBERS)
    name = st.sampled_from(("mine", "Bad/Name", "a" * 101, *PATHS)) | text
    setting = st.builds(
        "{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES + NUMBERS + PATHS) | text
    )
    recipe = st.sampled_from(("miniature", "miniature", "qwen-image-2.1-full")) | path
    study = st.sampled_from(("three-factors", "guidance-search")) | path
    task = st.sampled_from(("t2i", "edit", "faces", ""))
    judge = st.sampled_from(("exact", "ocr", "vlm:", "vlm:/dev/zero", "vlm:list.yaml", ":")) | text
    host = st.sampled_from(ADDRESSES) | text
    overrides, store, out = ("--set", setting), ("--store", path), ("--out", path)
    jobs = (("--address", path), ("--follow", None), ("--again", None), ("--pip", None))
    serving = (
        *(("--settings", path), ("--serving", setting), ("--tokens", path), ("--host", host)),
        *(("--port", number), overrides, store),
    )
    judged = (("--benchmark", name), ("--cases", number), ("--judge", judge), overrides, store)
    limits = tuple((f"--{each}", number) for each in ("port", "trainers", "cpus", "idle-s"))
    grafana = (("--grafana", path), ("--prometheus", path), ("--token-file", path))
    commands: dict[str, tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]] = {
        "recipe show": ((recipe,), (overrides,)),
        "recipe check": ((recipe,), (overrides,)),
        "data describe": ((recipe,), (overrides, store)),
        "data encode": ((recipe,), (overrides, store)),
        "distill": ((recipe,), (overrides, store, ("--name", name), ("--resume", None))),
        "demo": ((), (out, ("--cases", number), overrides, ("--force", None))),
        "evaluate": (
            (name,),
            (*judged, ("--task", task), ("--recipe", recipe), out, ("--force", None)),
        ),
        "rank": ((path, path), ()),
        "models": ((), (store,)),
        "export": ((name, path), (("--push", name), store, ("--force", None))),
        "serve": ((recipe,), serving),
        "token": ((path, name), (("--role", name),)),
        "alias": ((name, name), (store,)),
        "study run": ((study,), (out, ("--at-once", number), store)),
        "study status": ((study,), (out,)),
        "study report": ((study,), (out, ("--to", path))),
        "study search": ((study,), (out, ("--method", name), ("--trials", number), store)),
        "cluster local": ((), limits),
        "telemetry provision": ((), (*grafana, ("--dry-run", None))),
        "submit distill": ((recipe,), (overrides, store, ("--name", name), *jobs)),
        "submit encode": ((recipe,), (overrides, store, *jobs)),
        "submit evaluate": ((name,), (*judged, ("--task", task), ("--recipe", recipe), *jobs)),
        "submit study": ((study,), (out, ("--at-once", number), store, *jobs)),
        "submit serve": ((recipe,), (*serving, *jobs)),
        "jobs list": ((), jobs[:1]),
        "jobs logs": ((name,), jobs[:2]),
        "jobs wait": ((name,), jobs[:1]),
        "jobs stop": ((name,), jobs[:1]),
    }

    @st.composite
    def lines(draw: st.DrawFn) -> list[str]:
        command = draw(st.sampled_from(sorted(commands)))
        arguments, options = commands[command]
        drawn = command.split()
        for option, value in (
            draw(st.lists(st.sampled_from(options), max_size=5)) if options else ()
        ):
            drawn += [option] if value is None else [option, draw(value)]
        drawn += [draw(value) for value in arguments]
        return drawn

    return lines().filter(passes_to_the_system)


def passes_to_the_system(line: list[str]) -> bool:
    """Whether a process can be given these words at all."""
    try:
        return all(os.fsencode(word).count(b"\0") == 0 for word in line)
    except UnicodeEncodeError:
        return False

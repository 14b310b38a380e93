"""The installed commands as a user runs them: they see no store or cluster of the tests.

`python -m tests.helpers.commands` is the process behind `ForkedCommands`.
"""

import gc
import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

from flash_ray import plugins, workflows

SCRIPTS = Path(sysconfig.get_path("scripts"))
FLASH_RAY = SCRIPTS / "flash-ray"
RAY = SCRIPTS / "ray"


def user_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a user with that home: no AWS_* and RAY_* but those of `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    # A busy machine takes its time to start Ray's dashboard.
    return {**kept, "HOME": str(home), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600", **variables}


class ForkedCommands:
    """Runs `flash-ray` in forks of a process that has imported everything already.

    It is what the installed script runs, without the seconds that its imports take: for the many
    commands that end before they start anything.
    """

    def __init__(self, server: subprocess.Popen[str]):
        self._server = server

    def run(
        self, words: Sequence[str], folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs one command in that folder and environment."""
        with TemporaryDirectory() as name:
            out, err = Path(name) / "out", Path(name) / "err"
            request = [list(words), str(folder), environment, str(out), str(err)]
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


@contextmanager
def forked_commands() -> Iterator[ForkedCommands]:
    """The process to fork, for the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.commands"],
        cwd=Path(__file__).parents[2],
        env=user_environment(Path.home()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield ForkedCommands(server)
        server.stdin.close()


def _main(words: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    from flash_ray.cli.app import main

    code = 1
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary end would touch, and so copy, all that was imported


def _serve() -> None:
    names = [m.name for m in pkgutil.iter_modules(workflows.__path__, f"{workflows.__name__}.")]
    registered = [entry_points(group=group) for group in (plugins.MODELS, plugins.BENCHMARKS)]
    for name in ("flash_ray.cli.app", *names, *(p.module for group in registered for p in group)):
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            _main(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()

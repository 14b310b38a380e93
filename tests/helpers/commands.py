"""The installed commands as a user runs them: nothing of the tests' own store or cluster is seen."""

import multiprocessing
import os
import pkgutil
import subprocess
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import flash_ray.workflows

SCRIPTS = Path(sysconfig.get_path("scripts"))
FLASH_RAY = SCRIPTS / "flash-ray"
RAY = SCRIPTS / "ray"

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "flash_ray.cli.app",
        *(
            module.name
            for module in pkgutil.iter_modules(flash_ray.workflows.__path__, "flash_ray.workflows.")
        ),
        *(point.module for point in entry_points(group="flash_ray.models")),
        *(point.module for point in entry_points(group="flash_ray.benchmarks")),
    ]
)


def user_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a user with that home: no AWS_* and RAY_* but those of `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    # A busy machine takes its time to start Ray's dashboard.
    return {**kept, "HOME": str(home), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600", **variables}


def run_forked(
    words: tuple[str, ...], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs `flash-ray` in a fork of a process that has imported everything already.

    It is what the installed script runs, without the seconds that its imports take: for the many
    commands that end before they start anything.
    """
    with TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        process = _SERVER.Process(target=_main, args=(words, folder, environment, out, err))
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            ["flash-ray", *words], process.exitcode or 0, out.read_text(), err.read_text()
        )


def _main(
    words: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    from flash_ray.cli.app import main

    main(list(words))

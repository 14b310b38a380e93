"""What the tests of the commands share: the installed `flash-ray`, a very small base, a server."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import FLASH_RAY, ForkedCommands, forked_commands, user_environment
from tests.helpers.endpoints import Served, ServedStore, start_server, store_with_students
from tests.helpers.small import build_base

Command = Callable[..., subprocess.CompletedProcess[str]]

# A run of seconds: what is left of the preset is its structure.
SMALL = (
    "data.num_cases=8",
    "runtime.num_workers=1",
    "runtime.micro_batch_size=4",
    "runtime.checkpoint_every=2",
    "evaluation.every=2",
    "training.iterations=4",
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, untrained."""
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def small(base: Path) -> list[str]:
    """Options that make any run small."""
    settings = (f"base={base}", *SMALL)
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's home: nothing of the tests ends up in the real one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def flash_ray(home: Path, tmp_path: Path) -> Command:
    """Runs the installed console script in `tmp_path`, as a user without a terminal does."""
    assert FLASH_RAY.exists(), f"flash-ray is not installed in {sys.prefix}"

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FLASH_RAY, *words],
            cwd=tmp_path,
            env=user_environment(home, **variables),
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkedCommands]:
    """A process that has imported everything and forks for each command."""
    with forked_commands() as commands:
        yield commands


@pytest.fixture
def flash_ray_forked(forks: ForkedCommands, home: Path, tmp_path: Path) -> Command:
    """The same without the time of the imports, for commands that end before they start a thing."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return forks.run(words, tmp_path, user_environment(home, **variables))

    return run


@pytest.fixture(scope="module")
def served_store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    """A store that several commands use at once, with the students `plain` and `bold`."""
    with store_with_students(base, tmp_path_factory.mktemp("served")) as store:
        yield store


@pytest.fixture(scope="module")
def served(base: Path, served_store: ServedStore) -> Iterator[Served]:
    """A server for a module's tests."""
    server = start_server(base, served_store)
    yield server
    server.stop()

"""What the tests of the commands share: the installed `flash-ray`, a very small base, a server."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.chat_server import KEY, ChatServer, chat_server
from tests.helpers.commands import FLASH_RAY, ForkedCommands, forked_commands, user_environment
from tests.helpers.endpoints import Served, ServedStore, start_server, store_with_students
from tests.helpers.gallery_page import LIMITS
from tests.helpers.small import build_base

PACKAGE = Path(__file__).parents[1] / "helpers/plugin_package"
Command = Callable[..., subprocess.CompletedProcess[str]]

# A run of seconds: what is left of the preset is its structure.
SMALL = (
    "data.num_cases=8",
    "runtime.num_workers=1",
    "runtime.micro_batch_size=4",
    "runtime.checkpoint_every=2",
    "evaluation.every=2",
    "evaluation.published_cases=1",
    "evaluation.baselines=false",
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


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed somebody else's package, with a judge."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    ended = subprocess.run(
        [*pip, "--no-index", "--target", folder / "site", source], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "site"


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


@pytest.fixture(scope="package")
def vlm() -> Iterator[ChatServer]:
    """Where the server's judge `seer` asks; its key is in the environment."""
    with pytest.MonkeyPatch.context() as patch, chat_server() as running:
        patch.setenv("JUDGE_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture(scope="package")
def served_store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    """A store that several commands use at once, with the students `plain` and `bold`."""
    with store_with_students(base, tmp_path_factory.mktemp("served")) as store:
        yield store


@pytest.fixture(scope="package")
def start(base: Path, served_store: ServedStore, vlm: ChatServer) -> Iterator[Callable[[], Served]]:
    """Starts a server with limits and a judge of its own, unless it runs."""
    seer = {"base_url": vlm.base_url, "model": "seer", "key_variable": "JUDGE_KEY"}
    file = served_store.folder / "seer.yaml"
    file.write_text(json.dumps({**seer, "max_requests": 9, "concurrency": 1}))
    settings = [f"judges.seer={file}", *(f"limits.{k}={v}" for k, v in LIMITS.items())]
    words = [word for setting in settings for word in ("--serving", setting)]
    servers: list[Served] = []

    def running() -> Served:
        if not servers or servers[-1].process.poll() is not None:
            servers.append(start_server(base, served_store, *words))
        return servers[-1]

    yield running
    for server in servers:
        server.stop()


@pytest.fixture
def served(start: Callable[[], Served]) -> Served:
    """The server of all tests; one that stops it makes the next one start another."""
    return start()

"""How the tests share a machine, and what they are told apart by."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SHARED = ("e2e", "integration")  # each with its servers and its Ray


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup` these two run beside each other, and a unit test's file as one.

    A process of its own for each keeps what a session shares: one Ray, one store, one server.
    """
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        group = tier if tier in SHARED else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))

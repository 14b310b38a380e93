"""Folders of Rays whose driver was killed: the next one removes them, and no others."""

import signal
import subprocess
import sys

import pytest

from flash_ray.cluster.session import LOCK, PREFIX, remove_dead_folders

HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A folder that a process has locked, and the process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"{PREFIX}one"
    (folder / "r").mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / LOCK)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


def test_a_killed_drivers_folder_goes_and_a_living_ones_stays(driver, tmp_path):
    folder, process = driver
    kept_for_its_logs = tmp_path / f"{PREFIX}two"
    kept_for_its_logs.mkdir()
    remove_dead_folders()
    assert (folder / "r").is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    remove_dead_folders()
    assert not folder.exists() and kept_for_its_logs.is_dir()

"""The image and the store's unit: pinned, without root, with commands that exist."""

import json
import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from flash_ray.storage import embedded, security
from tests.helpers.containerfile import FILE, instructions, last, user_of

REPOSITORY = FILE.parents[1]
UNIT = REPOSITORY / "infra/seaweedfs/seaweedfs.service"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_base_images_are_pinned():
    arguments = dict(a.split("=", 1) for name, a in instructions() if name == "ARG")
    images = [a.split()[0] for name, a in instructions() if name == "FROM"]
    assert len(images) == 2
    for image in images:
        image = arguments["BASE"] if image == "${BASE}" else image
        tag = image.partition(":")[2]
        assert any(character.isdigit() for character in tag) and "latest" not in tag


def test_nobody_is_root_and_the_command_exists():
    names = [name for name, _ in instructions()]
    assert int(user_of().partition(":")[0]) > 0
    assert "RUN" not in names[names.index("USER") :]
    assert "ENTRYPOINT" not in names  # KubeRay and `ray up` start a shell
    command, *_ = json.loads(last("CMD"))
    assert command in PROJECT["scripts"]
    installed = " ".join(arguments for name, arguments in instructions() if name == "RUN")
    assert {"wget", "rsync", "g++", "ninja-build"} <= set(installed.split())


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (REPOSITORY / ".containerignore").read_text().splitlines()
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (REPOSITORY / source).exists() and source not in ignored


def test_every_dependency_is_pinned_within_its_bounds():
    lines = (REPOSITORY / "infra/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    (install,) = (line for name, line in instructions() if name == "RUN" and "constraint" in line)
    wanted = re.search(r"\[([a-z,]+)\]", install).group(1).split(",")
    assert {*extras} - {*wanted} == {"dev"}
    requirements = [*PROJECT["dependencies"], *(line for name in wanted for line in extras[name])]
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(Version(pins[requirement.name])), requirement.name


def exec_start() -> list[str]:
    text = UNIT.read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    return line.partition("=")[2].split()


def test_the_unit_serves_the_bucket_that_flash_ray_uses():
    command = exec_start()
    assert f"-bucket={embedded.BUCKET}" in command and "-master.telemetry=false" in command
    text = UNIT.read_text()
    for use in security.JWT:
        assert f"WEED_JWT_{use.upper().replace('.', '_')}_KEY" in text
    assert {"DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= set(
        text.splitlines()
    )


def test_the_unit_shuts_the_doors_that_the_embedded_store_shuts(tmp_path):
    security.write_security(tmp_path / "security")
    here = tomllib.loads((tmp_path / "security/security.toml").read_text())
    there = tomllib.loads((UNIT.parent / "security.toml").read_text())
    home = str(tmp_path / "security")
    for kind in ("grpc", "https"):
        assert there[kind] == json.loads(json.dumps(here[kind]).replace(home, "/run/seaweedfs"))
    assert "-keyout /run/seaweedfs/key.pem -out /run/seaweedfs/certificate.pem" in UNIT.read_text()


def test_systemd_understands_the_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    here = shutil.which("true")  # the real one need not be installed
    text = UNIT.read_text().replace(exec_start()[0], here)
    copy.write_text(text.replace("/usr/bin/openssl", here))
    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert UNIT.name not in checked.stderr

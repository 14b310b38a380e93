"""The READMEs: every command in them exists, and those that need no cluster are run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from flash_ray.cli.app import app
from flash_ray.evaluation.judges.endpoint import VlmSettings
from flash_ray.recipe.load import load_raw, parse_recipe

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
CLUSTER = (REPOSITORY / "cluster/README.md").read_text()
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README + CLUSTER, re.DOTALL)
    for line in block.splitlines()
]
JOBS = {
    "jobs/distill.py": ["distill"],
    "jobs/evaluate.py": ["evaluate"],
    "jobs/encode.py": ["data", "encode"],
    "jobs/study.py": ["study"],
    "jobs/serve.py": ["serve"],
}


def commands() -> list[list[str]]:
    """The arguments of every `flash-ray` in the README, those of the jobs included."""
    found = []
    for line in LINES:
        for part in re.split(r"&&| > |\s--\s", line):
            words = shlex.split(part)
            if words and words[0] == "flash-ray":
                found.append(words[1:])
            if words[:1] == ["python"] and words[1] in JOBS:
                found.append([*JOBS[words[1]], *words[2:]])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_is_understood(words):
    command = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):  # a group: its options, then a command's
        context = typer.Context(command)
        _, command, words = command.resolve_command(context, words)
    assert command.make_context(command.name, list(words)).command.callback


def test_readme_names_what_exists():
    for text, home in ((README, REPOSITORY), (CLUSTER, REPOSITORY / "cluster")):
        for path in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (home / path).exists(), path
    for line in LINES:
        for path in re.findall(r"(?<![\w/.])(?:jobs/|\.ci/|cluster/|infra/)\S+", line):
            assert (REPOSITORY / path).exists(), path
        for folder in re.findall(r"apply -k (\S+)", line):
            assert (REPOSITORY / folder / "kustomization.yaml").exists(), folder


YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", [block for block in YAML if "base_url" not in block])
def test_parts_of_recipes_are_valid(block):
    raw = load_raw("miniature", ["runtime.storage.url=s3://bucket"])
    for section, content in yaml.safe_load(block).items():
        raw[section] = {**raw[section], **content} if isinstance(content, dict) else content
    recipe = parse_recipe(raw)
    assert len(recipe.teachers) == 2 or recipe.data.source.columns.prompt == "caption"


def test_the_settings_of_a_judge_are_valid():
    (block,) = [block for block in YAML if "base_url" in block]
    assert VlmSettings.model_validate(yaml.safe_load(block)).max_requests == 500


def test_first_two_commands_do_all_their_own_set_up():
    demo, check = (block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2])
    assert demo.startswith("python3 -m venv ") and demo.count("\n") == 1
    assert check == ".ci/run\n"


def test_train_teacher_is_understood():
    (line,) = [line for line in LINES if "jobs/train_teacher.py" in line]
    assert line == "python jobs/train_teacher.py teacher"
    shown = subprocess.run(
        [sys.executable, "jobs/train_teacher.py", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DIR" in shown.stdout


@pytest.mark.slow
def test_your_own_run(flash_ray, tmp_path, small):
    """The section's commands in order, with a small run, from the recipe to the scores."""
    section = README.split("## Your own run")[1].split("##")[0]
    lines = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    extra = {"distill": small, "evaluate": ["--cases", "1"]}
    printed = {}
    for line in lines:
        command, _, file = line.partition(" > ")
        words = shlex.split(command)
        ended = flash_ray(*words[1:], *extra.get(words[1], []))
        assert ended.returncode == 0, ended.stderr
        printed[words[1]] = ended.stdout
        if file:
            (tmp_path / file).write_text(ended.stdout)
    assert printed["distill"] == "s3://flash-ray/students/mine\n"
    assert "mine" in printed["models"]
    assert "landscape" in printed["evaluate"] and "NFE 4" in printed["evaluate"]

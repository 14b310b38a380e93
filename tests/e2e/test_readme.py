"""README, guides and pages: what they name exists, every command is understood, YAML is valid."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from flash_ray.cli.app import app
from flash_ray.data.writing.spec import read_spec
from flash_ray.evaluation.judges.endpoint import PairSettings
from flash_ray.recipe.load import load_raw, parse_recipe
from flash_ray.studies.study import load_study

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    page.relative_to(REPOSITORY).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(
        [
            *REPOSITORY.glob("*.md"),
            *REPOSITORY.glob("flash_ray/*/README.md"),
            REPOSITORY / "cluster/README.md",
            REPOSITORY / "jobs/results/README.md",
        ]
    )
}
README = PAGES["README.md"]
JOBS = {
    "jobs/distill.py": ["distill"],
    "jobs/evaluate.py": ["evaluate"],
    "jobs/encode.py": ["data", "encode"],
    "jobs/study.py": ["study"],
    "jobs/serve.py": ["serve"],
}


def blocks(kind: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    fence = re.compile(rf"```{kind}\n(.*?)```", re.DOTALL)
    return [(page, block) for page, text in PAGES.items() for block in fence.findall(text)]


LINES = [line for _, block in blocks("sh") for line in block.splitlines()]


def commands() -> list[list[str]]:
    """The arguments of every `flash-ray` on a page, those of the jobs included; each once."""
    found = []
    for line in LINES:
        for part in re.split(r"&&| > |\s--\s", line):
            words = shlex.split(part)
            if words and words[0] == "flash-ray":
                found.append(words[1:])
            if words[:1] == ["python"] and words[1] in JOBS:
                found.append([*JOBS[words[1]], *words[2:]])
    return [words for number, words in enumerate(found) if words not in found[:number]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_is_understood(words):
    command = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):  # a group: its options, then a command's
        context = typer.Context(command)
        _, command, words = command.resolve_command(context, words)
    assert command.make_context(command.name, list(words)).command.callback


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page]):
        assert (REPOSITORY / page).parent.joinpath(path).exists(), path


def test_files_that_commands_name_exist():
    for line in LINES:
        for path in re.findall(r"(?<![\w/.])(?:jobs/|\.ci/|cluster/|infra/)\S+", line):
            assert (REPOSITORY / path).exists() or path.startswith("jobs/results/"), path
        for folder in re.findall(r"apply -k (\S+)", line):
            assert (REPOSITORY / folder / "kustomization.yaml").exists(), folder
        for module in re.findall(r"python -m ((?:tests|flash_ray)[\w.]+)", line):
            path = REPOSITORY / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_readme_is_for_ten_minutes():
    assert len(README.splitlines()) <= 150


def yaml_blocks(wanted: str) -> list[object]:
    """The YAML blocks of one kind: a judge's settings, a spec, a study, parts of a recipe."""
    found = []
    for page, text in blocks("yaml"):
        content = yaml.safe_load(text)
        kind = "recipe"
        if "base_url" in content:
            kind = "judge"
        elif "writer" in content:
            kind = "spec"
        elif "arms" in content:
            kind = "study"
        elif "apiVersion" in content or page.startswith("cluster/"):
            kind = "manifest"
        if kind == wanted:
            found.append(pytest.param(content, id=f"{page}: {', '.join(content)}"))
    return found


@pytest.mark.parametrize("content", yaml_blocks("recipe"))
def test_parts_of_recipes_are_valid(content):
    raw = load_raw("miniature", ["runtime.storage.url=s3://bucket"])
    for section, part in content.items():
        raw[section] = {**raw.get(section, {}), **part} if isinstance(part, dict) else part
    shown = parse_recipe(raw).model_dump(mode="json")
    assert set(content) <= set(shown)


@pytest.mark.parametrize("content", yaml_blocks("judge"))
def test_the_settings_of_a_judge_are_valid(content):
    assert PairSettings.model_validate(content).max_requests == 500


@pytest.mark.parametrize("content", yaml_blocks("spec"))
def test_what_is_to_be_written_is_valid(content, tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(content))
    assert read_spec(str(file)).writer.max_requests == 500


@pytest.mark.parametrize("content", yaml_blocks("study"))
def test_studies_are_valid(content, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**content, "recipe": "miniature"}))
    assert load_study(str(file)).name == content["name"]


def test_entry_points_that_pages_show_are_of_groups_that_exist():
    own = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    for _, text in blocks("toml"):
        shown = tomllib.loads(text)["project"]["entry-points"]
        assert set(shown) <= set(own["project"]["entry-points"])


def test_first_two_commands_do_all_their_own_set_up():
    demo, check = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2]
    assert demo.startswith("python3 -m venv ") and demo.count("\n") == 1
    assert check == ".ci/run\n"


@pytest.mark.parametrize("job", ["train_teacher", "specialize_teacher"])
def test_training_a_teacher_is_understood(job):
    (line,) = [line for line in LINES if f"jobs/{job}.py" in line]
    assert line.startswith(f"python jobs/{job}.py ")
    shown = subprocess.run(
        [sys.executable, f"jobs/{job}.py", "--help"],
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

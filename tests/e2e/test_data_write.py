"""`flash-ray data write`: the guide's spec, what recipes make of the folder, how it ends."""

import json
import re
import shlex
import signal
import subprocess
from collections import Counter
from pathlib import Path
from threading import Event

import pytest
import yaml
from PIL import Image

import flash_ray as package
from tests.helpers.chat_server import KEY, Answer, chat_server
from tests.helpers.commands import FLASH_RAY, user_environment
from tests.helpers.writer import KEY_VARIABLE, write_spec, writes

GUIDE = (Path(package.__file__).parent / "data/README.md").read_text(encoding="utf-8")
SECTION = GUIDE.split("## Prompts and edits that a language model writes\n")[1].split("\n## ")[0]
ENVIRONMENT = {KEY_VARIABLE: KEY, "NO_PROXY": "127.0.0.1"}
T2I = {
    "categories": {"hill": {"rows": 4, "about": "hills", "themes": ["snow"]}},
    "languages": {"English": {"length": [40, 90]}},
}


@pytest.fixture
def writer():
    with chat_server() as server:
        server.script = writes
        yield server
    assert server.problems == []


@pytest.mark.slow
def test_the_guides_spec_is_written_drawn_and_read_by_a_recipe(flash_ray, base, writer, tmp_path):
    spec = yaml.safe_load(re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[1])
    spec["writer"]["base_url"] = writer.base_url
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
    mine = tmp_path / "mine.yaml"
    mine.write_text(flash_ray("recipe", "show", "miniature", "--set", f"base={base}").stdout)
    (line,) = re.search(r"```sh\n(.*?)```", SECTION, re.DOTALL)[1].splitlines()
    words = shlex.split(line)[1:]
    ended = flash_ray(*words, "--store", "store", **ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    out = tmp_path / "written"
    rows = {
        task: [json.loads(row) for row in (out / f"{task}.jsonl").read_text("utf-8").splitlines()]
        for task in ("t2i", "edit")
    }
    assert Counter(row["category"] for row in rows["t2i"]) == {"landscape": 60, "sign": 20}
    assert Counter(row["language"] for row in rows["t2i"]) == {"English": 53, "Chinese": 27}
    assert sum(row["text"] is not None for row in rows["t2i"]) == 18
    assert Counter(row["image"] for row in rows["edit"]).most_common()[0][1] == 4
    shown = [picture for asked in writer.asked for picture in asked.pictures]
    assert len(shown) == 3 and {picture.shape for picture in shown} == {(64, 64, 3)}
    for row in rows["edit"]:
        assert Image.open(out / row["image"]).size == (64, 64)
        assert row["picture_base"] == str(base) and row["picture_sampler"] == "40 guided steps"
        assert 40 <= len(row["picture_prompt"]) <= 400
    data = yaml.safe_load(ended.stdout[ended.stdout.index("data:") :])
    recipe = yaml.safe_load(mine.read_text())
    recipe["data"] |= {**data["data"], "max_per_category": 6}
    mine.write_text(yaml.safe_dump(recipe))
    asked = len(writer.asked)
    again = flash_ray(*words, "--store", "store", **ENVIRONMENT)
    assert again.returncode == 0 and len(writer.asked) == asked, again.stderr
    assert flash_ray("recipe", "check", mine.name).returncode == 0
    described = flash_ray("data", "describe", mine.name, "--store", "store")
    assert described.returncode == 0, described.stderr
    assert described.stderr == "" and "conditions: 0 of 18 cases encoded" in described.stdout


def test_a_budget_that_ends_is_one_line_after_what_there_is(flash_ray_forked, writer, tmp_path):
    write_spec(tmp_path, writer, t2i=T2I, batch=1, writer={"max_requests": 3})
    words = ("data", "write", "spec.yaml", "--out", "written")
    ended = flash_ray_forked(*words, **ENVIRONMENT)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "flash-ray: writer.max_requests: 3 do not suffice, spent: 3 requests"
    )
    assert "3 English" in ended.stdout and "source:\n    t2i: written/t2i.jsonl" in ended.stdout
    ended = flash_ray_forked(*words, **ENVIRONMENT)
    assert ended.returncode == 0 and "asked 1 times now, 100 tokens; 400 tokens" in ended.stdout


def test_ctrl_c_does_not_wait_for_a_slow_server(writer, home, tmp_path):
    """The server answers once the command has ended: one that waited would wait for ever."""
    asked, ended = Event(), Event()

    def never(question, number):
        if number < 2:
            return writes(question, number)
        asked.set()
        ended.wait(600)
        return Answer("too late")

    writer.script = never
    write_spec(tmp_path, writer, t2i=T2I, batch=1, writer={"concurrency": 1})
    with subprocess.Popen(
        [FLASH_RAY, "data", "write", "spec.yaml", "--out", "written"],
        cwd=tmp_path,
        env=user_environment(home, **ENVIRONMENT),
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            assert asked.wait(300)
            command.send_signal(signal.SIGINT)
            _, errors = command.communicate(timeout=300)
        finally:
            ended.set()
            command.kill()
    assert command.returncode == 130 and errors.splitlines()[-1] == "flash-ray: interrupted"
    assert len((tmp_path / "written/t2i.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "words", "says"),
    [
        ({"t2i": None}, "", "neither t2i nor edit"),
        ({"against": ["star"]}, "", "SPEC: against: unknown benchmark 'star'"),
        ({"writer": {"max_requests": 0}}, "", "writer: max_requests: "),
        ({"writer": {"base_url": "http://me:word@h/v1"}}, "", "writer: base_url: "),
        ({"writer": {"key_variable": "NO_SUCH_KEY"}}, "", "writer.key_variable: NO_SUCH_KEY"),
        ({}, "--set student.steps=4", "--set: given without --recipe"),
        ({"edit": {"categories": {"x": {"rows": 1, "about": "a", "themes": ["t"],
                                        "pictures": ["p"]}}}}, "", "--recipe: missing"),
        ({}, "--out spec.yaml", "--out: spec.yaml is no folder"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything(
    flash_ray_forked, writer, tmp_path, changes, words, says
):
    write_spec(tmp_path, writer, **{"t2i": T2I, **changes})
    ended = flash_ray_forked(
        "data", "write", "spec.yaml", "--out", "written", *words.split(), **ENVIRONMENT
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and says in ended.stderr and "word" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"] and writer.asked == []

"""Edits that a language model writes: the pictures are drawn by a real base, in this process, and
the server is asked with them. `tests/e2e/test_data_write.py` has Ray draw them."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flash_ray.cluster import session
from flash_ray.data.files import find_files
from flash_ray.data.readers import read_rows
from flash_ray.data.rows import read_row
from flash_ray.errors import UserError
from flash_ray.evaluation import drawing
from flash_ray.evaluation.compare import draw_here
from flash_ray.models.loading import load_model
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Files
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows import write as workflow
from tests.helpers.chat_server import Answer, ChatServer, trusted_server
from tests.helpers.distilling import small_recipe
from tests.helpers.writer import KEY_VARIABLE, write_spec, writes

STYLE = {"rows": 3, "about": "styles", "themes": ["ink", "oil"], "pictures": ["a pier", "a cat"]}
SIGN = {**STYLE, "rows": 2, "about": "words", "rendered_text": 1.0}
EDIT = {
    "languages": {"English": {"length": [20, 80]}},
    "per_picture": 2,
    "sizes": [[64, 64], [32, 96]],
    "categories": {"style": STYLE, "sign": SIGN},
}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with trusted_server(KEY_VARIABLE, writes) as running:
        yield running


@pytest.fixture
def recipe(miniature_folder: Path) -> Recipe:
    return small_recipe(miniature_folder, "teacher_defaults.guidance_scale=1.0")


@pytest.fixture
def drawn(miniature_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the cases of each time that pictures are drawn; here, without a cluster."""
    model = load_model(str(miniature_folder), torch.float32, "cpu", encoders=True)
    draw, calls = draw_here(model, {"base": model.transformer}), list[list[str]]()

    @contextmanager
    def here(*arguments: object) -> Iterator[Any]:
        def noted(name, sampler, cases, progress):
            calls.append([case.id for case in cases])
            return draw(name, sampler, cases, progress)

        yield noted

    monkeypatch.setattr(drawing, "drawn_by_actors", here)
    monkeypatch.setattr(session, "ray_session", lambda needs: nullcontext())
    monkeypatch.setattr(workflow, "open_run_store", lambda *arguments: nullcontext())
    return calls


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "edit.jsonl").read_text("utf-8").splitlines()]


def test_the_writer_sees_each_picture_and_recipes_read_the_edits(server, recipe, drawn, tmp_path):
    spec, out = write_spec(tmp_path, server, edit=EDIT, writer={"concurrency": 1}), tmp_path / "out"
    written = workflow.write_data(str(spec), out, recipe, None, Steps())
    rows = rows_of(out)
    assert written.problem is None
    assert Counter(row["category"] for row in rows) == {"style": 3, "sign": 2}
    assert all(row["text"] and row["text"] in row["prompt"] for row in rows if row["rendered_text"])
    assert sum(len(asked.pictures) for asked in server.asked) == 3
    for row in rows:
        (seen,) = server.asked[row["request"] - 1].pictures
        assert (seen == np.asarray(Image.open(out / row["image"]))).all()
    sizes = Counter(Image.open(path).size for path in (out / "pictures").iterdir())
    assert sizes == {(64, 64): 2, (96, 32): 1}
    files = find_files(Files(edit=str(out / "edit.jsonl")), "edit", None)
    read = [
        case
        for _, raw in read_rows(files, files.paths[0])
        for case in read_row(raw, files.form, files.picture)
    ]
    assert [case.prompt for case in read] == [row["prompt"] for row in rows]
    assert all(case.sizes in (((64, 64),), ((32, 96),)) for case in read)


def test_what_is_drawn_is_not_drawn_again(server, recipe, drawn, tmp_path):
    out = tmp_path / "out"
    few = write_spec(tmp_path, server, edit=EDIT, writer={"max_requests": 3, "concurrency": 1})
    ended = workflow.write_data(str(few), out, recipe, None, Steps())
    assert "max_requests" in str(ended.problem) and len(drawn) == 1 and len(drawn[0]) == 3
    (gone, *_) = (out / "pictures").iterdir()
    before = gone.read_bytes()
    gone.unlink()
    spec = write_spec(tmp_path, server, edit=EDIT)
    assert workflow.write_data(str(spec), out, recipe, None, Steps()).problem is None
    assert drawn[1:] == [[gone.stem]] and gone.read_bytes() == before
    assert len(rows_of(out)) == 5
    assert sum(len(asked.pictures) for asked in server.asked) == 3


def test_another_base_does_not_go_on(server, recipe, drawn, tmp_path):
    spec = write_spec(tmp_path, server, edit=EDIT, writer={"max_requests": 1})
    out = tmp_path / "out"
    workflow.write_data(str(spec), out, recipe, None, Steps())
    guided = recipe.teacher_defaults.model_copy(update={"guidance_scale": 3.0})
    other = recipe.model_copy(update={"teacher_defaults": guided})
    with pytest.raises(UserError, match="pictures.guidance_scale=1.0, now it is 3.0"):
        workflow.write_data(str(spec), out, other, None, Steps())


def test_a_writer_that_sees_no_pictures_is_named(server, recipe, drawn, tmp_path):
    blind = Answer(status=400, body=b'{"error": {"message": "no image input"}}')
    server.script = lambda asked, number: blind if asked.pictures else writes(asked, number)
    one = {**EDIT, "categories": {"style": {**STYLE, "rows": 1}}}
    spec = write_spec(tmp_path, server, edit=one)
    written = workflow.write_data(str(spec), tmp_path / "out", recipe, None, Steps())
    assert "answers 400: " in written.problem and "no image input" in written.problem
    assert "writer.model" in written.problem and written.requests == 2

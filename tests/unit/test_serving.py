"""The endpoints' small parts: caches of bounded bytes, tokens, settings, schedules of models."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import load_recipe
from flash_ray.serving.batching import Lru
from flash_ray.serving.registry import teacher_of
from flash_ray.serving.settings import load_serving
from flash_ray.serving.tokens import add_token, allows, read_tokens, role_of


def test_the_least_recently_used_goes_first():
    lru = Lru(6, len)
    lru.put("a", "xx")
    lru.put("b", "xx")
    lru.put("c", "xx")
    assert lru.get("a") == "xx"
    lru.put("d", "xx")
    assert [lru.get(key) for key in "abcd"] == ["xx", None, "xx", "xx"]
    lru.put("a", "x")
    assert lru.bytes == 5
    lru.put("e", "x" * 7)
    assert lru.bytes == 0 and len(lru) == 0


def test_a_token_is_shown_once_and_kept_as_a_hash(tmp_path):
    file = tmp_path / "tokens.json"
    mine, theirs = add_token(file, "me", "admin"), add_token(file, "they", "read")
    tokens = read_tokens(file)
    assert (role_of(mine, tokens), role_of(theirs, tokens)) == ("admin", "read")
    assert role_of(mine + "x", tokens) is None and role_of("", tokens) is None
    assert mine not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="has a token 'me'"):
        add_token(file, "me", "read")


def test_roles_may_do_what_those_below_them_may():
    order = ("read", "generate", "admin")
    for have, role in enumerate(order):
        assert [allows(role, needed) for needed in order] == [n <= have for n in range(3)]


@pytest.mark.parametrize("text", ["[]", "{}", '[{"name": "a", "role": "king", "sha256": "x"}]'])
def test_a_file_of_no_tokens_is_refused(tmp_path, text):
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(UserError, match="--tokens"):
        read_tokens(tmp_path / "tokens.json")


def test_settings_from_a_file_and_changes(tmp_path):
    (tmp_path / "s.yaml").write_text("limits: {n: 2}\nbatch: 4\n")
    found = load_serving(tmp_path / "s.yaml", ["limits.steps=8"])
    assert (found.limits.n, found.limits.steps, found.batch) == (2, 8, 4)
    with pytest.raises(UserError, match=r"limits\.m: unknown key; did you mean limits\.n\?"):
        load_serving(None, ["limits.m=1"])
    with pytest.raises(UserError, match="batch: value 0 .* allowed: pictures of a batch"):
        load_serving(None, ["batch=0"])
    with pytest.raises(UserError, match="--settings: .*nowhere"):
        load_serving(tmp_path / "nowhere.yaml")


def test_the_teacher_takes_other_numbers_of_steps():
    teacher = teacher_of(load_recipe("miniature"))
    assert teacher.evaluations() == 80
    assert teacher.sigmas_for(2) == (1.0, 0.5)
    assert teacher.evaluations(2) == 4


def test_the_teachers_scores_come_with_its_base(tmp_path):
    shipped = json.loads((Path(resolve_base("miniature")) / "scores.json").read_text())["teacher"]
    scores = {"cases_per_category": 24, "t2i": shipped["t2i"], "edit": shipped["edit"]}
    assert teacher_of(load_recipe("miniature")).scores == scores
    # Another guidance is another teacher.
    assert (
        teacher_of(load_recipe("miniature", ["teacher_defaults.guidance_scale=3"])).scores is None
    )

    base = shutil.copytree(resolve_base("miniature"), tmp_path / "base")
    recipe = load_recipe("miniature", [f"base={base}"])
    assert teacher_of(recipe).scores == scores
    for text in ("[]", "{", '{"teacher": {"t2i": 4}}', '{"teacher": 1}'):
        (base / "scores.json").write_text(text)
        assert teacher_of(recipe).scores is None
    (base / "scores.json").unlink()
    assert teacher_of(recipe).scores is None

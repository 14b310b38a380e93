"""The endpoints' small parts: caches of bounded bytes, tokens, settings, models' scores."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import load_recipe
from flash_ray.serving.batching import Lru
from flash_ray.serving.benchmarks import checked_benchmarks
from flash_ray.serving.registry import model_of, teacher_of
from flash_ray.serving.settings import Serving, load_serving
from flash_ray.serving.tokens import add_token, allows, read_tokens, role_of
from flash_ray.storage.manifest import FileRecord
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import Student, content_digest
from flash_ray.workflows.serve import validate_replicas


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


def test_a_cache_without_a_bound_holds_two_of_its_largest_values(monkeypatch):
    monkeypatch.setattr("flash_ray.serving.batching.LEAST", 5)
    lru = Lru(None, len)
    for key in "abc":
        lru.put(key, "xx")
    assert len(lru) == 2
    for key in "abc":
        lru.put(key, "xxxx")
    assert len(lru) == 2 and lru.bytes == 8


@pytest.mark.parametrize(
    "side, pictures", [(64, 16), (512, 16), (1024, 4), (1536, 1), (2048, 1), (4096, 1)]
)
def test_a_batch_is_bounded_by_its_pixels(side, pictures):
    assert Serving().pictures_of_batch(side * side) == pictures


def test_replicas_and_evaluations_wait_for_no_gpu_that_is_not_there():
    both = load_serving(None, ["edit.max=2"])
    assert list(both.drawing) == ["generate", "edit"] and both.gpus == 4
    with pytest.raises(UserError, match=r"generate\.max: 3 .* need 4 GPUs; allowed: the 2 "):
        validate_replicas(both, 2)
    validate_replicas(both, 4)
    alone = Serving()
    assert list(alone.drawing) == ["generate"] and alone.gpus == 2
    validate_replicas(load_serving(None, ["gpu_share=0.5"]), 1)


def test_a_token_is_shown_once_and_kept_as_a_hash(tmp_path):
    file = tmp_path / "tokens.json"
    admin, reader = add_token(file, "me", "admin"), add_token(file, "they", "read")
    tokens = read_tokens(file)
    assert (role_of(admin, tokens), role_of(reader, tokens)) == ("admin", "read")
    assert role_of(admin + "x", tokens) is None and role_of("", tokens) is None
    assert admin not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="has a token 'me'"):
        add_token(file, "me", "read")


def test_roles_may_do_what_those_below_them_may():
    order = ("read", "generate", "admin")
    for have, role in enumerate(order):
        assert [allows(role, needed) for needed in order] == [n <= have for n in range(3)]


@pytest.mark.parametrize("text", ["[]", "{}", '[{"name": "a", "role": "king", "sha256": "x"}]'])
def test_a_file_of_no_tokens_is_an_error(tmp_path, text):
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(UserError, match="--tokens"):
        read_tokens(tmp_path / "tokens.json")


def test_settings_from_a_file_and_changes(tmp_path):
    (tmp_path / "s.yaml").write_text("limits: {n: 2}\nbatch: 4\n")
    settings = load_serving(tmp_path / "s.yaml", ["limits.steps=8"])
    assert (settings.limits.n, settings.limits.steps, settings.batch) == (2, 8, 4)
    with pytest.raises(UserError, match=r"limits\.m: unknown key; did you mean limits\.n\?"):
        load_serving(None, ["limits.m=1"])
    with pytest.raises(UserError, match="batch: value 0 .* allowed: pictures of a batch"):
        load_serving(None, ["batch=0"])
    with pytest.raises(UserError, match="--settings: .*nowhere"):
        load_serving(tmp_path / "nowhere.yaml")


def test_the_teacher_takes_other_numbers_of_steps():
    teacher = teacher_of(load_recipe("miniature"))
    assert teacher.sampler.nfe == 80 and teacher.sampler_for(None) == teacher.sampler
    assert teacher.sampler_for(2).sigmas == (1.0, 0.5)
    assert teacher.sampler_for(2).nfe == 4


def teacher_scores(*overrides: str) -> PublishedScores | None:
    """What a server of the preset `miniature` with these changes claims of its teacher."""
    recipe = load_recipe("miniature", list(overrides))
    return teacher_of(recipe, checked_benchmarks(recipe, Serving())).scores


def test_the_teachers_scores_come_with_its_base(tmp_path):
    text = (Path(resolve_base("miniature")) / "scores.json").read_text()
    scores = PublishedScores(
        benchmark="miniature",
        digest=MiniatureBenchmark().digest,
        judge="exact",
        cases_per_category=24,
        tasks=json.loads(text)["teacher"],
    )
    assert teacher_scores() == scores
    # Another guidance is another teacher, and another benchmark says something else, or nothing.
    assert teacher_scores("teacher_defaults.guidance_scale=3") is None
    assert teacher_scores("evaluation.benchmark=") is None

    base = shutil.copytree(resolve_base("miniature"), tmp_path / "base")
    assert teacher_scores(f"base={base}") == scores
    for other in (
        "[]",
        "{",
        '{"teacher": {"t2i": 4}}',
        '{"teacher": 1}',
        text.replace('"benchmark": "miniature"', '"benchmark": "signs"'),
        text.replace(scores.digest, "0" * 16),
    ):
        assert other != text
        (base / "scores.json").write_text(other)
        assert teacher_scores(f"base={base}") is None
    (base / "scores.json").unlink()
    assert teacher_scores(f"base={base}") is None


def test_a_students_scores_are_shown_beside_a_benchmark_that_they_are_of():
    recipe = load_recipe("miniature")
    benchmarks = checked_benchmarks(recipe, load_serving(None, ["benchmarks=[starter, miniature]"]))
    scores = PublishedScores(
        benchmark="miniature",
        digest=benchmarks["miniature"].digest,
        judge="exact",
        cases_per_category=4,
        tasks={"t2i": 4.0},
    )
    files = {"config.json": FileRecord(bytes=2, sha256="0" * 64)}
    student = Student(
        name="plain",
        folder=content_digest(files),
        files=files,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        base="miniature",
        sigmas=recipe.student.rungs,
        nfe=4,
        scores=scores,
        created="2026-06-01T00:00:00+00:00",
    )
    assert model_of(student, None, benchmarks).scores == scores
    assert model_of(student, "best").identity == model_of(student).identity
    for changes in ({"folder": "1" * 16}, {"sigmas": [1.0, 0.5]}):
        assert model_of(student.model_copy(update=changes)).identity != model_of(student).identity
    assert model_of(student, None, {}).scores is None
    for changes in ({"digest": "1" * 16}, {"benchmark": "starter"}):
        other = student.model_copy(update={"scores": scores.model_copy(update=changes)})
        assert model_of(other, None, benchmarks).scores is None

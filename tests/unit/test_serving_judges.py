"""The judges that a server has, and what decides an evaluation's id."""

from pathlib import Path

import pytest

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.serving.benchmarks import checked_benchmarks
from flash_ray.serving.evaluations import EvaluationSpec
from flash_ray.serving.judges import judge_names, vlm_identity
from flash_ray.serving.registry import teacher_of
from flash_ray.serving.settings import Serving, load_serving

FILE = "base_url: http://127.0.0.1:1/v1\nmodel: seer\nkey_variable: JUDGE_KEY\nmax_requests: 9\n"


@pytest.fixture
def settings(tmp_path: Path) -> Serving:
    (tmp_path / "seer.yaml").write_text(FILE)
    return load_serving(None, [f"judges.mine={tmp_path / 'seer.yaml'}"])


def recipe(*overrides: str) -> Recipe:
    return load_recipe("miniature", list(overrides))


def test_judges_are_read_from_their_files_with_the_settings(settings, tmp_path):
    assert settings.judges["mine"].max_requests == 9
    assert vlm_identity("mine", settings) == {"model": "seer", "parameters": {}, "rubrics": {}}
    assert vlm_identity("exact", settings) is None and vlm_identity("ocr", settings) is None
    (tmp_path / "bad.yaml").write_text("model: seer\nmax_requests: 9\n")
    for change, message in (
        ("judges.mine=nowhere.yaml", "judges:nowhere.yaml: No such file"),
        (f"judges.mine={tmp_path / 'bad.yaml'}", "base_url: missing"),
        (f"judges.ocr={tmp_path / 'seer.yaml'}", "is the name of a registered judge"),
        (f"judges.A B={tmp_path / 'seer.yaml'}", "allowed: VLMs that may judge"),
        ("judges.mine={model: seer}", "is not the name of a file"),
        ("judges=3", "allowed: VLMs that may judge"),
    ):
        with pytest.raises(UserError) as error:
            load_serving(None, [change])
        assert message in str(error.value)


def test_a_server_does_not_start_without_a_judges_key(settings, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="JUDGE_KEY is not in the environment"):
        checked_benchmarks(recipe(), settings)
    monkeypatch.setenv("JUDGE_KEY", "x")
    checked_benchmarks(recipe(), settings)


def test_judges_are_the_recipes_first_then_ocr_and_the_settings(settings, monkeypatch):
    assert judge_names(recipe(), settings) == ["exact", "ocr", "mine"]
    assert judge_names(recipe("evaluation.judge=ocr"), Serving()) == ["ocr"]
    bare = recipe("evaluation.benchmark=", "evaluation.judge=")
    # Of those that published scores name, what is installed, and loads nothing that they name.
    assert judge_names(bare, Serving(), ["exact", "none", "clip:x", "clip"]) == ["exact", "ocr"]
    monkeypatch.setattr(plugins, "find_spec", lambda module: None)
    assert judge_names(recipe(), settings) == ["exact", "mine"]


def test_what_decides_a_result_decides_its_id():
    spec = EvaluationSpec(
        model=teacher_of(recipe()),
        benchmark="miniature",
        digest="0123456789abcdef",
        task="t2i",
        cases=4,
        total=12,
        seed=7,
        judge="exact",
        scale="1 to 5",
        vlm=None,
        created=1,
    )
    seer = {"model": "seer", "parameters": {}, "rubrics": {}}
    student = spec.model.model_copy(update={"digest": "fedcba9876543210"})
    sampler = spec.model.sampler_for(4)
    others = [
        {"judge": "ocr"},
        {"scale": "0 to 1"},
        {"judge": "mine", "vlm": {**seer, "rubrics": {"t2i": {"all": "Look."}}}},
        {"judge": "mine", "vlm": seer},
        {"judge": "mine", "vlm": {**seer, "model": "seer 2"}},
        {"judge": "mine", "vlm": {**seer, "parameters": {"temperature": 0}}},
        {"judge": "other", "vlm": seer},
        {"benchmark": "signs"},
        {"digest": "fedcba9876543210"},
        {"task": "edit"},
        {"cases": 5},
        {"seed": 8},
        {"model": student},
        {"model": spec.model.model_copy(update={"sampler": sampler})},
    ]
    ids = {spec.model_copy(update=other).id for other in others}
    assert len(ids | {spec.id}) == len(others) + 1
    assert spec.model_copy(update={"created": 2}).id == spec.id
    renamed = spec.model.model_copy(update={"id": "alias", "scores": None})
    assert spec.model_copy(update={"model": renamed}).id == spec.id
    assert EvaluationSpec.model_validate_json(spec.model_dump_json()).id == spec.id

"""CLIP and SigLIP as judges: what transformers itself says, cut-off prompts, likeness, refusals."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import Judge, summarize
from flash_ray.evaluation.judges.choose import load_judge, read_judges, validate_word
from tests.helpers.embedders import WORDS, save_clip, save_siglip

GENERATOR = np.random.default_rng(0)
PICTURES = GENERATOR.integers(0, 256, (3, 48, 80, 3), np.uint8)
INPUT = Image.fromarray(GENERATOR.integers(0, 256, (96, 64, 3), np.uint8))
CASES = [
    Case("cat", "t2i", "animals", "a cat", (48, 80), 0),
    Case("long", "t2i", "animals", "a very long prompt about cats", (48, 80), 0),
    Case("snow", "edit", "weather", "make it snow", (48, 80), 0, [INPUT]),
]


@pytest.fixture(scope="module", params=[save_clip, save_siglip], ids=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("judge") / "model")


@pytest.fixture
def judge(folder: Path) -> Judge:
    return load_judge(f"clip:{folder}")


def test_scores_are_the_cosines_that_the_model_gives(folder, judge):
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(
        text=[case.prompt for case in CASES],
        images=[Image.fromarray(picture) for picture in PICTURES],
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=WORDS,
    )
    with torch.inference_mode():
        found = model(**inputs)
    expected = torch.cosine_similarity(found.text_embeds, found.image_embeds)
    scores = judge.judge(CASES, PICTURES)
    assert [s.score for s in scores] == pytest.approx(expected.tolist(), abs=1e-5)
    assert (judge.name, judge.scale) == ("clip:model", "cosine similarity, -1 to 1")


def test_an_edit_is_compared_with_its_input(judge):
    unchanged = np.asarray(INPUT)
    same, other = judge.judge([CASES[2], CASES[2]], [unchanged, PICTURES[0]])
    assert same.measures["likeness"] == pytest.approx(1.0, abs=1e-5)
    assert other.measures["likeness"] < 0.999
    assert "likeness" not in judge.judge(CASES[:1], PICTURES[:1])[0].measures


def test_prompts_that_are_cut_off_are_counted(judge):
    result = summarize(judge, CASES, judge.judge(CASES, PICTURES))
    assert result.categories["animals"].details == {"cut_off": 1}
    assert result.categories["weather"].details == {}


def test_batches_do_not_change_scores(judge):
    many = [CASES[0]] * 20
    scores = judge.judge(many, np.repeat(PICTURES[:1], 20, axis=0))
    assert len({round(s.score, 5) for s in scores}) == 1


def test_it_is_sent_to_a_task_before_it_has_loaded_anything(judge):
    sent = pickle.loads(pickle.dumps(judge))
    assert sent.judge(CASES, PICTURES) == judge.judge(CASES, PICTURES)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("clip", "'clip' is no judge; allowed: clip:MODEL; write that"),
        ("clip:", "'clip:' is no judge; allowed: clip:MODEL; write that"),
        ("ocr:large", "'ocr:large' is no judge; allowed: ocr; write that"),
        ("clip:{tmp_path}", "no model's config.json there"),
        ("clip:{tmp_path}/none", "no folder; allowed: a folder"),
        ("clip:nobody/nothing", "no model's config.json there"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch, word, says):
    monkeypatch.setattr("flash_ray.evaluation.judges.clip.hub_answers", lambda: False)
    with pytest.raises(UserError, match="^--judge") as refusal:
        read_judges([word.format(tmp_path=tmp_path)])
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="a 'bert' model; allowed: clip, siglip, siglip2"):
        load_judge(f"clip:{tmp_path}")


def test_pickled_weights_are_not_loaded(tmp_path):
    folder = save_clip(tmp_path / "model")
    weights = AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded .* safetensors"):
        load_judge(f"clip:{folder}").judge(CASES, PICTURES)


def test_a_word_is_checked_without_its_checkpoint():
    validate_word("clip:of/another-machine")
    with pytest.raises(UserError, match="evaluation.judge: 'vlm:a.yaml' asks an endpoint"):
        validate_word("vlm:a.yaml", "evaluation.judge")

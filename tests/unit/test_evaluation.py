"""Ways, answers and scores: same noise for all, NFE counted, the better way taken, intervals."""

import numpy as np
import pytest
import torch

from flash_ray.evaluation import compare as compare_module
from flash_ray.evaluation import sample
from flash_ray.evaluation.compare import Answers, Comparison, compare, differences, model_result
from flash_ray.evaluation.sample import Way, answer, encode_cases, student, teacher, teacher_at_4
from flash_ray.evaluation.scores import BenchScore, difference, judge_bench
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.benchmark import cases, source_image
from flash_ray.miniature.draw import draw
from flash_ray.miniature.judge import Verdict
from flash_ray.recipe import load_recipe

SETTINGS = load_recipe("miniature").teacher_defaults


def score_of(*scores: float) -> BenchScore:
    verdicts = {str(i): Verdict(1, 1, s, {}, None, None) for i, s in enumerate(scores)}
    return BenchScore(float(np.mean(scores)), interval(scores), 1.0, 1.0, {}, verdicts)


def uint8(picture_3HW):
    return np.round(picture_3HW.transpose(1, 2, 0) * 255).astype(np.uint8)


def test_evaluations_of_the_three_ways(backbone):
    (many,) = teacher(backbone, SETTINGS)
    four = teacher_at_4(backbone, SETTINGS)
    assert (many.nfe, many.title) == (80, "40 guided steps")
    assert [(way.nfe, way.title) for way in four] == [
        (4, "4 unguided steps"),
        (4, "2 guided steps"),
    ]
    assert student(backbone.transformer, [1.0, 0.75, 0.5, 0.25]).nfe == 4
    assert many.guidance == SETTINGS.guidance_scale and many.rescale == SETTINGS.guidance_rescale


def test_an_unguided_teacher_spends_one_evaluation_a_step(backbone):
    unguided = SETTINGS.model_copy(update={"guidance_scale": 1.0})
    assert [way.nfe for way in teacher(backbone, unguided)] == [40]
    assert [way.title for way in teacher_at_4(backbone, unguided)] == ["4 unguided steps"]


@pytest.mark.parametrize("bench", ["t2i", "edit"])
def test_answers_come_from_the_noise_of_the_case(backbone, bench):
    asked = cases(bench, 1)
    batches = encode_cases(backbone, asked)
    way = Way("2 steps", backbone.transformer, [1.0, 0.5])
    counted, channels = [], backbone.latent_channels
    pictures = answer(backbone, batches, way, counted.append)
    assert pictures.shape == (len(asked), 64, 64, 3) and pictures.dtype == np.uint8
    assert sum(counted) == len(asked) * way.nfe
    assert (answer(backbone, batches, way) == pictures).all()
    expected = torch.randn(16, channels, generator=torch.Generator().manual_seed(asked[1].seed))
    assert torch.equal(batches[0].noise_BNC[1], expected)


def test_the_input_of_an_edit_is_its_source():
    case = cases("edit", 1)[0]
    assert (np.asarray(source_image(case)) == uint8(case.wanted.source_picture())).all()


def test_true_drawings_score_high_and_wrong_ones_low():
    asked = cases("t2i", 1)
    true = np.stack([uint8(picture) for case in asked for picture in draw([case.wanted])])
    right = judge_bench(asked, true, parallel=False)
    wrong = judge_bench(asked, true[::-1], parallel=False)
    assert right.score > 4.8 > 3 > wrong.score
    assert set(right.categories) == {"landscape", "portrait", "text"}
    fields = right.to_json()
    assert fields["categories"]["portrait"]["cases"] == 1
    assert "fitted" not in fields["verdicts"]["portrait-000"]
    assert difference(right, wrong)[0] == pytest.approx(right.score - wrong.score)


def test_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert interval([2.0, 2.0]) == (2.0, 2.0)


def test_differences_are_paired():
    ours, theirs = score_of(5, 3, 4, 2), score_of(4, 2, 3, 1)
    assert difference(ours, theirs) == (1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="different cases"):
        difference(ours, score_of(1, 2))


def test_of_several_ways_the_better_counts(backbone, monkeypatch):
    seen = iter([score_of(2), score_of(3), score_of(4)])
    monkeypatch.setattr(compare_module, "judge_bench", lambda cases, pictures: next(seen))
    one = Way("1 step", backbone.transformer, [1.0])
    two = Way("2 steps", backbone.transformer, [1.0, 0.5])
    shown = []
    held = compare(
        backbone,
        {"teacher_at_4": [one, two], "student": [one]},
        cases("t2i", 1)[:1],
        lambda *step: shown.append(step),
    )
    assert held.answers["teacher_at_4"].way is two
    assert held.answers["student"].score.score == 4
    assert shown[-1] == ("t2i: student, 1 step", 4, 4)


def test_result_names_the_way_that_was_taken(backbone):
    way, other = student(backbone.transformer, [1.0]), Way("w", backbone.transformer, [1.0, 0.5])
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    comparisons = {
        "t2i": Comparison((), {"a": Answers(way, pictures, score_of(4, 4))}),
        "edit": Comparison((), {"a": Answers(other, pictures, score_of(2, 4))}),
    }
    result = model_result(comparisons, "a")
    assert (result["nfe"], result["t2i"], result["edit"]) == (2, 4.0, 3.0)
    assert result["ways"] == {"t2i": "1 steps", "edit": "w"}
    assert differences(comparisons, "a", "a")["edit"]["ratio"] == 1.0


def test_dtype_follows_the_recipe():
    recipe = load_recipe("miniature", ["training.precision=bf16"])
    assert sample.weights_dtype(recipe) == torch.bfloat16

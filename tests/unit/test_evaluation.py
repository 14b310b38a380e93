"""Samplers, answers and scores: same noise for all, NFE counted, the better sampler taken."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from flash_ray.evaluation.benchmark import Case, first_cases, first_of_each
from flash_ray.evaluation.compare import (
    Answers,
    Comparison,
    TrainingEval,
    compare,
    difference,
    differences,
    draw_cases,
    draw_here,
    gap_closed,
    score_answers,
)
from flash_ray.evaluation.contact_sheet import contact_sheet
from flash_ray.evaluation.judges.base import CaseScore, JudgeResult
from flash_ray.evaluation.sample import (
    encode_benchmark,
    encode_cases,
    sample_cases,
    student_sampler,
    teacher_sampler,
)
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.draw import draw
from flash_ray.miniature.plugin import ExactJudge
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import load_recipe

RECIPE = load_recipe("miniature")
DEFAULTS = RECIPE.teacher_defaults
BENCHMARK = MiniatureBenchmark()


def result_of(*scores: float | None) -> JudgeResult:
    cases = {str(i): CaseScore(score=score) for i, score in enumerate(scores)}
    known = [score for score in scores if score is not None]
    mean = float(np.mean(known)) if known else None
    return JudgeResult(judge="j", scale="1 to 5", score=mean, interval=None, cases=cases)


def uint8(picture_3HW):
    return np.round(picture_3HW.transpose(1, 2, 0) * 255).astype(np.uint8)


def test_the_teacher_is_guided_as_the_recipe_says():
    sampler = teacher_sampler(RECIPE)
    assert (sampler.nfe, sampler.title) == (80, "40 guided steps")
    assert sampler.guidance_scale == DEFAULTS.guidance_scale
    assert sampler.guidance_rescale == DEFAULTS.guidance_rescale
    unguided = load_recipe("miniature", ["teacher_defaults.guidance_scale=1"])
    assert teacher_sampler(unguided).nfe == 40
    assert student_sampler([1.0, 0.75, 0.5, 0.25]).nfe == 4


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_answers_come_from_the_noise_of_the_case(backbone, task):
    cases = BENCHMARK.cases(task, 1)
    (batch,) = batches = encode_cases(backbone, cases)
    sampler = SamplerConfig((1.0, 0.5))
    counted, channels = [], backbone.latent_channels
    images = sample_cases(backbone, batches, backbone.transformer, sampler, counted.append)
    assert len(images) == len(cases)
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in images)
    assert sum(counted) == len(cases) * sampler.nfe
    again = sample_cases(backbone, batches, backbone.transformer, sampler)
    assert all((a == b).all() for a, b in zip(images, again, strict=True))
    expected = torch.randn(16, channels, generator=torch.Generator().manual_seed(cases[1].seed))
    assert torch.equal(batch.noise_BNC[1], expected)


def test_cases_of_other_sizes_are_encoded_apart_and_answered_in_order(backbone):
    sizes = [(64, 64), (64, 64), (64, 128), (64, 64)]
    cases = [Case(f"c-{i}", "t2i", "c", f"a tree {i}", size, i) for i, size in enumerate(sizes)]
    gray = [Image.new("RGB", (64, 64), "gray")]
    edits = [Case("e-0", "edit", "e", "make it red", (128, 64), 0, gray)]
    batches = encode_cases(backbone, cases)
    assert [[case.id for case in batch.cases] for batch in batches] == [
        ["c-0", "c-1"],
        ["c-2"],
        ["c-3"],
    ]
    sampler = SamplerConfig((1.0,))
    images = sample_cases(backbone, batches, backbone.transformer, sampler)
    assert [image.shape[:2] for image in images] == sizes
    (edited,) = sample_cases(backbone, encode_cases(backbone, edits), backbone.transformer, sampler)
    assert edited.shape == (128, 64, 3)


def test_a_batch_has_so_many_tokens(backbone):
    """The same batches whoever answers: 16 pictures of 64x64, one of 256x256."""
    small = [Case(f"s-{i}", "t2i", "s", "a tree", (64, 64), i) for i in range(17)]
    assert [len(batch.cases) for batch in encode_cases(backbone, small)] == [16, 1]
    large = [Case(f"l-{i}", "t2i", "l", "a tree", (512, 512), i) for i in range(2)]
    assert [len(batch.cases) for batch in encode_cases(backbone, large)] == [1, 1]


def test_true_drawings_score_high_and_wrong_ones_low():
    cases = BENCHMARK.cases("t2i", 1)
    true = [uint8(picture) for case in cases for picture in draw([case.target])]
    right = score_answers(ExactJudge(), cases, true)
    wrong = score_answers(ExactJudge(), cases, true[::-1])
    assert right.score > 4.8 > 3 > wrong.score
    assert set(right.categories) == {"landscape", "portrait", "text"}
    assert set(right.measures) == {"compliance", "quality"}
    fields = right.model_dump(mode="json")
    assert fields["categories"]["portrait"]["cases"] == 1
    assert "diversity_gap" in fields["categories"]["portrait"]["details"]
    assert "fitted" not in fields["cases"]["portrait-000"]
    assert difference(right, wrong)[0] == pytest.approx(right.score - wrong.score)


def test_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert interval([2.0, 2.0]) == (2.0, 2.0)


def test_differences_are_paired():
    ours, theirs = result_of(5, 3, 4, 2), result_of(4, 2, 3, 1)
    assert difference(ours, theirs) == (1.0, (1.0, 1.0))
    assert difference(result_of(5, None, 3), result_of(4, 2, 2)) == (1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="different cases"):
        difference(ours, result_of(1, 2))


def test_the_share_of_the_gap_that_a_student_closes():
    def compared(student, teacher, untrained):
        scores = {"student": student, "teacher": teacher, "untrained": untrained}
        answers = {
            name: Answers(SamplerConfig((1.0,)), [], result_of(*values))
            for name, values in scores.items()
        }
        return Comparison("t2i", [], answers)

    closed = gap_closed(compared([4.0, 4.5, 3.0, 3.5], [5.0, 5.0, 4.0, 4.0], [3.0, 4.0, 2.0, 3.0]))
    assert closed["share"] == pytest.approx(3 / 6)
    low, high = closed["interval"]
    assert 0.4 < low <= 0.5 <= high < 0.6
    unscored = compared([4.0, None, 3.0], [5.0, 5.0, 4.0], [3.0, 4.0, 2.0])
    assert gap_closed(unscored)["share"] == pytest.approx(0.5)
    for teacher in ([3.0, 4.0, 2.0], [2.0, 5.0, 2.0]):  # no better, perhaps no better
        assert gap_closed(compared([4.0, 4.0, 4.0], teacher, [3.0, 4.0, 2.0])) is None


def test_of_several_samplers_the_better_counts(backbone, monkeypatch):
    results = iter([result_of(2), result_of(3), result_of(4)])
    monkeypatch.setattr(
        "flash_ray.evaluation.compare.score_answers", lambda *arguments: next(results)
    )
    short, long = SamplerConfig((1.0,)), SamplerConfig((1.0, 0.5))
    shown = []
    drawn = draw_cases(
        draw_here(backbone, dict.fromkeys(("untrained", "student"), backbone.transformer)),
        {"untrained": [short, long], "student": [short]},
        BENCHMARK.cases("t2i", 1)[:1],
        lambda *step: shown.append(step),
    )
    comparison = compare(drawn, ExactJudge())
    assert comparison.task == "t2i"
    assert comparison.answers["untrained"].sampler is long
    assert comparison.answers["student"].result.score == 4
    assert shown[-1] == ("t2i: student, 1 steps at 1", 4, 4)


def test_results_name_the_sampler_and_what_both_models_have_is_compared():
    def comparison(**scores: Sequence[float | None]) -> Comparison:
        sampler = SamplerConfig((1.0, 0.5), 2.5)
        answers = {name: Answers(sampler, [], result_of(*own)) for name, own in scores.items()}
        return Comparison("t2i", (), answers)

    both = comparison(a=[4, 4], b=[2, 2])
    shown = both.answers["a"].to_json()
    assert (shown["sampler"], shown["nfe"], shown["score"]) == ("2 guided steps at 1, 0.5", 4, 4.0)
    assert differences(both, "a", "b") == {"difference": 2.0, "interval": (2.0, 2.0)}
    assert differences(comparison(a=[4, None], b=[None, 3]), "a", "b") is None
    assert differences(comparison(a=[4, 4], b=[None, None]), "a", "b") is None


class TextOnly:
    """A judge of the cases that ask for text; it must be pickled to be sent to a worker."""

    name, scale, runs = "text", "1 to 5", "driver"

    def can_judge(self, case: Case) -> bool:
        return case.text is not None

    def judge(self, cases: Sequence[Case], images: Sequence[np.ndarray]) -> list[CaseScore]:
        return [CaseScore(score=3 if case.text else None) for case in cases]

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, float]:
        return {}


def test_scores_during_training_are_of_the_tasks_that_can_be_scored(backbone):
    cases = first_cases(BENCHMARK, {"t2i": 1, "edit": 0})
    encoded = encode_benchmark(backbone, cases)
    assert list(encoded.batches) == ["t2i"]
    evaluate = TrainingEval(encoded, TextOnly(), SamplerConfig((1.0,)))
    evaluated = evaluate.score(evaluate.draw(backbone, backbone.transformer))
    assert evaluated.scores == {"t2i": 3.0}
    assert evaluated.categories == {"t2i": {"text": 3.0}}
    assert evaluated.sheet == contact_sheet(
        cases["t2i"], encoded.images(backbone, backbone.transformer, evaluate.sampler)["t2i"]
    )
    exact = TrainingEval(encoded, ExactJudge(), SamplerConfig((1.0,)))
    drawn = exact.draw(backbone, backbone.transformer)
    assert 1 <= exact.score(drawn).scores["t2i"] <= 5


def test_nobody_picks_the_cases():
    cases = BENCHMARK.cases("edit", 2)
    shown = [cases[i].id for i in first_of_each(cases, 1)]
    assert shown == [f"{category}-000" for category in BENCHMARK.categories["edit"]]
    assert len(first_of_each(cases, 5)) == len(cases)

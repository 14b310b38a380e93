"""Two evaluations side by side: means, intervals and differences of equal cases only."""

import pytest

from flash_ray.evaluation.statistics import interval
from flash_ray.recipe import load_recipe
from flash_ray.serving.beside import lay_beside
from flash_ray.serving.evaluations import EvaluationSpec, EvaluationStore
from flash_ray.serving.registry import teacher_of
from flash_ray.serving.schemas import Answer, EvaluationResult, MeanScore

SPEC = EvaluationSpec(
    model=teacher_of(load_recipe("miniature")),
    benchmark="signs",
    digest="0" * 16,
    task="t2i",
    cases=2,
    total=3,
    seed=0,
    judge="exact",
    scale="1 to 5",
    vlm=None,
    created=0,
)


def finished(scores, **changes):
    """An evaluation with these scores by case; a case's category is the part before its dash."""
    answers = [
        Answer(
            case=case,
            category=case.partition("-")[0],
            prompt=case,
            picture="",
            references=[],
            score=score,
            measures={},
            failure=None,
            details={},
        )
        for case, score in scores.items()
    ]
    known = [score for score in scores.values() if score is not None]
    result = EvaluationResult(
        score=sum(known) / len(known),
        interval=None,
        counted=len(known),
        measures={},
        categories={},
        answers=answers,
    )
    return SPEC.model_copy(update=changes), result


def test_equal_cases_are_compared_case_by_case():
    left = finished({"wood-a": 4, "wood-b": 5, "metal-a": 2})
    right = finished({"metal-a": 3, "wood-b": 3, "wood-a": 3}, seed=1)
    pair = lay_beside(left, right)
    assert pair.unlike == [] and list(pair.categories) == ["wood", "metal"]
    wood = pair.categories["wood"]
    assert (wood.left.score, wood.right.score, wood.difference.score) == (4.5, 3.0, 1.5)
    assert wood.left.interval == interval([4, 5]) and wood.difference.interval == interval([1, 2])
    metal = pair.categories["metal"]
    assert metal.difference.score == -1 and metal.difference.interval is None  # of one case
    assert pair.all.difference.score == pytest.approx(2 / 3)
    assert pair.all.difference.interval == interval([1, 2, -1])


def test_a_case_that_one_of_them_has_no_score_of_is_in_no_difference():
    left = finished({"wood-a": 4, "wood-b": None, "wood-c": 5})
    right = finished({"wood-a": 3, "wood-b": 1, "wood-c": 5})
    row = lay_beside(left, right).categories["wood"]
    counted = (row.left.counted, row.right.counted, row.difference.counted)
    assert counted == (2, 3, 2) and row.difference.score == 0.5
    none = lay_beside(
        finished({"wood-a": 4, "metal-a": None}), finished({"wood-a": 4, "metal-a": 2})
    )
    assert none.categories["metal"].difference.score is None


@pytest.mark.parametrize(
    ("scores", "changes", "unlike"),
    [
        ({"wood-a": 3}, {}, ["cases"]),
        ({"wood-a": 3, "wood-b": 3}, {"cases": 4}, []),  # there were no more
        ({"wood-a": 3, "wood-b": 3}, {"judge": "ocr"}, ["judge"]),
        ({"wood-a": 3, "wood-b": 3}, {"vlm": {"model": "seer"}}, ["judge"]),
        ({"wood-a": 3, "wood-b": 3}, {"digest": "1" * 16}, ["benchmark"]),
        ({"wood-a": 3, "brick-b": 3}, {"task": "edit"}, ["task", "cases"]),
    ],
)
def test_what_is_unlike_has_scores_and_no_difference(scores, changes, unlike):
    pair = lay_beside(finished({"wood-a": 4, "wood-b": 5}), finished(scores, **changes))
    assert pair.unlike == unlike
    assert pair.all.left.score == 4.5 and pair.all.right.score == 3
    rows = [pair.all, *pair.categories.values()]
    assert all((row.difference is None) == bool(unlike) for row in rows)


class Shelf(dict):
    """What a store of evaluations needs of a bucket."""

    def get_bytes(self, key, most=None):
        return self.get(key)

    def list(self, prefix):
        return [key for key in self if key.startswith(prefix)]

    def folders(self, prefix):
        return {key.removeprefix(prefix).split("/")[0] for key in self.list(prefix)}

    def url(self, key):
        return f"s3://shelf/{key}"


def test_lists_have_the_scores_of_results_and_go_on_where_one_is_damaged():
    spec, result = finished({"wood-a": 4, "wood-b": None})
    other = spec.model_copy(update={"seed": 1})
    shelf = Shelf()
    for asked, text in ((spec, result.model_dump_json()), (other, '{"score": "high"}')):
        shelf[f"evaluations/{asked.id}/request.json"] = asked.model_dump_json().encode()
        shelf[f"evaluations/{asked.id}/result.json"] = text.encode()
    listed, has_more = EvaluationStore(shelf).page(10, None)
    views = {view.id: view for view in listed}
    assert set(views) == {spec.id, other.id} and not has_more
    whole, damaged = views[spec.id], views[other.id]
    assert whole.score == MeanScore(score=4.0, interval=None, counted=1) and whole.result is None
    assert (whole.identity, whole.benchmark_digest) == (spec.model.identity, "0" * 16)
    assert damaged.score is None

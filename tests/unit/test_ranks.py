"""Ranks: means of judges' averages, ties, what counts, and results that cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flash_ray.cli.app import app
from flash_ray.errors import UserError
from flash_ray.evaluation.rank import rank, read_results
from flash_ray.evaluation.statistics import interval

CASES = [f"{category}-{i:03d}" for category in ("landscape", "text") for i in range(8)]
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16)

SCALES = {"cosine": "cosine similarity, -1 to 1"}

Scores = list[float | None]


def result(model: str, failure: str | None = None, task: str = "t2i", **judges: Scores) -> dict:
    """What `flash-ray evaluate --out` writes, but for what ranking leaves alone."""

    def case_score(score: float | None) -> dict:
        return {"score": score, "failure": failure if score is None else None, "details": {}}

    return {
        "model": model,
        "benchmark": "miniature",
        "benchmark_digest": "1" * 16,
        "task": task,
        "nfe": 4,
        "judges": {
            judge: {
                "judge": judge,
                "scale": SCALES.get(judge, "1 to 5"),
                "score": None,
                "interval": None,
                "cases": dict(zip(CASES, map(case_score, scores), strict=False)),
            }
            for judge, scores in judges.items()
        },
    }


def written(folder: Path, **results: dict) -> list[Path]:
    files = [folder / f"{name}.json" for name in results]
    for file, content in zip(files, results.values(), strict=True):
        file.write_text(json.dumps(content))
    return files


def about(score: float) -> Scores:
    return (score + NOISE).tolist()


def test_the_mean_of_the_judges_averages_decides(tmp_path):
    """One judge prefers b, the mean of both prefers a."""
    files = written(
        tmp_path,
        b=result("b", strict=about(2.0), kind=about(4.2)),
        a=result("a", strict=about(3.0), kind=about(4.0)),
    )
    ranking = rank(read_results(files))
    first, second = ranking.standings
    assert (first.model, first.rank, second.model, second.rank) == ("a", 1, "b", 2)
    assert first.file == str(files[1])
    assert first.averages["strict"][0] == pytest.approx(np.mean(about(3.0)))
    assert first.mean[0] == pytest.approx(3.5 + NOISE.mean())
    assert second.mean[0] == pytest.approx(3.1 + NOISE.mean())
    assert first.lead[0] == pytest.approx(0.4) and second.lead is None
    assert not first.ties and not second.ties
    assert dict(ranking.counted) == {"strict": 16, "kind": 16} and ranking.cases == 16


def test_intervals_are_those_of_paired_cases(tmp_path):
    one, other = about(3.0), [3.0 - n for n in NOISE]
    ranking = rank(read_results(written(tmp_path, a=result("a", x=one), b=result("b", x=other))))
    assert ranking.standings[0].averages["x"] == (pytest.approx(np.mean(one)), interval(one))
    assert ranking.standings[0].mean[1] == pytest.approx(interval(one))
    paired = [abs(a - b) * np.sign((a - b) * NOISE.mean()) for a, b in zip(one, other, strict=True)]
    assert ranking.standings[0].lead[1] == pytest.approx(interval(paired))


def test_a_lead_that_may_be_chance_is_a_tie(tmp_path):
    files = written(
        tmp_path,
        a=result("a", x=about(3.0)),
        b=result("b", x=[3.0 - n for n in NOISE]),
        c=result("c", x=about(1.5)),
        same=result("c", x=about(1.5)),
    )
    ranking = rank(read_results(files))
    assert [row.ties for row in ranking.standings] == [True, False, True, False]
    assert [row.rank for row in ranking.standings] == [1, 2, 3, 4]


def test_a_case_counts_where_it_has_a_score_in_every_result(tmp_path):
    """All cases of a counted, it would be first; b has no score of the best of them."""
    high = [5.0, *[2.4] * 15]
    files = written(
        tmp_path,
        a=result("a", x=high),
        b=result("b", x=[None, *[2.5] * 15], failure="unparsed"),
    )
    ranking = rank(read_results(files))
    assert [row.model for row in ranking.standings] == ["b", "a"]
    assert ranking.standings[1].averages["x"][0] == pytest.approx(2.4)
    assert ranking.counted["x"] == 15
    assert ranking.failures["x"] == {"unparsed": 1}


def test_a_judge_of_some_cases_weighs_as_much_as_one_of_all(tmp_path):
    words = [None] * 8 + [4.0 + n for n in NOISE[8:]]
    files = written(
        tmp_path,
        a=result("a", x=about(3.0), ocr=words),
        b=result("b", x=about(2.0), ocr=words),
    )
    ranking = rank(read_results(files))
    first = ranking.standings[0]
    assert ranking.counted == {"x": 16, "ocr": 8}
    assert ranking.failures == {"x": {}, "ocr": {}}
    assert first.mean[0] == pytest.approx((first.averages["x"][0] + first.averages["ocr"][0]) / 2)
    assert first.lead == (pytest.approx(0.5), pytest.approx((0.5, 0.5)))


def test_the_interval_of_the_mean_covers_as_often_as_it_says():
    """Simulated judges, one of them of half of the cases; 95 % of intervals hold the true mean."""
    from flash_ray.evaluation.rank import _values

    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        cases = rng.normal(3, 0.5, 60)
        table = np.stack([cases + rng.normal(0, 0.3, 60), cases + 0.4 + rng.normal(0, 0.3, 60)])
        counts = np.ones((2, 60), bool)
        counts[1, ::2] = False
        table[1, ::2] = np.nan
        low, high = interval(_values(table[None], counts)[0])
        held += low <= 3.2 <= high
    assert 88 <= held <= 99


def test_judges_may_come_in_another_order(tmp_path):
    files = written(
        tmp_path,
        a=result("a", x=about(3.0), y=about(4.0)),
        b=result("b", y=about(4.0), x=about(2.0)),
    )
    first, second = rank(read_results(files)).standings
    assert (first.averages["y"], second.averages["y"]) == (second.averages["y"],) * 2
    assert first.lead[0] == pytest.approx(0.5)


GOOD = result("a", x=about(3.0))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (result("b", task="edit", x=about(3.0)), "differ in their task (t2i, edit)"),
        (
            {**result("b", x=about(3.0)), "benchmark": "signs"},
            "differ in their benchmark (miniature, signs)",
        ),
        (
            {**result("b", x=about(3.0)), "benchmark_digest": "2" * 16},
            "differ in their benchmark_digest (1111111111111111, 2222222222222222)",
        ),
        (result("b", x=about(3.0)[:8]), "differ in their cases (16, 8)"),
        (result("b", y=about(3.0)), "differ in their judges (x; y)"),
        (result("b", x=[None] * 16), "judge x has a score in every result of 0 cases"),
        (result("b", x=["good"] * 16), "is no result (judges.x.cases.landscape-000.score)"),
        (
            {"model": "b", "benchmark": "m", "benchmark_digest": "1", "task": "t2i"},
            "is no result (judges)",
        ),
        (result("b"), "is no result (judges)"),
        (result("b", x=about(3.0), y=about(3.0)[:3]), "is no result"),
        ([], "is no result"),
    ],
)
def test_results_that_cannot_be_compared_are_refused_in_one_line(tmp_path, other, says):
    with pytest.raises(UserError) as refusal:
        rank(read_results(written(tmp_path, a=GOOD, b=other)))
    text = str(refusal.value)
    assert text.startswith("RESULT: ") and says in text and "\n" not in text


def test_files_that_are_no_results_are_refused(tmp_path):
    (file,) = written(tmp_path, a=GOOD)
    for files, says in (
        ([file], "1 files, 1 different"),
        ([file, file], "2 files, 1 different"),
        ([file, tmp_path / "none.json"], "none.json: No such file"),
        ([file, tmp_path], "Is a directory"),
        ([file, Path(__file__)], "is no result"),
    ):
        with pytest.raises(UserError, match=says):
            read_results(files)


def test_the_command_prints_the_ranking(tmp_path):
    files = written(
        tmp_path,
        a=result("a", x=about(3.0)),
        b=result("b", x=[None, *about(3.0)[1:]], failure="refused"),
    )
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["rank", *map(str, files)])
    assert shown.exit_code == 0
    assert "miniature, text to image, 16 cases" in shown.output
    assert "1 =" in shown.output and "2 =" not in shown.output
    assert "x (1 to 5): 15 of 16 cases count; 1 refused" in shown.output


def test_judges_of_different_scales_are_standardized(tmp_path):
    """A cosine that differs by little counts as much as points that differ by much."""
    files = written(
        tmp_path,
        a=result("a", points=about(2.0), cosine=[0.31 + 0.001 * value for value in NOISE]),
        b=result("b", points=about(2.0), cosine=[0.30 + 0.001 * value for value in NOISE]),
    )
    ranking = rank(read_results(files))
    assert ranking.standardized
    best, other = ranking.standings
    assert best.model == "a" and not best.ties
    assert best.averages["cosine"][0] == pytest.approx(0.31, abs=0.001)
    assert best.mean[0] == pytest.approx(-other.mean[0]) and 0.4 < best.mean[0] < 0.6


def test_equal_scores_of_a_scale_decide_nothing(tmp_path):
    files = written(
        tmp_path,
        a=result("a", points=about(3.0), cosine=[0.3] * 16),
        b=result("b", points=about(2.0), cosine=[0.3] * 16),
    )
    assert [row.model for row in rank(read_results(files)).standings] == ["a", "b"]


def test_results_of_another_scale_cannot_be_compared(tmp_path):
    other = result("b", x=about(3.0))
    other["judges"]["x"]["scale"] = "0 to 1"
    with pytest.raises(UserError, match="differ in their judges' scales"):
        read_results(written(tmp_path, a=result("a", x=about(3.0)), b=other))

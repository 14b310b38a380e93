"""What is published of a student's scores: means with intervals, the baselines, the gap closed."""

from collections.abc import Mapping

from flash_ray.evaluation.benchmark import Benchmark
from flash_ray.evaluation.compare import GAP, Answers, Comparison, gap_closed
from flash_ray.recipe.schema import Task
from flash_ray.storage.scores import Baseline, BaselineName, GapClosed, PublishedScores

BASELINES: tuple[BaselineName, ...] = ("teacher", "untrained")


def published_scores(
    comparisons: Mapping[Task, Comparison], benchmark: Benchmark, per_category: int
) -> PublishedScores | None:
    """Sums up comparisons of a `student`, and of `teacher` and `untrained` if they were drawn.

    Args:
        per_category: cases of each category that were asked for.

    Returns:
        None if the judge has no score of any answer of the student's.
    """
    student = {task: of.answers["student"] for task, of in comparisons.items()}
    if not (scores := _means(student)):
        return None
    first = next(iter(student.values())).result
    compared = {task: of for task, of in comparisons.items() if of.answers.keys() >= set(GAP)}
    gaps = {task: gap for task, of in compared.items() if (gap := gap_closed(of))}
    return PublishedScores(
        benchmark=benchmark.name,
        digest=benchmark.digest,
        judge=first.judge,
        scale=first.scale,
        cases_per_category=per_category,
        tasks=scores,
        intervals=_intervals(student),
        baselines={name: _baseline(compared, name) for name in BASELINES if compared},
        gap_closed={task: GapClosed(**gap) for task, gap in gaps.items()},
    )


def _baseline(compared: Mapping[Task, Comparison], name: str) -> Baseline:
    answers = {task: of.answers[name] for task, of in compared.items()}
    nfe = max(of.sampler.nfe for of in answers.values())
    return Baseline(nfe=nfe, tasks=_means(answers), intervals=_intervals(answers))


def _means(answers: Mapping[Task, Answers]) -> dict[Task, float]:
    return {task: of.result.score for task, of in answers.items() if of.result.score is not None}


def _intervals(answers: Mapping[Task, Answers]) -> dict[Task, tuple[float, float]]:
    return {
        task: of.result.interval for task, of in answers.items() if of.result.interval is not None
    }

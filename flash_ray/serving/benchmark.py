"""What a server can score: the cases of its recipe's benchmark, and the judges that it has."""

from collections.abc import Mapping
from urllib.parse import quote

from pydantic import JsonValue

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, listed_cases, load_benchmark
from flash_ray.evaluation.inputs import kept_in
from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.judges.choose import load_judge, require, validate_judge
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.settings import Serving
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import FIVE

FIELD, JUDGE = "evaluation.benchmark", "evaluation.judge"  # of the recipe


class ServedBenchmark:
    """A benchmark's cases, as many of each category as one request may ask for.

    It is made where the server is started and sent to the replicas: files need not be there.

    Args:
        limit: the most cases of a category.
    """

    def __init__(self, benchmark: Benchmark, limit: int):
        self.benchmark, self._limit = benchmark, limit
        self.name, self.digest = benchmark.name, benchmark.digest
        self.categories: Mapping[Task, tuple[str, ...]] = dict(benchmark.categories)
        self._by_id: dict[Task, dict[str, Case]] = {}

    def kept_in(self, store: Store) -> "ServedBenchmark":
        """The same, with the pictures to edit that the base has drawn in that store."""
        return ServedBenchmark(kept_in(self.benchmark, store), self._limit)

    def cases(self, task: Task, per_category: int) -> list[Case]:
        """The first cases of each category of a task; none of a task that it does not have."""
        if task not in self.categories:
            return []
        return self.benchmark.cases(task, per_category)

    def case(self, task: Task, id: str) -> Case | None:
        """The case of that id, of the first `limit` in its category."""
        if task not in self._by_id:
            self._by_id[task] = {case.id: case for case in self.cases(task, self._limit)}
        return self._by_id[task].get(id)


def served_benchmark(recipe: Recipe, settings: Serving) -> ServedBenchmark | None:
    """The benchmark of the recipe, None if it names none.

    Raises:
        UserError: no installed package registers it, or a row of its files cannot be used.
    """
    choice = recipe.evaluation.benchmark
    if choice is None:
        return None
    return ServedBenchmark(load_benchmark(choice, recipe, FIELD), settings.limits.cases)


def reference_paths(benchmark: str, case: Case) -> list[str]:
    """The paths under which a server has the pictures that a case asks to edit."""
    path = f"/v1/benchmarks/{quote(benchmark, safe='')}/{case.task}/cases/{case.id}/input.png"
    return [path if i == 0 else f"{path}?number={i + 1}" for i in range(len(case.references))]


def judge_names(recipe: Recipe, settings: Serving) -> list[str]:
    """The judges that evaluations may ask for: the recipe's, which is the default, `ocr` if it is
    installed, the VLMs of the settings; none without a benchmark."""
    if recipe.evaluation.benchmark is None:
        return []
    names = [recipe.evaluation.judge_name, *settings.judges]
    if "ocr" not in names and _has_ocr():
        names.insert(1, "ocr")
    return names


def checked_benchmark(recipe: Recipe, settings: Serving) -> ServedBenchmark | None:
    """The benchmark of the recipe, None if it names none; with what else a server needs to score
    checked, before it starts.

    Raises:
        UserError: the benchmark or its judge does not exist, the judge can judge none of its cases,
            or a VLM lacks its extra, its key or a benchmark.
    """
    served = served_benchmark(recipe, settings)
    if served is None:
        if settings.judges:
            raise UserError(
                f"judges: {', '.join(settings.judges)} without a benchmark, {FIELD} is null; "
                f"allowed: judges of a recipe with one; set {FIELD}, or remove them"
            )
        return None
    judge = load_judge(recipe.evaluation.judge_name, JUDGE)
    cases = [case for task in served.categories for case in listed_cases(served.benchmark, task, 1)]
    validate_judge(judge, cases, served.name, JUDGE)
    if settings.judges:
        require("openai", "vlm")
    for vlm in settings.judges.values():
        vlm.key()
    return served


def vlm_identity(judge: str, settings: Serving) -> dict[str, JsonValue] | None:
    """What decides a VLM's answers, as plain data; None if the judge is no VLM."""
    vlm = settings.judges.get(judge)
    return None if vlm is None else vlm.identity


def scale_of(judge: str, settings: Serving) -> str:
    """What the scores of a judge of `judge_names` are, in words."""
    return FIVE if judge in settings.judges else load_judge(judge, "judge").scale


def open_judge(name: str, settings: Serving, store: Store) -> Judge:
    """The judge of that name; a VLM keeps its answers in `store`.

    Raises:
        UserError: the judge cannot be used.
    """
    vlm = settings.judges.get(name)
    if vlm is None:
        return load_judge(name, "judge")
    from flash_ray.evaluation.judges.vlm import VlmJudge

    vlm.key()  # without one nothing needs to be drawn
    return VlmJudge(vlm, store)


def _has_ocr() -> bool:
    try:
        load_judge("ocr", "judge")
    except UserError:
        return False
    return True

"""What a server scores on: benchmarks, each with the judges that can judge its cases."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, load_benchmark
from flash_ray.evaluation.inputs import kept_in
from flash_ray.models.loading import is_same_base
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.serving.judges import JUDGE, able_judges, judge_names, validate_vlms
from flash_ray.serving.settings import Serving
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import Student, list_students

FIELD = "evaluation.benchmark"  # of the recipe


class ServedBenchmark:
    """A benchmark's cases, as many of each category as one request may ask for.

    It is made where the server is started and sent to the replicas: files need not be there.

    Args:
        judges: by task, those that can judge some of its cases, the default first.
        limit: the most cases of a category.
    """

    def __init__(self, benchmark: Benchmark, judges: Mapping[Task, tuple[str, ...]], limit: int):
        self.benchmark, self.judges, self._limit = benchmark, judges, limit
        self.name, self.digest = benchmark.name, benchmark.digest
        self.categories: Mapping[Task, tuple[str, ...]] = dict(benchmark.categories)
        self._by_id: dict[Task, dict[str, Case]] = {}

    def kept_in(self, store: Store) -> "ServedBenchmark":
        """The same, with the pictures to edit that the base has drawn in that store."""
        kept = kept_in(self.benchmark, store)
        if kept is self.benchmark:
            return self
        return ServedBenchmark(kept, self.judges, self._limit)

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


Benchmarks = Mapping[str, ServedBenchmark]  # by name, in the order in which they are offered


def checked_benchmarks(recipe: Recipe, settings: Serving) -> Benchmarks:
    """The benchmarks that the settings name, or, if they say nothing of any, the recipe's; with
    what else a server needs to score on them checked, before it starts.

    Raises:
        UserError: there is no such benchmark or judge, two benchmarks have one name, nobody can
            judge any case of one though the recipe wants scores or the settings name it, or a VLM
            lacks its extra, its key or a benchmark.
    """
    choices = _choices(recipe, settings)
    if settings.judges and not choices:
        raise UserError(
            f"judges: {', '.join(settings.judges)} without a benchmark; allowed: judges of "
            f"benchmarks that are named; set benchmarks or {FIELD}, or remove the judges"
        )
    validate_vlms(settings)
    names = judge_names(recipe, settings)
    served: dict[str, ServedBenchmark] = {}
    for field, choice in choices.items():
        benchmark = load_benchmark(choice, recipe, field)
        if benchmark.name in served:
            raise UserError(
                f"{field}: {benchmark.name!r} is the name of an entry before it too; allowed: each "
                "name once; rename a file, or remove one"
            )
        judges = able_judges(benchmark, names, recipe, settings)
        # A recipe names the judge of its benchmark, or none: then its cases may be drawn alone.
        own = recipe.evaluation.judge
        needed = names if field != FIELD else [own] if own else []
        able = {name for of_task in judges.values() for name in of_task}
        if not able.intersection(needed) and (needed or field != FIELD):
            raise UserError(f"{field}: {_unjudged(benchmark, needed)}")
        served[benchmark.name] = ServedBenchmark(benchmark, judges, settings.limits.cases)
    return served


def with_published(
    served: Benchmarks,
    recipe: Recipe,
    settings: Serving,
    store: Store,
    say: Callable[[str], object],
) -> Benchmarks:
    """Those of `served`, with the store's pictures to edit; unless the settings name benchmarks,
    also those that published students of the recipe's base were scored on, where they are
    installed.

    Args:
        served: as `checked_benchmarks` gives them.
        say: is told which student's benchmark is not among them, and why.
    """
    found = {name: benchmark.kept_in(store) for name, benchmark in served.items()}
    if settings.benchmarks is not None:
        return found
    scored: dict[tuple[str, str], list[Student]] = defaultdict(list)
    for student in list_students(store)[0]:  # the others are named when models are listed
        if is_same_base(student.base, recipe.base) and student.scores:
            scored[student.scores.benchmark, student.scores.digest].append(student)
    for (name, digest), students in scored.items():
        try:
            if name not in found:
                published = _published(name, digest, students, recipe, settings)
                found[name] = published.kept_in(store)
            elif found[name].digest != digest:
                raise UserError(f"the one that is served has other cases, {found[name].digest!r}")
        except UserError as error:
            named = ", ".join(student.name for student in students[:5])
            more = f" and {len(students) - 5} more" if len(students) > 5 else ""
            say(f"not served: benchmark {name[:100]!r} ({digest[:16]!r}) of {named}{more}: {error}")
    return found


def reference_paths(benchmark: str, case: Case) -> list[str]:
    """The paths under which a server has the pictures that a case asks to edit."""
    path = f"/v1/benchmarks/{quote(benchmark, safe='')}/{case.task}/cases/{case.id}/input.png"
    return [path if i == 0 else f"{path}?number={i + 1}" for i in range(len(case.references))]


def _choices(recipe: Recipe, settings: Serving) -> Mapping[str, str | BenchmarkFiles]:
    """What names a benchmark, by the field that does."""
    if settings.benchmarks is not None:
        return {f"benchmarks.{i}": choice for i, choice in enumerate(settings.benchmarks)}
    own = recipe.evaluation.benchmark
    return {} if own is None else {FIELD: own}


def _published(
    name: str, digest: str, students: Sequence[Student], recipe: Recipe, settings: Serving
) -> ServedBenchmark:
    """The benchmark that students were scored on; their judges may judge it too.

    Raises:
        UserError: it is not installed, has other cases, or nobody here can judge any of them.
    """
    if name not in plugins.names(plugins.BENCHMARKS):
        raise UserError("no installed package has it; name its files in benchmarks")
    benchmark = load_benchmark(name, recipe, "benchmark")
    if benchmark.digest != digest:
        raise UserError(f"the installed one of that name has other cases, {benchmark.digest!r}")
    judged_by = [student.scores.judge for student in students if student.scores]
    names = judge_names(recipe, settings, judged_by)
    judges = able_judges(benchmark, names, recipe, settings)
    if not any(judges.values()):
        raise UserError(_unjudged(benchmark, names))
    return ServedBenchmark(benchmark, judges, settings.limits.cases)


def _unjudged(benchmark: Benchmark, judges: Sequence[str]) -> str:
    who = f"{' and '.join(judges)} can judge none" if judges else "no judge is here for any"
    return (
        f"{who} of the cases of {benchmark.name!r}; allowed: benchmarks with a judge; set {JUDGE}, "
        "or name a VLM in judges"
    )

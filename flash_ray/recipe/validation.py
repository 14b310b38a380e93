"""What field ranges cannot say: values that contradict each other, and what is not built yet."""

import re
from collections.abc import Iterator, Sequence

from flash_ray import plugins
from flash_ray.errors import UserError, one_line, unknown
from flash_ray.recipe.schema import OBJECTIVES, TASKS, Recipe
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.recipe.sizes import nearest_size, size_problem
from flash_ray.recipe.teacher_weights import moments, weight_at
from flash_ray.recipe.training_rules import TRAINING
from flash_ray.storage.address import NO_LOGIN, bucket_problem, endpoint_problem

NO_FILES = "neither t2i nor edit; allowed: the address of files for one or both; add one"


def validate(recipe: Recipe) -> None:
    """Checks what no single field can tell.

    Raises:
        UserError: names that nothing registers, fields that cannot hold together, or what this
            version cannot do; one line.
    """
    rules = (
        _registered,
        _benchmark,
        _data,
        _lora_address,
        _teachers,
        _lambdas,
        _rungs,
        *TRAINING,
        _tracking,
        _storage,
    )
    problems = [problem for rule in rules for problem in rule(recipe)]
    if problems:
        raise UserError(one_line(problems))


def _registered(recipe: Recipe) -> Iterator[str]:
    """Names that no installed package registers, and objectives that do not exist."""
    evaluation = recipe.evaluation
    named: list[tuple[str, str, Sequence[str], str]] = [
        ("family", recipe.family, plugins.names(plugins.MODELS), "model family"),
        ("objective.name", recipe.objective.name, OBJECTIVES, "objective"),
    ]
    if isinstance(evaluation.benchmark, str):
        benchmarks = plugins.names(plugins.BENCHMARKS)
        named.append(("evaluation.benchmark", evaluation.benchmark, benchmarks, "benchmark"))
    if evaluation.benchmark is not None and evaluation.judge is not None:
        judge = evaluation.judge.partition(":")[0]  # what follows is the judge's own matter
        named.append(("evaluation.judge", judge, plugins.names(plugins.JUDGES), "judge"))
    for field, name, known, kind in named:
        if name not in known:
            yield unknown(field, name, known, kind)


def _benchmark(recipe: Recipe) -> Iterator[str]:
    """Problems with the addresses of a benchmark from files."""
    files = recipe.evaluation.benchmark
    if not isinstance(files, BenchmarkFiles):
        return
    if files.t2i is None and files.edit is None:
        yield f"evaluation.benchmark: {NO_FILES}"
    for task in TASKS:
        yield from _bucket(recipe, f"evaluation.benchmark.{task}", getattr(files, task))


def _data(recipe: Recipe) -> Iterator[str]:
    shares = {"t2i": recipe.tasks.t2i, "edit": recipe.tasks.edit}
    if not any(shares.values()):
        yield "tasks: t2i and edit sum to 0; allowed: at least one above 0; set tasks.t2i=1"
    if problem := size_problem(recipe.data.resolution):
        nearest = list(nearest_size(recipe.data.resolution))
        yield f"data.resolution: {problem}; set data.resolution={nearest}"
    yield from _source(recipe)
    for task, share in shares.items():
        weights = getattr(recipe.data.composition, task)
        if recipe.data.source and share and not any(weights.values()):
            yield (
                f"data.composition.{task}: weights sum to 0; allowed: at least one category above "
                f"0; raise one, or set tasks.{task}=0"
            )
    yield from _filter(recipe)


def _source(recipe: Recipe) -> Iterator[str]:
    """What the source does not have: the name itself, categories, addresses of files."""
    source = recipe.data.source
    if source is None:
        return
    if not isinstance(source, str):
        for task, share in (("t2i", recipe.tasks.t2i), ("edit", recipe.tasks.edit)):
            yield from _address(recipe, task, getattr(source, task), share)
        return
    if source not in (known := plugins.names(plugins.SOURCES)):
        yield unknown("data.source", source, known, "source")
        return
    categories = plugins.load(plugins.SOURCES, source, "data.source")().categories
    for task in TASKS:
        for name in getattr(recipe.data.composition, task):
            if name not in categories[task]:
                field = f"data.composition.{task}.{name}"
                yield unknown(field, name, categories[task], "category")


def _address(recipe: Recipe, task: str, address: str | None, share: int) -> Iterator[str]:
    """Problems with the address of a task's files."""
    if share and address is None:
        yield (
            f"data.source.{task}: missing with tasks.{task} {share}; allowed: the address of "
            f"files; add it, or set tasks.{task}=0"
        )
    yield from _bucket(recipe, f"data.source.{task}", address)


def _bucket(recipe: Recipe, field: str, address: str | None) -> Iterator[str]:
    if address and address.startswith("s3://") and recipe.runtime.storage.url == "embedded":
        yield _beside_embedded(field, "files on disk")


def _lora_address(recipe: Recipe) -> Iterator[str]:
    for index, teacher in enumerate(recipe.teachers):
        if teacher.model.startswith("s3://") and recipe.runtime.storage.url == "embedded":
            yield _beside_embedded(f"teachers.{index}.model", "a file or folder on disk, a hub id")


def _beside_embedded(field: str, allowed: str) -> str:
    return (
        f"{field}: a bucket with runtime.storage.url embedded, whose server takes the place of any "
        f"other; allowed: {allowed}, or a store in S3; set runtime.storage.url=s3://BUCKET/PREFIX"
    )


def _filter(recipe: Recipe) -> Iterator[str]:
    wanted, source = recipe.data.filter, recipe.data.source
    if wanted.length and wanted.length[0] > wanted.length[1]:
        yield (
            f"data.filter.length: {list(wanted.length)} is an empty range; allowed: [fewest, most] "
            f"with fewest <= most; set data.filter.length={sorted(wanted.length)}"
        )
    if wanted.subsets == ():
        yield "data.filter.subsets: the list is empty; allowed: a name or more, or null"
    columns = {"subsets": "subset", "min_score": "score"}
    for field, column in columns.items():
        if getattr(wanted, field) is None:
            continue
        if isinstance(source, str):
            yield (
                f"data.filter.{field}: {getattr(wanted, field)!r} with data.source {source}, "
                f"which has no {column}; allowed: null; set data.filter.{field}=null"
            )
        elif source and getattr(source.columns, column) is None:
            yield (
                f"data.filter.{field}: {getattr(wanted, field)!r} without a {column} column; "
                f"allowed: null, or with data.source.columns.{column}; name that column"
            )


def _teachers(recipe: Recipe) -> Iterator[str]:
    names = [teacher.name for teacher in recipe.teachers]
    if not names:
        yield "teachers: the list is empty; allowed: one teacher; add {name: base, model: base}"
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (
                f"teachers.{index}.name: {name!r} is teachers.{names.index(name)}'s too; allowed: "
                f"another name; rename it"
            )
    yield from _replicas(recipe)


def _replicas(recipe: Recipe) -> Iterator[str]:
    counts = [("teacher_defaults", recipe.teacher_defaults.replicas)]
    counts += [(f"teachers.{i}", each.replicas or 1) for i, each in enumerate(recipe.teachers)]
    for section, replicas in counts:
        if replicas == 1:
            continue
        field = f"{section}.replicas"
        if recipe.teacher_defaults.placement == "in_process":
            value = replicas if isinstance(replicas, int) else "a range"
            yield (
                f"{field}: {value} with teacher_defaults.placement in_process; allowed: 1, every "
                f"worker has its own copy; set {field}=1"
            )
        elif not isinstance(replicas, int) and replicas.min > replicas.max:
            yield (
                f"{field}.min: {replicas.min} is above {field}.max {replicas.max}; allowed: "
                f"min <= max; set {field}.max={replicas.min}"
            )


def _lambdas(recipe: Recipe) -> Iterator[str]:
    """The tables of λ: rules that can apply, no gap, and 1 in all, in every cell."""
    steps, composition = len(recipe.student.rungs), recipe.data.composition
    problems = []
    for index, teacher in enumerate(recipe.teachers):
        for number, rule in enumerate(() if isinstance(teacher.weight, float) else teacher.weight):
            field = f"teachers.{index}.weight.{number}"
            if beyond := [rung for rung in rule.rungs or () if rung > steps]:
                problems.append(
                    f"{field}.rungs: {beyond[0]} with {steps} rungs; allowed: 1 to {steps}; "
                    "correct it"
                )
            start, end = rule.progress
            if not 0 <= start < end <= 1:
                problems.append(
                    f"{field}.progress: [{start:g}, {end:g}]; allowed: [from, to) with "
                    "0 <= from < to <= 1; correct it"
                )
            known = [*composition.t2i, *composition.edit]
            if rule.category is not None and rule.category not in known:
                known = list(dict.fromkeys(known))
                problems.append(unknown(f"{field}.category", rule.category, known, "category"))
    yield from problems
    if recipe.teachers and not problems:
        yield from list(_sums(recipe))[:1]


def _sums(recipe: Recipe) -> Iterator[str]:
    for moment, end in moments(recipe):
        where = (
            f"at rung {moment.rung}, progress {moment.progress:g} to {end:g}, "
            f"{moment.task} {moment.category}"
        )
        lambdas = [weight_at(teacher, moment) for teacher in recipe.teachers]
        weights = [weight for weight in lambdas if weight is not None]
        if len(weights) < len(lambdas):
            index = lambdas.index(None)
            yield (
                f"teachers.{index}.weight: no rule applies {where}; allowed: a λ everywhere; end "
                "the list with {weight: 0.0} or another rule for all"
            )
        elif abs(sum(weights) - 1) > 1e-6:
            yield (
                f"teachers: λ sums to {sum(weights):g} {where}; allowed: 1 over all teachers; "
                f"correct teachers.{len(lambdas) - 1}.weight"
            )


def _rungs(recipe: Recipe) -> Iterator[str]:
    student, objective = recipe.student, recipe.objective
    if student.sigmas == ():
        yield "student.sigmas: the list is empty; allowed: a rung or more; set student.sigmas=null"
    elif student.sigmas is not None:
        sigmas = list(student.sigmas)
        if any(a <= b for a, b in zip(sigmas, sigmas[1:], strict=False)):
            yield (
                f"student.sigmas: {sigmas} do not decrease; allowed: strictly decreasing numbers "
                f"in (0, 1]; set student.sigmas={sorted(set(sigmas), reverse=True)}"
            )
        if len(sigmas) != student.steps:
            yield (
                f"student.steps: {student.steps} with {len(sigmas)} student.sigmas; allowed: "
                f"as many steps as sigmas; set student.steps={len(sigmas)}"
            )
    if objective.t_min >= objective.t_max:
        yield (
            f"objective.t_min: {objective.t_min:g} is not below objective.t_max "
            f"{objective.t_max:g}; allowed: t_min < t_max; set objective.t_min=0.02"
        )


def _tracking(recipe: Recipe) -> Iterator[str]:
    server = recipe.tracking.mlflow
    if server and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?|sqlite:///\S+", server.uri):
        # Not quoted: someone may have put a login into it.
        yield (
            "tracking.mlflow.uri: no tracking server's address alone; allowed: "
            "http(s)://host:port/path without a login, or sqlite:///FILE; put a login into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _storage(recipe: Recipe) -> Iterator[str]:
    # The values are not quoted: someone may have put a secret into them.
    storage = recipe.runtime.storage
    if storage.url != "embedded" and (problem := bucket_problem(storage.url)):
        yield (
            f"runtime.storage.url: {problem}; allowed: 'embedded' or s3://bucket/prefix without "
            f"credentials; {NO_LOGIN}"
        )
    if storage.endpoint is not None:
        if problem := endpoint_problem(storage.endpoint):
            yield (
                f"runtime.storage.endpoint: {problem}; allowed: http(s)://host:port without "
                "credentials; set runtime.storage.endpoint=http://HOST:PORT"
            )
        if storage.url == "embedded":
            yield (
                "runtime.storage.endpoint: given with url embedded, which has its own; allowed: "
                "null; set runtime.storage.url=s3://BUCKET or runtime.storage.endpoint=null"
            )

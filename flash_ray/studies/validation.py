"""What a study file's field ranges cannot say: names that lead nowhere, arms that are no arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from flash_ray import plugins
from flash_ray.errors import UserError, one_line, unknown
from flash_ray.evaluation.benchmark import Benchmark, listed_cases, load_benchmark
from flash_ray.evaluation.judges.choose import load_judge, validate_judge
from flash_ray.recipe.schema import Recipe

if TYPE_CHECKING:
    from flash_ray.studies.study import Claim, Study


# What decides the encoded cases, the scores and the teachers, which all trials share.
SHARED = ("base", "family", "training.precision", "evaluation")


def validate_contradictions(study: Study) -> None:
    """Raises UserError if fields, each in its range, cannot hold together."""
    rules = (_budget, _arms, _seeds, _names, _claims, _space, _diversity, _quick)
    if problems := [problem for rule in rules for problem in rule(study)]:
        raise UserError(one_line(problems))


def validate_arms(study: Study, recipes: dict[str, Recipe]) -> None:
    """Raises UserError if two arms are alike, one changes what the study says is fixed, or what is
    looked at during training does not fit it."""
    rules = (_changed(study, recipes), _alike(recipes), _early(study, recipes))
    if problems := [*chain(*rules), *_curve(study, recipes)]:
        raise UserError(one_line(problems))


def validate_space(study: Study, path: str, recipes: Sequence[Recipe]) -> None:
    """Raises UserError if values of a path of the space change what is fixed, or are alike.

    Args:
        recipes: of each value, with everything else as the study has it.
    """
    values = study.space[path]
    problems = [
        f"space.{path}: changes {fixed}, which is fixed; allowed: other fields; "
        f"{_cure(fixed, 'that path')}"
        for fixed, _ in _unlike(study, recipes)
    ]
    seen: dict[str, Any] = {}
    for value, recipe in zip(values, recipes, strict=True):
        if recipe.digest in seen:
            problems.append(
                f"space.{path}: {seen[recipe.digest]!r} and {value!r} make the same recipe; "
                "allowed: values that differ, and no name, seed or budget; remove one"
            )
        seen.setdefault(recipe.digest, value)
    if problems:
        raise UserError(one_line(problems))


def validate_measures(study: Study, recipe: Recipe) -> None:
    """Raises UserError if there is no benchmark, no judge of its cases, or it lacks what the study
    measures.

    Args:
        recipe: of any arm; what judges is the same for all.
    """
    benchmark = benchmark_of(recipe)
    judge = load_judge(recipe.evaluation.judge_name, "judge")
    rules = (_tasks, _measures, _development)
    if problems := [problem for rule in rules for problem in rule(study, benchmark)]:
        raise UserError(one_line(problems))
    cases = {task: listed_cases(benchmark, task, 1) for task in study.cases}
    for of_task in cases.values():
        validate_judge(judge, of_task, benchmark.name, "judge")
    for index, claim in enumerate(study.claims):
        measured, _, category = claim.measure.partition(".")
        of_task = next(of for task, of in cases.items() if task == measured)
        of_claim = [case for case in of_task if category in ("", case.category)]
        validate_judge(judge, of_claim, benchmark.name, f"claims.{index}.measure")


def benchmark_of(recipe: Recipe) -> Benchmark:
    """The benchmark that a study's trials are scored on, which their recipes name.

    Raises:
        UserError: they name none, or one that is not registered, or a row of its files is bad.
    """
    choice = recipe.evaluation.benchmark
    if choice is None:
        known = ", ".join(plugins.names(plugins.BENCHMARKS))
        raise UserError(
            "benchmark: the study names none and its recipe's evaluation.benchmark is null; "
            f"allowed: {known}, or files; name one, as trials are compared by their scores"
        )
    return load_benchmark(choice, recipe, "benchmark")


def field_of(recipe: Recipe, path: str) -> object:
    """The value at a dotted path of a recipe; KeyError if there is none."""
    node: object = recipe.model_dump(mode="json")
    for key in path.split("."):
        if not isinstance(node, dict):
            raise KeyError(path)
        node = node[key]
    return node


def _budget(study: Study) -> Iterator[str]:
    given = [name for name, value in study.budget if value is not None]
    if len(given) != 1:
        yield (
            f"budget: {' and '.join(given) or 'nothing'} given; allowed: exactly one of "
            "iterations, images, passes; write e.g. budget: {iterations: 100}"
        )


def _arms(study: Study) -> Iterator[str]:
    if len(study.arms) < 2 and (study.arms or not study.space):
        yield (
            f"arms: {len(study.arms)} given; allowed: two or more, or with a space none; add arms "
            "that differ in one thing"
        )


def _seeds(study: Study) -> Iterator[str]:
    for seed, times in Counter(study.seeds).items():
        if times > 1:
            yield f"seeds: {seed} is given {times} times; allowed: once; remove one"


def _names(study: Study) -> Iterator[str]:
    for name, factor in study.factors.items():
        yield from _known(f"factors.{name}.arms", factor.arms, study.arms)
        for task in factor.tasks:
            if task not in study.cases:
                yield unknown(f"factors.{name}.tasks", task, study.cases, "task")


def _claims(study: Study) -> Iterator[str]:
    for index, claim in enumerate(study.claims):
        yield from _known(f"claims.{index}.left", claim.left, study.arms)
        yield from _known(f"claims.{index}.right", claim.right, study.arms)
        if set(claim.left) & set(claim.right):
            yield (
                f"claims.{index}: {sorted(set(claim.left) & set(claim.right))[0]} is on both "
                "sides; allowed: different arms; remove it from one"
            )
        yield from _outcome(study, claim, f"claims.{index}")
        if claim.expect == "best" and len(claim.left) > 1:
            yield (
                f"claims.{index}.left: {len(claim.left)} arms in a claim of the best; allowed: "
                "one; make a claim of each"
            )
        if (claim.effect or 0) * {"higher": 1, "best": 1, "lower": -1}.get(claim.expect, 0) < 0:
            yield (
                f"claims.{index}.effect: {claim.effect:g} where the claim expects {claim.expect}; "
                "allowed: left - right, with the sign that the claim has; correct one of them"
            )


def _outcome(study: Study, claim: Claim, field: str) -> Iterator[str]:
    """Whether the study has what a claim is about."""
    if claim.outcome not in study.margins:
        yield (
            f"{unknown(f'{field}.outcome', claim.outcome, study.margins, 'outcome')}, or add what "
            f"difference of it counts, as margins: {{{claim.outcome}: 0.05}}"
        )
    if claim.horizon == "early" and study.early is None:
        yield (
            f"{field}.horizon: early, but the study scores students at the end only; allowed: "
            "late; set early to a number of iterations"
        )
    if claim.outcome == "diversity" and (study.diversity is None or claim.horizon == "early"):
        yield (
            f"{field}.outcome: diversity, which the study does not draw {claim.horizon}; allowed: "
            "late, with e.g. diversity: {prompts: 4, noises: 4}; set it"
        )


def _space(study: Study) -> Iterator[str]:
    for path in study.space:
        for other in study.space:
            if other.startswith(f"{path}."):
                yield (
                    f"space.{other}: part of {path}, which the space has too; allowed: one of "
                    "the two; remove one"
                )


def _diversity(study: Study) -> Iterator[str]:
    most = min(study.cases.values())
    if study.diversity and study.diversity.prompts > most:
        yield (
            f"diversity.prompts: {study.diversity.prompts} of {most} cases of each category; "
            f"allowed: 1 to {most}; lower it, or raise cases"
        )


def _quick(study: Study) -> Iterator[str]:
    if not study.quick:
        return
    yield from _known("quick.arms", study.quick.arms or (), study.arms)
    if (study.quick.early or 0) >= study.quick.iterations:
        yield (
            f"quick.early: {study.quick.early} of {study.quick.iterations} iterations; allowed: 1 "
            "to below them, or null; lower it"
        )


def _early(study: Study, recipes: Mapping[str, Recipe]) -> Iterator[str]:
    for arm, recipe in recipes.items():
        last = recipe.training.iterations
        if study.early and study.early >= last:
            yield (
                f"early: {study.early} of {last} iterations of arm {arm}; allowed: 1 to below "
                "them, or null; lower it"
            )


def _curve(study: Study, recipes: Mapping[str, Recipe]) -> Iterator[str]:
    """Curves are looked at while a recipe is made: they must not show what it is judged on."""
    for recipe in [*recipes.values()][:1] if study.curve_every else ():
        for task, count in recipe.evaluation.cases:
            if count > study.development:
                yield (
                    f"development: {study.development} cases of each category, and the curves "
                    f"show {count} (evaluation.cases.{task}); allowed: {count} or more; raise it, "
                    "or set curve_every: 0"
                )


def _development(study: Study, benchmark: Benchmark) -> Iterator[str]:
    """Something must be left to be judged on."""
    for task in study.cases:
        if task in benchmark.categories:
            found = Counter(c.category for c in benchmark.cases(task, study.development + 1))
            category, count = min(found.items(), key=lambda item: item[1])
            if count <= study.development:
                yield (
                    f"development: {study.development}, but {benchmark.name} has {count} cases of "
                    f"{task}.{category}, and none is left to be scored on; allowed: 0 to "
                    f"{count - 1}; set e.g. development: {count // 4}"
                )


def _tasks(study: Study, benchmark: Benchmark) -> Iterator[str]:
    for task in study.cases:
        if task not in benchmark.categories:
            yield unknown("cases", task, list(benchmark.categories), f"task of {benchmark.name}")


def _measures(study: Study, benchmark: Benchmark) -> Iterator[str]:
    known: list[str] = [*study.cases]
    for task in study.cases:
        known += [f"{task}.{category}" for category in benchmark.categories.get(task, ())]
    for index, claim in enumerate(study.claims):
        if claim.measure not in known:
            yield unknown(f"claims.{index}.measure", claim.measure, known, "task or category")


def _known(field: str, names: Collection[str], arms: Collection[str]) -> Iterator[str]:
    for name in names:
        if name not in arms:
            yield unknown(field, name, list(arms), "arm")


def _changed(study: Study, recipes: dict[str, Recipe]) -> Iterator[str]:
    arms = list(recipes)
    for fixed, index in _unlike(study, list(recipes.values())):
        yield (
            f"arms.{arms[index]}: changes {fixed}, which is fixed; allowed: what arm {arms[0]} "
            f"has; {_cure(fixed, 'that override')}"
        )


def _unlike(study: Study, recipes: Sequence[Recipe]) -> Iterator[tuple[str, int]]:
    """Fixed fields in which recipes differ, each with the first that differs from recipe 0."""
    for path in dict.fromkeys((*study.fixed, *SHARED)):
        try:
            values = [_without_budget(recipe, path) for recipe in recipes]
        except KeyError:
            raise UserError(
                f"fixed: {path!r} is no field of a recipe; see `flash-ray recipe show`"
            ) from None
        unlike = [index for index, value in enumerate(values) if value != values[0]]
        if unlike:
            yield path, unlike[0]


def _cure(fixed: str, change: str) -> str:
    if fixed in SHARED:
        return f"remove {change}: trials share teachers and cases"
    return f"remove {change}, or {fixed} from fixed"


def _without_budget(recipe: Recipe, path: str) -> object:
    """The field, but for the iterations, which follow from the study's budget."""
    value = field_of(recipe, path)
    if path == "training" and isinstance(value, dict):
        return {key: field for key, field in value.items() if key != "iterations"}
    return value


def _alike(recipes: dict[str, Recipe]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for arm, recipe in recipes.items():
        if twin := seen.get(recipe.digest):
            yield (
                f"arms.{arm}: the same recipe as arm {twin}; allowed: arms that differ; remove one"
            )
        seen.setdefault(recipe.digest, arm)

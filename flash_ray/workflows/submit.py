"""`flash-ray submit`: from a command's options to its job, checked as far as is known here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flash_ray.cluster.jobs.job import Job
from flash_ray.cluster.session import not_shared, validate_embedded
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import OPTION, load_benchmark, named_benchmark
from flash_ray.evaluation.judges.choose import VLMS, validate_word
from flash_ray.evaluation.judges.endpoint import read_settings
from flash_ray.recipe import Recipe, dump_yaml
from flash_ray.recipe.load import load_raw
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sections import BenchmarkFiles
from flash_ray.serving.settings import load_serving
from flash_ray.storage.s3 import Store, check_name
from flash_ray.studies.study import arm_recipe, first_recipe, load_study
from flash_ray.workflows.evaluate import BASES

RECIPE, SETTINGS, STUDY = "recipe.yaml", "serving.yaml", "study.yaml"
BENCHMARK = "benchmark.yaml"
MOST_BYTES = 256 * 2**20  # of a benchmark that goes along with a job


def plan_distill(recipe: Recipe, name: str | None, resume: bool, student: str | None = None) -> Job:
    """The job of `flash-ray distill`; `student` is published under the run's name if None."""
    _validate_storage(recipe)
    name = check_name("--name", name or recipe.name)
    words: tuple[str, ...] = ("distill", RECIPE, "--name", name)
    if student:
        words += ("--publish", check_name("--publish", student))
    repeats = ("--resume",) if resume else ()
    extras = recipe.extras
    return Job("distill", name, words, recipe, _recipe_files(recipe), extras, repeats)


def plan_encode(recipe: Recipe) -> Job:
    """The job of `flash-ray data encode`."""
    _validate_storage(recipe)
    words = ("data", "encode", RECIPE)
    return Job("encode", recipe.name, words, recipe, {RECIPE: dump_yaml(recipe)})


def plan_evaluate(
    model: str,
    recipe: Recipe,
    store: str | None,
    task: Task,
    benchmark: str | None,
    per_category: int,
    judges: Sequence[str],
) -> Job:
    """The job of `flash-ray evaluate`; for the arguments see `workflows.evaluate.evaluate`.

    Args:
        recipe: for a student, too, since it says what the job needs of a node.
    """
    if "/" in model:
        raise UserError(
            f"MODEL: {model!r} is a folder of this machine; allowed: a published student's name, "
            f"{' or '.join(BASES)}; publish it, or evaluate it here"
        )
    check_name("MODEL", model)
    choice = named_benchmark(benchmark) if benchmark else None
    if isinstance(choice, str):
        load_benchmark(choice, recipe, OPTION)
    _validate_store(store)
    words = ["evaluate", model, "--task", task, "--cases", str(per_category), "--recipe", RECIPE]
    files = _recipe_files(recipe if choice is None else _naming(recipe, None))
    there, carried = _carried(choice, recipe, OPTION)
    if isinstance(there, BenchmarkFiles):
        files |= {BENCHMARK: _yaml(there.model_dump(mode="json")), **carried}
    if there:
        words += ["--benchmark", there if isinstance(there, str) else BENCHMARK]
    for number, judge in enumerate(judges):
        kind, _, argument = judge.partition(":")
        if kind in VLMS and argument:  # its key is the cluster's matter
            settings = read_settings(argument, VLMS[kind], f"--judge {kind}")
            files[f"judge-{number}.yaml"] = _yaml(settings.model_dump(mode="json"))
            judge = f"{kind}:judge-{number}.yaml"
        else:
            validate_word(judge)  # what it names may be there only
        words += ["--judge", judge]
    words += ["--store", str(store)]
    return Job("evaluate", f"{model}-{task}", tuple(words), recipe, files)


def plan_study(name: str, out: Path, at_once: int | None, store: str | None) -> Job:
    """The job of `flash-ray study run`; `out` is a folder of the cluster."""
    _validate_relative("--out", out)
    study = load_study(name)
    recipe = first_recipe(study)
    if store:
        _validate_store(store)
    else:
        _validate_storage(recipe)
    fields = {**study.model_dump(mode="json", exclude_unset=True), "recipe": RECIPE}
    there, carried = _carried(recipe.evaluation.benchmark, recipe, "benchmark")
    if isinstance(there, BenchmarkFiles):
        fields["benchmark"] = there.model_dump(mode="json")
    files = {STUDY: _yaml(fields), RECIPE: _yaml(load_raw(study.recipe)), **carried}
    words = ["study", "run", STUDY, "--out", str(out)]
    words += ["--at-once", str(at_once)] if at_once else []
    words += ["--store", store] if store else []
    extras = {each for arm in study.arms for each in arm_recipe(study, arm, study.seeds[0]).extras}
    return Job("study", study.name, tuple(words), recipe, files, tuple(sorted(extras)))


def plan_serve(
    recipe: Recipe,
    settings: Path | None,
    changes: Sequence[str],
    store: str | None,
    tokens: Path | None,
    address: tuple[str, int],
) -> Job:
    """The job of `flash-ray serve`; `tokens` is a file of the cluster's head."""
    _validate_store(store)
    serving = load_serving(settings, list(changes))
    if tokens:
        _validate_relative("--tokens", tokens)
    host, port = address
    words = ["serve", RECIPE, "--settings", SETTINGS, "--store", str(store)]
    words += ["--host", host, "--port", str(port)]
    words += ["--tokens", str(tokens)] if tokens else []
    fields = serving.model_dump(mode="json")
    if serving.benchmarks is None:
        files = _recipe_files(recipe)
    else:  # the recipe's is not served
        fields["benchmarks"], files = _carried_all(serving.benchmarks, recipe)
        files[RECIPE] = dump_yaml(_naming(recipe, None))
    for judge, judge_fields in fields["judges"].items():
        files[f"judge-{judge}.yaml"] = _yaml(judge_fields)
    fields["judges"] = {judge: f"judge-{judge}.yaml" for judge in fields["judges"]}
    files[SETTINGS] = _yaml(fields)
    return Job("serve", recipe.name, tuple(words), recipe, files)


def _recipe_files(recipe: Recipe) -> dict[str, str]:
    """The recipe, and beside it the benchmark that it names if that is in files of this machine."""
    there, carried = _carried(recipe.evaluation.benchmark, recipe, "evaluation.benchmark")
    return {RECIPE: dump_yaml(_naming(recipe, there)), **carried}


def _naming(recipe: Recipe, benchmark: str | BenchmarkFiles | None) -> Recipe:
    evaluation = recipe.evaluation.model_copy(update={"benchmark": benchmark})
    return recipe.model_copy(update={"evaluation": evaluation})


def _carried(
    choice: str | BenchmarkFiles | None, recipe: Recipe, field: str
) -> tuple[str | BenchmarkFiles | None, dict[str, str]]:
    """(what names the benchmark in the job's folder, the files that it needs there).

    What is in S3 stays there; a file of this machine goes along, with its pictures in it.

    Raises:
        UserError: a row of it cannot be used, or it is too large to be sent.
    """
    if not isinstance(choice, BenchmarkFiles) or all(
        address is None or address.startswith(("s3://", "hf://"))
        for address in (choice.t2i, choice.edit)
    ):
        return choice, {}
    from flash_ray.evaluation.case_files import FileBenchmark

    benchmark = load_benchmark(choice, recipe, field)
    assert isinstance(benchmark, FileBenchmark), "it is from files"
    name, text = f"{benchmark.name}.jsonl", benchmark.to_jsonl()
    if len(text) > MOST_BYTES:
        raise UserError(
            f"{field}: its {len(text) / 1e6:,.0f} MB are too large to be sent with a job; allowed: "
            f"{MOST_BYTES / 1e6:,.0f} MB, or files in S3; put them there"
        )
    return BenchmarkFiles(t2i=name, edit=name), {name: text}


def _carried_all(
    choices: Sequence[str | BenchmarkFiles], recipe: Recipe
) -> tuple[list[Any], dict[str, str]]:
    """The same of a list of benchmarks, these as plain data."""
    named: list[Any] = []
    files: dict[str, str] = {}
    for number, choice in enumerate(choices):
        there, carried = _carried(choice, recipe, f"benchmarks.{number}")
        named.append(there.model_dump(mode="json") if isinstance(there, BenchmarkFiles) else there)
        files |= carried
    return named, files


def _validate_storage(recipe: Recipe) -> None:
    validate_embedded(recipe)
    Store.from_url(recipe.runtime.storage.url, recipe.runtime.storage.endpoint)


def _validate_store(store: str | None) -> None:
    if not (store or "").startswith("s3://"):
        raise not_shared(store)
    Store.from_url(str(store))


def _validate_relative(option: str, path: Path) -> None:
    if not path.is_absolute():
        raise UserError(
            f"{option}: {path} is relative to a folder of this machine; allowed: an absolute path "
            "on the cluster; write the whole path"
        )


def _yaml(fields: Mapping[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(fields, default=str)), sort_keys=False)

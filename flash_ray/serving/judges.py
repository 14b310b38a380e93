"""The judges that a server has: the recipe's, `ocr`, and the VLMs that its settings name."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Benchmark, Case, listed_cases
from flash_ray.evaluation.judges.base import Judge
from flash_ray.evaluation.judges.choose import load_judge, require, validate_for_base
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.settings import Serving
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import FIVE

JUDGE = "evaluation.judge"  # of the recipe


def judge_names(recipe: Recipe, settings: Serving, published: Sequence[str] = ()) -> list[str]:
    """The judges that there are, in the order in which they are offered: the recipe's if it names
    one, those of `published` scores, `ocr` if it is installed, the VLMs of the settings."""
    own = recipe.evaluation.judge
    ocr = ["ocr"] if _is_usable("ocr", recipe) else []
    usable = [name for name in published if _is_usable(name, recipe)]
    return list(dict.fromkeys([*([own] if own else []), *usable, *ocr, *settings.judges]))


def validate_vlms(settings: Serving) -> None:
    """Raises UserError if a VLM of the settings lacks its extra or its key."""
    if settings.judges:
        require("openai", "vlm")
    for vlm in settings.judges.values():
        vlm.key()


def able_judges(
    benchmark: Benchmark, names: Sequence[str], recipe: Recipe, settings: Serving
) -> Mapping[Task, tuple[str, ...]]:
    """By task of a benchmark, those of the judges that can judge some of its cases; VLMs can.

    Raises:
        UserError: there is no judge of such a name, or it is not for the recipe's base.
    """
    judges = {name: load_judge(name, JUDGE) for name in names if name not in settings.judges}
    for judge in judges.values():
        validate_for_base(judge, recipe.base)
    cases = {task: listed_cases(benchmark, task, 1) for task in benchmark.categories}

    def can_judge(name: str, of_task: Sequence[Case]) -> bool:
        return name not in judges or any(judges[name].can_judge(case) for case in of_task)

    return {
        task: tuple(name for name in names if can_judge(name, of_task))
        for task, of_task in cases.items()
    }


def vlm_identity(judge: str, settings: Serving) -> dict[str, JsonValue] | None:
    """What decides a VLM's answers, as plain data; None if the judge is no VLM."""
    vlm = settings.judges.get(judge)
    return None if vlm is None else vlm.identity


def scale_of(judge: str, settings: Serving) -> str:
    """What the scores of a judge that the server has are, in words."""
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


def _is_usable(name: str, recipe: Recipe) -> bool:
    """Whether a judge is installed, takes no argument and is for the recipe's base."""
    if name not in plugins.names(plugins.JUDGES):  # NAME:ARGUMENT may load any model
        return False
    try:
        validate_for_base(load_judge(name, JUDGE), recipe.base)
    except UserError:
        return False
    return True

"""The smallest changes of a recipe with which it fits machines."""

from collections.abc import Iterator
from itertools import combinations

from flash_ray.capacity.pipeline import Pipeline
from flash_ray.capacity.plan import Hardware, make_plan
from flash_ray.capacity.workload import Assumptions
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.load import override, parse_recipe
from flash_ray.recipe.sections import Lora
from flash_ray.recipe.sizes import nearest_size
from flash_ray.teachers.protocol import teacher_actors

MOST = 3  # changes that are named, and parts of one
RANKS = (32, 16, 8)
FORMS = ("int8", "nf4")  # of the base: fp8 takes as much as int8, which is nearer to bf16
SMALLER = (0.75, 0.5)  # of a picture's sides

Change = tuple[str, ...]  # KEY=VALUE of each key


def smallest_changes(
    recipe: Recipe, pipeline: Pipeline, assumed: Assumptions, hardware: Hardware
) -> list[Change]:
    """Changes that make the recipe fit, each planned, at most `MOST` of them.

    Those of fewest parts come first, among these the ones that change least of what is learned. No
    change has all the keys of an earlier one.
    """
    parts = list(_parts(recipe, hardware))
    found: list[Change] = []
    for count in range(1, MOST + 1):
        for chosen in combinations(parts, count):
            change = tuple(setting for part in chosen for setting in part)
            is_new = not any(_keys(other) <= _keys(change) for other in found)
            if len(_keys(change)) == len(change) and is_new:  # no key twice
                if _fits(recipe, change, pipeline, assumed, hardware):
                    found.append(change)
                    if len(found) == MOST:
                        return found
    return found


def _keys(change: Change) -> set[str]:
    return {setting.partition("=")[0] for setting in change}


def _fits(
    recipe: Recipe, change: Change, pipeline: Pipeline, assumed: Assumptions, hardware: Hardware
) -> bool:
    """Whether the changed recipe is valid, and fits."""
    raw = recipe.model_dump(mode="json")
    for setting in change:
        raw = override(raw, setting)
    try:
        changed = parse_recipe(raw)
    except UserError:
        return False
    return not make_plan(changed, pipeline, assumed, hardware).problems


def _parts(recipe: Recipe, hardware: Hardware) -> Iterator[Change]:
    """What a change may consist of: first what changes no number, last what changes most."""
    runtime, is_full = recipe.runtime, recipe.student.weights == "full"
    if not runtime.gradient_checkpointing:
        yield ("runtime.gradient_checkpointing=true",)
    if is_full:
        yield from ((f"runtime.zero_stage={stage}",) for stage in range(runtime.zero_stage + 1, 4))
        if runtime.offload == "none" and runtime.gpu:
            yield ("runtime.offload=optimizer",)
    elif runtime.base == "replicated" and runtime.min_workers > 1:
        yield ("runtime.base=sharded",)
    yield from _placements(recipe)
    yield from _batches(recipe, hardware)
    if recipe.evaluation.benchmark is not None:
        yield ("evaluation.benchmark=null",)
    if recipe.training.precision == "fp32":
        yield ("training.precision=bf16",)
    yield from _base_precisions(recipe)
    if is_full:
        yield ("student.weights=lora",)
        yield from (("student.weights=lora", f"student.lora={{rank: {rank}}}") for rank in RANKS)
    else:
        yield from _ranks(recipe.student.lora)
    for share in SMALLER:
        height, width = (round(side * share) for side in recipe.data.resolution)
        yield (f"data.resolution={list(nearest_size((height, width)))}",)


def _placements(recipe: Recipe) -> Iterator[Change]:
    """Teachers where they are not now."""
    if not teacher_actors(recipe):
        yield ("teacher_defaults.placement=actors",)
    elif recipe.teacher_defaults.replicas == 1:
        yield ("teacher_defaults.placement=in_process",)
    else:
        yield ("teacher_defaults.placement=in_process", "teacher_defaults.replicas=1")


def _batches(recipe: Recipe, hardware: Hardware) -> Iterator[Change]:
    """Smaller micro-batches, other numbers of workers, and both; the batch in all is kept, as far
    as it can be."""
    runtime = recipe.runtime
    rows, workers = runtime.micro_batch_size, runtime.max_workers
    total = workers * rows * runtime.gradient_accumulation_steps
    smaller = [rows >> halvings for halvings in range(rows.bit_length())]
    others = {workers, hardware.gpus, max(1, hardware.gpus - teacher_actors(recipe))}
    for count in sorted(others, key=lambda count: abs(count - workers)):
        for few in smaller:
            passes = max(1, round(total / (count * few)))
            wanted = {
                "num_workers": (count, runtime.num_workers),
                "micro_batch_size": (few, rows),
                "gradient_accumulation_steps": (passes, runtime.gradient_accumulation_steps),
            }
            if runtime.global_batch_size:
                wanted["global_batch_size"] = count * few * passes, runtime.global_batch_size
            settings = (f"runtime.{k}={new}" for k, (new, old) in wanted.items() if new != old)
            if (change := tuple(settings)) and (count, few) != (workers, rows):
                yield change


def _base_precisions(recipe: Recipe) -> Iterator[Change]:
    """A LoRA student's base in fewer bits, best first; in_process teachers are asked on it too."""
    in_process = recipe.teacher_defaults.placement == "in_process"
    teachers = ("teacher_defaults.quantized=true",)
    is_asked = in_process and not recipe.teacher_defaults.quantized
    now = recipe.training.base_format
    if now and is_asked:
        yield teachers
    for form in FORMS[FORMS.index(now) + 1 :] if now else FORMS:
        yield (f"training.base_precision={form}", *(teachers if is_asked else ()))


def _ranks(lora: Lora | None) -> Iterator[Change]:
    for rank in RANKS:
        if rank < (lora or Lora()).rank:
            yield (f"student.lora.rank={rank}" if lora else f"student.lora={{rank: {rank}}}",)

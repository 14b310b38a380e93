"""Rules about what is trained, in which precision, by which workers."""

from collections.abc import Iterator

from flash_ray.recipe.schema import Recipe


def _lora(recipe: Recipe) -> Iterator[str]:
    """What only a LoRA student has, and what it does not have."""
    runtime = recipe.runtime
    if recipe.student.weights == "lora":
        if runtime.base == "sharded" and recipe.training.base_format:
            yield (
                f"runtime.base: 'sharded' with training.base_precision "
                f"{recipe.training.base_format}, whose weights cannot be shared out; allowed: "
                "'replicated'; set runtime.base=replicated"
            )
        if runtime.base == "sharded" and runtime.min_workers == 1:
            yield (
                "runtime.base: 'sharded' with 1 worker has nothing to shard; allowed: sharded with "
                "2 workers or more; set runtime.base=replicated or runtime.num_workers=2"
            )
        return
    shapes = {
        "student.lora": recipe.student.lora,
        "training.fake_score.lora": recipe.training.fake_score.lora,
    }
    for field, lora in shapes.items():
        if lora is not None:
            yield (
                f"{field}: given with student.weights full; allowed: null, or a LoRA's shape with "
                f"student.weights lora; set {field}=null or student.weights=lora"
            )
    if runtime.base == "sharded":
        yield (
            "runtime.base: 'sharded' with student.weights full, which runtime.zero_stage shards; "
            "allowed: 'replicated'; set runtime.base=replicated"
        )


def _base_precision(recipe: Recipe) -> Iterator[str]:
    """A base in other bits than what is trained, and teachers that answer from it."""
    precision, training = recipe.training.base_precision, recipe.training
    if precision is not None and recipe.student.weights == "full":
        yield (
            f"training.base_precision: {precision!r} with student.weights full, which trains all "
            "weights; allowed: null, or with student.weights lora; set "
            "training.base_precision=null or student.weights=lora"
        )
    elif precision == "bf16" and training.precision != "bf16":
        yield (
            f"training.base_precision: 'bf16' with training.precision {training.precision}; "
            "allowed: fp8, int8, nf4, or null; set training.base_precision=null or "
            "training.precision=bf16"
        )
    if recipe.teacher_defaults.quantized and training.base_format:
        if recipe.teacher_defaults.placement == "actors":
            yield (
                "teacher_defaults.quantized: true with teacher_defaults.placement actors, which "
                "have a base of their own in training.precision; allowed: false, or in_process; "
                "set teacher_defaults.quantized=false or teacher_defaults.placement=in_process"
            )


def _workers(recipe: Recipe) -> Iterator[str]:
    runtime = recipe.runtime
    workers = runtime.num_workers
    if not isinstance(workers, int):
        if workers.min > workers.max:
            yield (
                f"runtime.num_workers.min: {workers.min} is above runtime.num_workers.max "
                f"{workers.max}; allowed: min <= max; set runtime.num_workers.max={workers.min}"
            )
            return
        if not runtime.checkpoint_every:
            yield (
                "runtime.checkpoint_every: 0 with a range of workers, which begins again at the "
                "last checkpoint when it grows or shrinks; allowed: 1 or more; "
                "set runtime.checkpoint_every=50"
            )
    is_full = recipe.student.weights == "full"
    if is_full and runtime.zero_stage == 3 and runtime.min_workers == 1:
        yield (
            "runtime.zero_stage: 3 with 1 worker has nothing to shard; allowed: stage 3 with 2 "
            "workers or more; set runtime.zero_stage=2 or runtime.num_workers=2"
        )
    most = runtime.max_workers
    samples = most * runtime.micro_batch_size
    batch = runtime.global_batch_size
    if batch is not None and batch != samples * runtime.gradient_accumulation_steps:
        if batch % samples:
            cure = f"set runtime.global_batch_size={samples * runtime.gradient_accumulation_steps}"
        else:
            cure = f"set runtime.gradient_accumulation_steps={batch // samples}"
        yield (
            f"runtime.global_batch_size: {batch} is not {most} workers x "
            f"{runtime.micro_batch_size} micro_batch_size x {runtime.gradient_accumulation_steps} "
            f"gradient_accumulation_steps; allowed: "
            f"{samples * runtime.gradient_accumulation_steps}; {cure}"
        )


def _offload(recipe: Recipe) -> Iterator[str]:
    """What moving the optimizer to the host presupposes."""
    runtime, none = recipe.runtime, "allowed: none; set runtime.offload=none"
    if runtime.offload == "none":
        return
    if recipe.student.weights == "lora":
        yield f"runtime.offload: optimizer with student.weights lora, whose is small; {none}"
    elif not runtime.gpu:
        yield (
            "runtime.offload: optimizer with runtime.gpu false, where all is in the host's memory; "
            f"{none}"
        )
    elif runtime.zero_stage == 1:
        yield (
            "runtime.offload: optimizer with runtime.zero_stage 1; allowed: with zero_stage 2 or "
            "3; set runtime.zero_stage=2 or runtime.offload=none"
        )


def _compile(recipe: Recipe) -> Iterator[str]:
    """Compiled blocks call no hooks that gather weights, and no layers of another library."""
    runtime = recipe.runtime
    beside = {
        "runtime.zero_stage 3": recipe.student.weights == "full" and runtime.zero_stage == 3,
        "runtime.base sharded": runtime.base == "sharded",
        f"training.base_precision {recipe.training.base_format}": recipe.training.base_format,
    }
    for what, is_given in beside.items():
        if runtime.compile and is_given:
            yield (
                f"runtime.compile: true with {what}, which is not compiled; allowed: false; "
                "set runtime.compile=false"
            )


#: Each yields what is wrong with a recipe, a line each.
TRAINING = (_lora, _base_precision, _workers, _offload, _compile)

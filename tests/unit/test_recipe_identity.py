"""What a run may go on with, and what its digest holds: whatever changes numbers, nothing else."""

import copy

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.recipe.identity import FREE, identity, validate_resume

CHANGES_NO_NUMBER = [
    "name=other",
    "evaluation.every=7",
    "evaluation={benchmark: null}",
    "evaluation.every=null",
    "tracking={tensorboard: true, wandb: {project: x}, mlflow: {uri: 'http://x:5000'}}",
    "teachers.0.replicas=3",
    "teacher_defaults.placement=in_process",
    "teacher_defaults.replicas={min: 1, max: 4}",
    "teacher_defaults.max_in_flight=5",
    "teacher_defaults.diagnose_every=3",
    "runtime.global_batch_size=null",
    "runtime.checkpoint_every=3",
    "runtime.storage.url=s3://bucket/prefix",
    "runtime.max_failures=9",
    "runtime.gradient_checkpointing=true",
    "runtime.cpus_per_worker=2.5",
    "runtime.num_workers={min: 1, max: 2}",
]
CHANGES_NUMBERS = {
    "seed=5": "seed",
    "training.optimizer.lr=0.5": "training.optimizer.lr",
    "runtime.num_workers=3": "runtime.num_workers",
    "runtime.micro_batch_size=1": "runtime.micro_batch_size",
    "teachers.0.guidance_scale=2": "teachers.0.guidance_scale",
    "data.resolution=[32, 32]": "data.resolution.0",
    "training.iterations=1": "training.iterations",
}
SCHEDULE = (
    "teachers.0.weight=[{weight: 1.0, progress: [0, 0.5]}, {weight: 1.0, progress: [0.5, 1]}]"
)


def changed(*overrides):
    recipe = load_recipe("miniature", ["runtime.num_workers=2", *overrides])
    return recipe, recipe.model_dump(mode="json")


def test_a_run_from_before_bases_were_quantized_goes_on():
    lora = ["student.weights=lora", "training.precision=bf16"]
    (recipe, now), (stated, _) = changed(*lora), changed(*lora, "training.base_precision=bf16")
    before = copy.deepcopy(now)
    del before["training"]["base_precision"], before["teacher_defaults"]["quantized"]
    assert identity(before) == identity(now) and stated.digest == recipe.digest
    validate_resume("mine", before, now)
    quantized, after = changed(*lora, "training.base_precision=int8")
    assert quantized.resume_digest != recipe.resume_digest
    with pytest.raises(UserError, match="^--resume: training.base_precision: "):
        validate_resume("mine", before, after)
    assert changed(*lora, "teacher_defaults.quantized=true")[0].digest != recipe.digest


@pytest.mark.parametrize("override", CHANGES_NO_NUMBER)
def test_a_run_goes_on_with_what_changes_no_number(override):
    (recipe, before), (other, now) = changed(), changed(override)
    assert now != before or "null" in override
    assert other.digest == recipe.digest and other.resume_digest == recipe.resume_digest
    validate_resume("mine", before, now)


@pytest.mark.parametrize(("override", "key"), CHANGES_NUMBERS.items())
def test_what_changes_numbers_is_refused_by_its_name_with_both_values(override, key):
    (recipe, before), (other, now) = changed(), changed(override)
    assert other.digest != recipe.digest
    with pytest.raises(UserError, match=f"^--resume: {key}: .*, but run 'mine' began with") as one:
        validate_resume("mine", before, now)
    for fields in (before, now):
        value = str(identity(fields)[key]).replace("None", "null")
        assert value in str(one.value)


def test_a_run_goes_on_with_another_zero_stage():
    (recipe, before), (other, now) = changed(), changed("runtime.zero_stage=3")
    assert other.digest != recipe.digest and other.resume_digest == recipe.resume_digest
    validate_resume("mine", before, now)


def test_a_run_goes_on_for_more_iterations_unless_a_schedule_depends_on_their_number():
    more = "training.iterations=1000"
    (recipe, before), (other, now) = changed(), changed(more)
    assert other.digest != recipe.digest and other.resume_digest == recipe.resume_digest
    validate_resume("mine", before, now)
    (recipe, before), (other, now) = changed(SCHEDULE), changed(SCHEDULE, more)
    assert other.resume_digest != recipe.resume_digest
    with pytest.raises(UserError, match="--resume: training.iterations: 1000, but"):
        validate_resume("mine", before, now)


def test_a_teacher_more_is_named():
    _, before = changed()
    _, now = changed("teachers=step-wise-by-rung")
    with pytest.raises(UserError, match="--resume: teachers.0.*began with"):
        validate_resume("mine", before, now)


def test_every_free_key_is_one_of_a_recipe():
    _, fields = changed()
    for path in FREE:
        *sections, key = path.replace("*", "0").split(".")
        holder = fields
        for name in sections:
            holder = holder[int(name)] if isinstance(holder, list) else holder[name]
        assert key in holder, path

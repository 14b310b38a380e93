"""What LoRA students have alone, and what contradicts them: one line that says what to do."""

import pytest

from flash_ray.recipe import load_recipe
from tests.helpers.refusals import refusal


@pytest.mark.parametrize(
    ("overrides", "start", "cure"),
    [
        (
            ["student.lora={rank: 8}"],
            "student.lora: given with student.weights full",
            "set student.lora=null or student.weights=lora",
        ),
        (
            ["training.fake_score.lora={rank: 8}"],
            "training.fake_score.lora: given with student.weights full",
            "set training.fake_score.lora=null or student.weights=lora",
        ),
        (
            ["runtime.base=sharded"],
            "runtime.base: 'sharded' with student.weights full",
            "set runtime.base=replicated",
        ),
        (
            [
                "runtime.base=sharded",
                "student.weights=lora",
                "training.base_precision=nf4",
            ],
            "runtime.base: 'sharded' with training.base_precision nf4",
            "set runtime.base=replicated",
        ),
        (
            ["runtime.base=sharded", "student.weights=lora", "runtime.num_workers=1"],
            "runtime.base: 'sharded' with 1 worker",
            "set runtime.base=replicated",
        ),
        (
            ["training.base_precision=nf4"],
            "training.base_precision: 'nf4' with student.weights full",
            "set training.base_precision=null or student.weights=lora",
        ),
        (
            ["training.base_precision=bf16", "training.precision=fp32", "student.weights=lora"],
            "training.base_precision: 'bf16' with training.precision fp32",
            "set training.base_precision=null or training.precision=bf16",
        ),
        (
            [
                "training.base_precision=int8",
                "student.weights=lora",
                "teacher_defaults={quantized: true, placement: actors}",
            ],
            "teacher_defaults.quantized: true with teacher_defaults.placement actors",
            "set teacher_defaults.quantized=false or teacher_defaults.placement=in_process",
        ),
    ],
)
def test_what_only_a_lora_student_has_is_refused_elsewhere(overrides, start, cure):
    message = refusal(*overrides)
    assert message.startswith(start)
    assert " allowed: " in message
    assert cure in message


@pytest.mark.parametrize(
    "beside",
    [
        ["runtime.zero_stage=3"],
        ["student.weights=lora", "runtime.base=sharded"],
        ["student.weights=lora", "training.base_precision=nf4"],
    ],
)
def test_what_cannot_be_compiled_is_refused(beside):
    message = refusal("runtime.num_workers=2", "runtime.compile=true", *beside)
    what = beside[-1].replace("=", " ")
    assert message.startswith(f"runtime.compile: true with {what}, ")
    assert message.endswith("set runtime.compile=false")


def test_a_lora_student_needs_no_zero_stage():
    alone = ["student.weights=lora", "runtime.zero_stage=3", "runtime.num_workers=1"]
    assert load_recipe("miniature", alone).student.weights == "lora"

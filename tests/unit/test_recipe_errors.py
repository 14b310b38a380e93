"""Recipes that are refused, and in which words."""

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe, parse_recipe
from tests.helpers.refusals import refusal

TEACHER = "{name: other, model: base, weight: 0.5}"


@pytest.mark.parametrize(
    ("override", "field", "near"),
    [
        ("student.step=4", "student.step", "student.steps"),
        ("studnt.steps=4", "studnt", "student"),
        ("teachers.0.guidence=3", "teachers.0.guidence", "teachers.0.guidance_scale"),
        ("lr=1", "lr", "training.optimizer.lr"),
        ("runtime.storage.uri=x", "runtime.storage.uri", "runtime.storage.url"),
        (
            "teacher_defaults.replicas={mim: 1, max: 2}",
            "teacher_defaults.replicas.mim",
            "teacher_defaults.replicas.min",
        ),
        ("teachers.0.replicas={mx: 2}", "teachers.0.replicas.mx", "teachers.0.replicas.max"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_known_one(override, field, near):
    message = refusal(override)
    assert message.startswith(f"{field}: unknown key; did you mean ")
    assert f"{near}? " in message


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("name=Not A Name", "name"),
        ("seed=-1", "seed"),
        ("base=''", "base"),
        ("data.num_cases=0", "data.num_cases"),
        ("data.resolution=[64, 0]", "data.resolution.1"),
        ("data.source=7", "data.source"),
        ("evaluation.every=-1", "evaluation.every"),
        ("evaluation.cases.t2i=1001", "evaluation.cases.t2i"),
        ("evaluation.benchmark=''", "evaluation.benchmark"),
        ("data.max_per_category=0", "data.max_per_category"),
        ("data.composition.t2i.text=-1", "data.composition.t2i.text"),
        ("tasks.edit=0.5", "tasks.edit"),
        ("teachers.0.guidance_scale=0.5", "teachers.0.guidance_scale"),
        ("teachers.0.guidance_scale=.nan", "teachers.0.guidance_scale"),
        ("teachers.0.weight=-1", "teachers.0.weight"),
        ("teacher_defaults.placement=elsewhere", "teacher_defaults.placement"),
        ("teacher_defaults.max_in_flight=0", "teacher_defaults.max_in_flight"),
        ("objective.t_max=1.5", "objective.t_max"),
        ("student=3", "student"),
        ("student.steps=0", "student.steps"),
        ("student.steps=four", "student.steps"),
        ("student.timestep_shift=0", "student.timestep_shift"),
        ("student.sigmas=[1.2, 1, 0.5, 0.2]", "student.sigmas.0"),
        ("student.sigmas=[1, 0.5, 0.2, 0]", "student.sigmas.3"),
        ("training.optimizer.lr=0", "training.optimizer.lr"),
        ("training.fake_score.optimizer.betas=[0, 1]", "training.fake_score.optimizer.betas.1"),
        ("training.ema_decay=1", "training.ema_decay"),
        ("training.max_grad_norm=0", "training.max_grad_norm"),
        ("training.precision=fp16", "training.precision"),
        ("training.base_precision=int4", "training.base_precision"),
        ("teacher_defaults.quantized=nf4", "teacher_defaults.quantized"),
        ("runtime.num_workers=0", "runtime.num_workers"),
        ("teacher_defaults.replicas=0", "teacher_defaults.replicas"),
        ("teacher_defaults.replicas={min: 0, max: 2}", "teacher_defaults.replicas.min"),
        ("teachers.0.replicas=many", "teachers.0.replicas"),
        ("runtime.zero_stage=4", "runtime.zero_stage"),
        ("runtime.micro_batch_size=true", "runtime.micro_batch_size"),
        ("runtime.gpu=1", "runtime.gpu"),
    ],
)
def test_value_out_of_range_names_field_value_and_what_is_allowed(override, field):
    message = refusal(override)
    assert message.startswith(f"{field}: value ")
    assert " allowed: " in message
    assert f"set {field} to such a value" in message


@pytest.mark.parametrize(
    ("overrides", "start", "cure"),
    [
        (["tasks={t2i: 0, edit: 0}"], "tasks: t2i and edit sum to 0", "set tasks.t2i=1"),
        (
            ["data.composition.t2i={landscape: 0, portrait: 0, text: 0}"],
            "data.composition.t2i: weights sum to 0",
            "set tasks.t2i=0",
        ),
        (["teachers=[]"], "teachers: the list is empty", "add {name: base, model: base}"),
        (["teachers.0.weight=0"], "teachers: λ sums to 0 at rung 1", "correct teachers.0.weight"),
        (
            [f"teachers=[{{name: base, weight: 0.6}}, {TEACHER}]"],
            "teachers: λ sums to 1.1 at rung 1, progress 0 to 1, t2i landscape",
            "correct teachers.1.weight",
        ),
        (
            ["teachers=step-wise-by-rung", "teachers.1.weight.1.weight=0.4"],
            "teachers: λ sums to 0.9 at rung 3, progress 0 to 1, t2i text",
            "correct teachers.1.weight",
        ),
        (
            ["teachers.0.weight=[{weight: 1, task: t2i}]"],
            "teachers.0.weight: no rule applies at rung 1, progress 0 to 1, edit scene",
            "end the list with {weight: 0.0}",
        ),
        (
            ["teachers.0.weight=[{weight: 1, progress: [0.2, 1]}]"],
            "teachers.0.weight: no rule applies at rung 1, progress 0 to 0.2",
            "another rule for all",
        ),
        (
            ["teachers.0.weight=[{weight: 1, rungs: [5]}, {weight: 1}]"],
            "teachers.0.weight.0.rungs: 5 with 4 rungs",
            "correct it",
        ),
        (
            ["teachers.0.weight=[{weight: 1, progress: [0.5, 0.5]}, {weight: 1}]"],
            "teachers.0.weight.0.progress: [0.5, 0.5]",
            "correct it",
        ),
        (
            ["teachers.0.weight=[{weight: 1, category: styl}, {weight: 1}]"],
            "teachers.0.weight.0.category: unknown category 'styl'; did you mean style?",
            "rename",
        ),
        (
            ["teachers=[{name: base, weight: 0.5}, {name: base, weight: 0.5}]"],
            "teachers.1.name: 'base' is teachers.0's too",
            "rename it",
        ),
        (["teachers=base"], "teachers: unknown preset 'base'; did you mean base-only?", "rename"),
        (
            ["data.filter.length=[9, 3]"],
            "data.filter.length: [9, 3] is an empty range",
            "set data.filter.length=[3, 9]",
        ),
        (["data.filter.subsets=[]"], "data.filter.subsets: the list is empty", "or null"),
        (
            ["data.filter.min_score=3.0"],
            "data.filter.min_score: 3.0 with data.source miniature",
            "set data.filter.min_score=null",
        ),
        (
            ["data.source={t2i: a.jsonl, edit: b.jsonl}", "data.filter.min_score=3.0"],
            "data.filter.min_score: 3.0 without a score column",
            "name that column",
        ),
        (
            ["data.source={t2i: a.jsonl}"],
            "data.source.edit: missing with tasks.edit 1",
            "set tasks.edit=0",
        ),
        (
            ["teacher_defaults.placement=in_process", "teachers.0.replicas=2"],
            "teachers.0.replicas: 2 with teacher_defaults.placement in_process",
            "set teachers.0.replicas=1",
        ),
        (
            ["teacher_defaults={placement: in_process, replicas: 2}"],
            "teacher_defaults.replicas: 2",
            "set teacher_defaults.replicas=1",
        ),
        (
            ["teacher_defaults={placement: in_process, replicas: {min: 1, max: 2}}"],
            "teacher_defaults.replicas: a range with teacher_defaults.placement in_process",
            "set teacher_defaults.replicas=1",
        ),
        (
            ["teachers.0.replicas={min: 3, max: 2}"],
            "teachers.0.replicas.min: 3 is above teachers.0.replicas.max 2",
            "set teachers.0.replicas.max=3",
        ),
        (
            ["student.sigmas=[1, 0.5, 0.75, 0.25]"],
            "student.sigmas: [1.0, 0.5, 0.75, 0.25] do not decrease",
            "set student.sigmas=[1.0, 0.75, 0.5, 0.25]",
        ),
        (["student.sigmas=[1, 0.5, 0.5, 0.25]"], "student.sigmas: ", "[1.0, 0.5, 0.25]"),
        (["student.sigmas=[1, 0.5]"], "student.steps: 4 with 2", "set student.steps=2"),
        (["student.sigmas=[]"], "student.sigmas: the list is empty", "student.sigmas=null"),
        (["objective.t_min=0.99"], "objective.t_min: 0.99", "set objective.t_min="),
        (
            ["runtime.zero_stage=3", "runtime.num_workers=1"],
            "runtime.zero_stage: 3 with 1 worker",
            "set runtime.zero_stage=2 or runtime.num_workers=2",
        ),
        (
            ["runtime.offload=optimizer"],
            "runtime.offload: optimizer with runtime.gpu false",
            "set runtime.offload=none",
        ),
        (
            ["runtime.offload=optimizer", "student.weights=lora"],
            "runtime.offload: optimizer with student.weights lora",
            "set runtime.offload=none",
        ),
        (
            ["runtime.offload=optimizer", "runtime.gpu=true", "runtime.zero_stage=1"],
            "runtime.offload: optimizer with runtime.zero_stage 1",
            "set runtime.zero_stage=2 or runtime.offload=none",
        ),
        (
            ["runtime.global_batch_size=64"],
            "runtime.global_batch_size: 64",
            "set runtime.gradient_accumulation_steps=2",
        ),
        (
            ["runtime.global_batch_size=30"],
            "runtime.global_batch_size: 30",
            "set runtime.global_batch_size=32",
        ),
        (
            ["runtime.num_workers={min: 3, max: 2}"],
            "runtime.num_workers.min: 3",
            "set runtime.num_workers.max=3",
        ),
        (
            ["runtime.storage.endpoint=http://127.0.0.1:9000"],
            "runtime.storage.endpoint: given with url embedded",
            "set runtime.storage.url=s3://BUCKET",
        ),
    ],
)
def test_contradictions_are_refused_with_a_cure(overrides, start, cure):
    message = refusal(*overrides)
    assert message.startswith(start)
    assert " allowed: " in message
    assert cure in message


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("family=other", "family: unknown model family 'other'; allowed: qwen-image-2.1; "),
        ("data.source=./my-prompts", "data.source: unknown source './my-prompts'; allowed: "),
        ("data.source=minature", "data.source: unknown source 'minature'; did you mean miniature?"),
        ("evaluation.benchmark=miniatur", "evaluation.benchmark: unknown benchmark 'miniatur'; "),
        ("evaluation.judge=exakt", "evaluation.judge: unknown judge 'exakt'; did you mean exact? "),
        ("objective.name=gan", "objective.name: unknown objective 'gan'; allowed: dmd; "),
    ],
)
def test_names_that_nothing_registers_are_refused_with_the_known_ones(override, start):
    message = refusal(override)
    assert message.startswith(start)
    assert "allowed: " in message and message.endswith("rename or remove it")


def test_a_range_of_workers_needs_checkpoints_and_room():
    ranged = "runtime.num_workers={min: 2, max: 4}"
    runtime = load_recipe("miniature", [ranged]).runtime
    assert (runtime.min_workers, runtime.max_workers) == (2, 4)
    assert "runtime.checkpoint_every: 0 with a range" in refusal(
        ranged, "runtime.checkpoint_every=0"
    )
    assert "allowed: min <= max" in refusal("runtime.num_workers={min: 4, max: 2}")


@pytest.mark.parametrize("url", ["s3://key:hunter2@bucket/x", "https://hunter2.example", "s3://"])
def test_storage_url_is_never_repeated(url):
    message = refusal(f"runtime.storage.url={url}")
    assert message.startswith("runtime.storage.url: ")
    assert "hunter2" not in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_storage_endpoint_is_never_repeated():
    message = refusal(
        "runtime.storage={url: s3://bucket, endpoint: 'http://key:hunter2@127.0.0.1:9000'}"
    )
    assert message.startswith("runtime.storage.endpoint: ")
    assert "hunter2" not in message


def test_an_unknown_category_is_named_with_the_nearest_known_one():
    message = refusal("data.composition.t2i.landscap=1")
    assert message.startswith("data.composition.t2i.landscap: unknown category 'landscap'; ")
    assert "did you mean landscape? allowed: landscape, portrait, text" in message


def test_several_problems_are_one_line_with_a_count():
    assert refusal("seed=-1", "student.steps=0").endswith("(and 1 more problem)")
    assert refusal("seed=-1", "student.steps=0", "tasks.t2i=-1").endswith("(and 2 more problems)")


def test_missing_key_is_named():
    raw = load_recipe("miniature").model_dump(mode="json")
    del raw["training"]["iterations"]
    with pytest.raises(UserError, match="^training.iterations: missing; allowed: iterations, one"):
        parse_recipe(raw)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("student.steps", "not KEY=VALUE"),
        ("=4", "not KEY=VALUE"),
        ("student.steps.x=4", "student.steps is the value 4, not a section"),
        ("teachers.1.guidance_scale=3", "teachers has 1 items"),
        ("teachers.first.guidance_scale=3", "teachers has 1 items"),
        ("name=[", "not valid YAML"),
    ],
)
def test_overrides_that_cannot_be_applied(override, says):
    message = refusal(override)
    assert message.startswith("--set")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nname: b\n", "in line 1: key 'name' is given twice"),
        ("name: [", "not valid YAML"),
        ("- a\n", "not a mapping"),
        ("", "not a mapping"),
        ("name: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_files_that_are_not_recipes(tmp_path, text, says):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"^recipe: .*bad\.yaml") as error:
        load_recipe(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_presets(tmp_path):
    with pytest.raises(
        UserError, match=r"No such file.*\(miniature, .*qwen-image-2\.1-full, q.*\)"
    ):
        load_recipe(tmp_path / "none.yaml")

"""Old keys and values of a recipe are refused with their new names, wherever they are given."""

import pytest
import yaml

from flash_ray.errors import UserError
from flash_ray.recipe import dump_yaml, load_recipe, parse_recipe
from flash_ray.recipe.load import override, presets
from flash_ray.recipe.messages import RENAMED_KEYS, RENAMED_PRESETS, RENAMED_VALUES

OLD_FILE = """
name: old
backbone: qwen-image-2.1
base: miniature
data:
  source: miniature
  composition: {t2i: {text: 1}, edit: {style: 1}}
  prompts: 64
  cap: 10
  size: [64, 64]
tasks: {t2i: 1, edit: 1}
teachers:
  - {name: base, model: base, guidance: 2.0, rescale: false}
teaching: {guidance: 2.5, rescale: true, placement: actors, replicas: 1}
objective: {name: dmd, shift: 1.0}
student: {steps: 4, shift: 2.0}
optimisation:
  updates: 6
  student: {lr: 5.0e-5}
  fake: {lr: 1.0e-4}
  fake_updates: 2
  ema: 0.95
  clip: 1.0
  precision: fp32
runtime: {workers: 2, micro_batch: 8, accumulation: 1, global_batch: 16, bench_every: 3,
          recompute: true}
"""


def numbered(path: str) -> str:
    return path.replace("*", "0")


def refused(raw: object) -> str:
    with pytest.raises(UserError) as error:
        parse_recipe(raw)
    return str(error.value)


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_an_old_key_is_refused_with_its_new_name(old, new):
    old, new = numbered(old), numbered(new)
    with pytest.raises(UserError) as error:
        load_recipe("miniature", [f"{old}=1"])
    assert str(error.value) == f"{old}: renamed; now {new}; write that"


@pytest.mark.parametrize("new", sorted(set(RENAMED_KEYS.values())))
def test_a_new_name_is_a_key_of_the_recipe(new):
    node = load_recipe("miniature").model_dump(mode="json")
    for part in numbered(new).split("."):
        node = node[int(part)] if part.isdecimal() else node[part]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("optimisation.student.lr", "training.optimizer.lr"),
        ("optimisation.fake.betas", "training.fake_score.optimizer.betas"),
        ("optimisation.precision", "training.precision"),
        ("runtime.workers.min", "runtime.num_workers.min"),
        ("teaching.replicas.max", "teacher_defaults.replicas.max"),
        ("teachers.0.guidance", "teachers.0.guidance_scale"),
    ],
)
def test_below_an_old_key_the_new_one_is_still_named(old, new):
    raw = load_recipe("miniature").model_dump(mode="json")
    message = refused(override(raw, f"{old}=1"))
    section, new_section = old.rpartition(".")[0], new.rpartition(".")[0]
    assert message in (
        f"{old}: renamed; now {new}; write that",
        f"{section}: renamed; now {new_section}; write that",
    )


def test_a_file_of_old_keys_says_how_many_there_are():
    message = refused(yaml.safe_load(OLD_FILE))
    assert message.startswith("backbone: renamed; now family; write that (and ")
    whole_sections = {"teaching", "optimisation"}  # named by what is in them
    other_files = {"teacher_defaults.guidance", "teacher_defaults.rescale"}
    unchanged_below = {"teaching.placement", "teaching.replicas", "optimisation.precision"}
    old_keys = (RENAMED_KEYS.keys() - whole_sections - other_files) | unchanged_below
    assert message.endswith(f"(and {len(old_keys) - 1} more problems)")


def test_an_old_key_comes_before_what_is_missing_for_it():
    raw = yaml.safe_load(dump_yaml(load_recipe("miniature")))
    raw["optimisation"] = {"updates": raw.pop("training")["iterations"]}
    assert refused(raw) == "optimisation.updates: renamed; now training.iterations; write that"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [(path, old, new) for path, names in RENAMED_VALUES.items() for old, new in names.items()],
)
def test_an_old_value_is_refused_with_its_new_name(path, old, new):
    path = numbered(path)
    with pytest.raises(UserError) as error:
        load_recipe("miniature", [f"{path}={old}"])
    assert str(error.value) == f"{path}: {old!r} was renamed; allowed: {new!r}; write that"
    assert load_recipe("miniature", ["teachers=specialized-only"]).teachers[0].model


@pytest.mark.parametrize(("old", "new"), RENAMED_PRESETS.items())
def test_an_old_preset_is_refused_with_its_new_name(old, new):
    with pytest.raises(UserError) as error:
        load_recipe(old)
    assert str(error.value) == f"recipe: preset {old!r}: renamed; now {new!r}; write that"
    assert new in presets() and old not in presets()

"""LoRAs in S3: pinned to a version, the same in every process, or refused in a line."""

import json
import shutil

import pytest
import ray
import torch

from flash_ray.errors import UserError
from flash_ray.models.loading import load_model
from flash_ray.models.lora_source import (
    LORA,
    SETTINGS,
    is_lora,
    lora_digest,
    lora_file,
    with_pins,
)
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.protocol import groups
from flash_ray.teachers.scorer import fingerprint, group_fingerprint
from flash_ray.teachers.validation import validate_teachers
from tests.helpers.distilling import build_lora, small_recipe


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    return build_lora(base, tmp_path_factory.mktemp("lora") / "lora")


@pytest.fixture(autouse=True)
def node(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_RAY_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


def recipe_with(base, *models):
    teachers = [{"name": "base", "model": "base", "weight": 0.5}]
    teachers += [
        {"name": f"t{n}", "model": model, "weight": 0.5 / len(models)}
        for n, model in enumerate(models)
    ]
    return small_recipe(
        base, "runtime.storage.url=s3://elsewhere", f"teachers={json.dumps(teachers)}"
    )


def test_an_actor_reads_what_the_driver_pinned(base, store, cluster, lora):
    store.put_file(lora / LORA, f"styles/one/{LORA}")
    recipe = recipe_with(base, store.url("styles/one"), store.url(f"styles/one/{LORA}"))
    validate_teachers(recipe)
    pinned = with_pins(recipe)
    one, other = (teacher.model for teacher in pinned.teachers[1:])
    assert one == other and one.startswith(store.url(f"styles/one/{LORA}@"))
    assert with_pins(pinned) == pinned
    assert lora_digest(one) == lora_digest(str(lora))
    (group,) = groups(pinned)
    here = load_model(pinned.base, torch.float32, "cpu", encoders=False).transformer
    actor = start_teacher(pinned, group, max_restarts=0)
    there = ray.get(actor.fingerprint.remote())
    ray.kill(actor)
    assert there == group_fingerprint(pinned, group, fingerprint(here))
    assert there.endswith("+".join([lora_digest(str(lora))] * 2))


def test_what_was_replaced_is_not_taken_for_what_was_pinned(base, store, lora, node):
    store.put_file(lora / LORA, "styles/two/mine.safetensors")
    (pinned,) = (
        t.model for t in with_pins(recipe_with(base, store.url("styles/two"))).teachers[1:]
    )
    plain = lora_digest(pinned)
    store.put_bytes(f"styles/two/{SETTINGS}", json.dumps({"r": 2, "lora_alpha": 1}).encode())
    assert lora_digest(pinned) == plain  # this node has it
    shutil.rmtree(node)
    with pytest.raises(UserError, match="^teachers: s3://.* is not, or no longer, what @"):
        lora_file(pinned)
    file = lora_file(store.url("styles/two/mine.safetensors"))
    assert json.loads(file.with_name(SETTINGS).read_text()) == {"r": 2, "lora_alpha": 1}


def test_what_is_no_lora_there_is_a_line(store, base, lora):
    for name in ("a", "b"):
        store.put_file(lora / LORA, f"styles/both/{name}.safetensors")
    store.put_bytes("styles/pickles/lora.bin", b"x")
    says = {
        "styles/none": "no LoRA at s3://",
        "styles/both": "holds 2 files of weights .a.safetensors, b.safetensors",
        "styles/both/c.safetensors": "no LoRA at s3://",
        "styles/pickles": "lora.bin is a pickle",
        "styles/pickles/lora.bin": "lora.bin is a pickle",
    }
    for key, words in says.items():
        assert is_lora(store.url(key))
        with pytest.raises(UserError, match=f"^teachers.1.model: .*{words}"):
            validate_teachers(recipe_with(base, store.url(key)))
    with pytest.raises(UserError, match="^teachers.1.model: .*no-such-bucket.* does not exist"):
        validate_teachers(recipe_with(base, "s3://no-such-bucket/style"))


def test_a_bucket_beside_the_embedded_store_is_refused(base):
    teachers = json.dumps([{"name": "it", "model": "s3://styles/one"}])
    with pytest.raises(UserError, match="^teachers.0.model: a bucket with .* embedded"):
        small_recipe(base, "runtime.storage.url=embedded", f"teachers={teachers}")

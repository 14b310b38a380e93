"""LoRAs by hub id: one name, one file and version, fetched by the hub's own client or refused."""

import json

import pytest

from flash_ray.errors import UserError
from flash_ray.models.lora_source import (
    LORA,
    SETTINGS,
    is_lora,
    lora_digest,
    lora_file,
    with_pins,
    without_pins,
)
from flash_ray.recipe import load_recipe
from tests.helpers.hub_server import hub_server, seen_elsewhere
from tests.helpers.payload import Payload

# What another process makes of the names that it is given.
LOOK = """
import json, sys
from flash_ray.errors import UserError
from flash_ray.models.lora_source import is_lora, lora_digest, lora_file, with_pins
from flash_ray.recipe import load_recipe
for name in sys.argv[1:]:
    teachers = json.dumps([{"name": "it", "model": name}])
    try:
        pinned = with_pins(load_recipe("miniature", [f"teachers={teachers}"]))
        model = pinned.teachers[0].model
        lora = is_lora(model)
        print(json.dumps([model, lora, lora and [str(lora_file(model)), lora_digest(model)]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture
def look(hub, tmp_path):
    def of(*names, **variables):
        answers = seen_elsewhere(hub, tmp_path / "hf", LOOK, names, variables)
        return answers[0] if len(names) == 1 else answers

    return of


@pytest.fixture
def weights(lora_folder):
    return (lora_folder / LORA).read_bytes()


def test_a_hub_id_is_pinned_to_a_file_and_a_commit(hub, look, weights, lora_folder):
    settings = json.dumps({"r": 2, "lora_alpha": 1}).encode()
    first = hub.push("ann/style", {"mine.safetensors": weights, "README.md": b"mine"})
    model, lora, (file, digest) = look("ann/style")
    assert (model, lora) == (f"ann/style/mine.safetensors@{first}", True)
    assert digest == lora_digest(str(lora_folder))
    with open(file, "rb") as fetched:
        assert fetched.read() == weights

    second = hub.push("ann/style", {"mine.safetensors": weights, SETTINGS: settings})
    hub.asked.clear()
    old, new, named = look(model, "ann/style", f"ann/style@{first}")
    assert old == [model, True, [file, digest]] == named
    assert new[0] == f"ann/style/mine.safetensors@{second}"
    assert new[2][1] != digest  # the settings beside it count


def test_what_is_pinned_and_fetched_is_read_without_a_network(hub, look, weights):
    hub.push("ann/style", {LORA: weights})
    model, lora, (file, digest) = look("ann/style")
    hub.asked.clear()
    assert look(model, HF_HUB_OFFLINE="1") == [model, True, [file, digest]]
    assert look("ann/style", HF_ENDPOINT="http://127.0.0.1:9") == [model, True, [file, digest]]
    assert hub.asked == []


def test_a_pipeline_on_the_hub_is_pinned_to_a_commit(hub, look, weights):
    commit = hub.push(
        "ann/pipeline", {"model_index.json": b"{}", "transformer/x.safetensors": weights}
    )
    assert look("ann/pipeline") == [f"ann/pipeline@{commit}", False, False]


def test_what_cannot_be_had_is_a_line(hub, look, weights, tmp_path):
    hub.push("ann/two", {"a.safetensors": weights, "b.safetensors": weights})
    hub.push("ann/pickles", {"pytorch_lora_weights.bin": b"x"})
    said = look("ann/none", "ann/two", "ann/pickles", "ann/two@v9", "ann/two/c.safetensors@main")
    assert "neither a LoRA's file or folder nor a hub model that can be reached" in said[0]
    assert "ann/two holds 2 files of weights (a.safetensors, b.safetensors)" in said[1]
    assert "pytorch_lora_weights.bin is a pickle, which may run its author's code" in said[2]
    assert "ann/two@v9" in said[3]
    assert "has no c.safetensors at" in said[4]
    assert all("\n" not in line and line.startswith("teachers: ") for line in said)
    one = look("ann/two/a.safetensors@main")
    assert one[0].startswith("ann/two/a.safetensors@") and one[1]
    assert "it does not answer" in look("ann/other", HF_ENDPOINT="http://127.0.0.1:9")


def test_a_pickle_is_refused_and_not_read(tmp_path):
    import pickle

    touched = tmp_path / "touched"
    for name in ("lora.pt", "lora.bin", "lora.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(touched)))
        with pytest.raises(UserError, match="is a pickle, .*allowed: .safetensors"):
            is_lora(str(tmp_path / name))
    with pytest.raises(UserError, match="lora.bin is a pickle"):
        lora_file(str(tmp_path))
    assert not touched.exists()


def test_a_trial_is_the_same_however_its_lora_is_pinned():
    pins = {
        f"ann/style/mine.safetensors@{'0' * 40}": "ann/style",
        f"s3://loras/mine.safetensors@{'0' * 16}": "s3://loras/mine.safetensors",
        "base": "base",
    }
    for pinned, plain in pins.items():
        changes = [] if plain == "base" else ["runtime.storage.url=s3://runs"]
        given = load_recipe(
            "miniature", [f'teachers=[{{"name": "it", "model": "{pinned}"}}]', *changes]
        )
        assert without_pins(given).teachers[0].model == plain
        assert with_pins(given) == given

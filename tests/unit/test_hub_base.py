"""A base on the hub: every process of a run reads the commit that was the newest at its start."""

import json

import pytest

from flash_ray.models.loading import is_same_base, on_hub, pinned, resolve_base
from tests.helpers.foreign import save_pipeline
from tests.helpers.hub_server import hub_server, seen_elsewhere

# What another process makes of a base.
LOOK = """
import json, sys
import torch
from flash_ray.errors import UserError
from flash_ray.models.loading import load_model, own_sigmas, base_digest
from flash_ray.models.lora_source import with_pins
from flash_ray.recipe import load_recipe
for base in sys.argv[1:]:
    try:
        teachers = json.dumps([{"name": "it", "model": base}])
        recipe = with_pins(load_recipe("miniature", [f"base={base}", f"teachers={teachers}"]))
        assert recipe.teachers[0].model == recipe.base
        model = load_model(recipe.base, torch.float32, "cpu", encoders=True, transformer=False)
        length = model.encode(["a red house"], None, (64, 64)).positive.embeds_BLD.shape[1]
        print(json.dumps([recipe.base, own_sigmas(base), base_digest(base), length]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture
def look(hub, tmp_path):
    def of(*bases, **variables):
        return seen_elsewhere(hub, tmp_path / "hf", LOOK, bases, variables)

    return of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a pipeline whose parts are all transformers' and diffusers' own."""
    folder = save_pipeline(tmp_path_factory.mktemp("theirs") / "pipeline")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_base_on_the_hub_is_pinned_to_a_commit(hub, look, files):
    first = hub.push("ann/base", files)
    hub.asked.clear()
    (before,) = look("ann/base")
    base, sigmas, digest, _ = before
    assert base == f"ann/base@{first}"
    fetched = [line for line in hub.asked if ".safetensors" in line]
    assert any("/text_encoder/" in line for line in fetched)
    assert not any("/transformer/" in line for line in fetched)  # it encodes nothing

    index = json.loads(files["model_index.json"])
    changed = json.dumps({**index, "sample_sigmas": [1.0, 0.5]}).encode()
    second = hub.push("ann/base", {**files, "model_index.json": changed})
    hub.cuts_off.add("ann/cut")
    same, new, none, cut = look(base, "ann/base", "ann/base@v9", "ann/cut")
    assert same == before
    assert new[:2] == [f"ann/base@{second}", [1.0, 0.5]] and sigmas != [1.0, 0.5]
    assert new[2] != digest
    assert "ann/base@v9" in none
    assert "a hub model that can be reached (RemoteProtocolError" in cut

    hub.asked.clear()
    assert look(base, HF_HUB_OFFLINE="1") == [before]
    assert hub.asked == []


def test_a_folder_has_no_revision(miniature_folder, tmp_path):
    assert on_hub(str(miniature_folder)) == (str(miniature_folder), None)
    assert pinned(str(miniature_folder)) == str(miniature_folder)
    assert pinned("miniature") == "miniature"
    assert resolve_base("ann/base@refs/pr/1") == "ann/base@refs/pr/1"
    assert on_hub("ann/base@refs/pr/1") == ("ann/base", "refs/pr/1")
    assert is_same_base("ann/base@one", "ann/base") and not is_same_base("ann/base", "ann/other")

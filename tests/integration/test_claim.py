"""A run's name: taken while it works, kept as long as there is a checkpoint, free again else."""

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.storage.manifest import open_run, run_exists
from flash_ray.trainer.claim import claimed_run, validate_claim

CHECKPOINT = "runs/{}/train/iteration-000002/manifest-00000.json"


class BadData(Exception):
    """What ends the run of a test."""


def fails(recipe, store, name, resume=False, keeps=False):
    with pytest.raises(BadData), claimed_run(recipe, store, name, resume):
        assert run_exists(store, name)
        with pytest.raises(UserError, match=f"run '{name}' exists in .*--resume"):
            validate_claim(recipe, store, name, resume=False)
        store.put_bytes(f"runs/{name}/train/snapshot.json", b"{}")
        if keeps:
            store.put_bytes(CHECKPOINT.format(name), b"{}")
        raise BadData


def test_a_run_that_failed_on_its_data_does_not_block_its_name(store):
    recipe = load_recipe("miniature")
    fails(recipe, store, "fresh")
    assert not list(store.list("runs/fresh/"))
    fails(load_recipe("miniature", ["data.num_cases=9"]), store, "fresh")


def test_a_run_with_a_checkpoint_keeps_its_name_and_its_recipe(store):
    recipe, other = load_recipe("miniature"), load_recipe("miniature", ["data.num_cases=9"])
    fails(recipe, store, "kept", keeps=True)
    assert run_exists(store, "kept")
    for resume, says in ((False, "run 'kept' exists"), (True, "--resume: data.num_cases: 9, but")):
        with pytest.raises(UserError, match=says):
            validate_claim(other, store, "kept", resume)
        with pytest.raises(UserError, match=says), claimed_run(other, store, "kept", resume):
            pytest.fail("the run has begun")
    more = load_recipe("miniature", ["training.iterations=5000", "runtime.checkpoint_every=9"])
    with claimed_run(more, store, "kept", resume=True):
        assert open_run(store, "kept").recipe_digest == more.digest
    with pytest.raises(UserError, match="--resume: training.iterations: .* with 5000"):
        validate_claim(recipe, store, "kept", resume=True)


def test_a_run_killed_before_its_first_checkpoint_is_resumed_with_any_recipe(store):
    recipe, other = load_recipe("miniature"), load_recipe("miniature", ["data.num_cases=9"])
    with claimed_run(recipe, store, "killed", resume=False):
        validate_claim(other, store, "killed", resume=True)
        with claimed_run(other, store, "killed", resume=True):
            assert open_run(store, "killed").recipe_digest == other.digest

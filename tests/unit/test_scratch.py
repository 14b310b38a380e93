"""Checkpoints on their way: the folder that a recipe names, and whether they fit there."""

import tempfile
from types import SimpleNamespace

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.trainer.scratch import new_folder, remove_folders, use_scratch, validate_room
from tests.helpers.storage import MemoryStore

QWEN = load_recipe("qwen-image-2.1-full")


def test_temporary_files_go_where_the_recipe_says(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    use_scratch(load_recipe("miniature"))
    assert tempfile.gettempdir() != str(tmp_path / "new")
    use_scratch(load_recipe("miniature", [f"runtime.scratch={tmp_path / 'new'}"]))
    with tempfile.TemporaryDirectory() as name:
        assert name.startswith(str(tmp_path / "new"))


def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "file").touch()
    recipe = load_recipe("miniature", [f"runtime.scratch={tmp_path}/file/there"])
    with pytest.raises(UserError, match=r"runtime\.scratch: .*file/there cannot be made"):
        use_scratch(recipe)


@pytest.mark.parametrize(
    "recipe, here, free, fits",
    [
        (QWEN, 8, 143e9, True),  # 7.115e9 weights of 20 bytes are 142.3 GB
        (QWEN, 8, 142e9, False),
        (QWEN, 4, 72e9, True),  # a node with half of the workers
        (load_recipe("qwen-image-2.1-lora"), 8, 5e9, True),
        (load_recipe("qwen-image-2.1-full", ["base=somebody/else"]), 8, 1e9, True),  # nobody knows
    ],
)
def test_a_checkpoint_that_does_not_fit_is_known_before_the_run(
    monkeypatch, recipe, here, free, fits
):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    if fits:
        validate_room(recipe, 8, here)
    else:
        with pytest.raises(UserError, match=r"has 142\.0 GB free .* takes 142\.3 there"):
            validate_room(recipe, 8, here)


def test_what_a_killed_worker_has_left_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store, other = MemoryStore("bucket"), MemoryStore("other")
    kept = [made(other, "run"), made(store, "run-2")]
    for _ in range(2):
        (made(store, "run") / "part").write_text("weights")
    remove_folders(store, "run")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def made(store, run_name):
    with new_folder(store, run_name) as folder:
        return folder


def test_a_part_that_is_not_whole_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No space"):
        with new_folder(MemoryStore("bucket"), "run") as folder:
            (folder / "part").write_text("weights")
            raise OSError("No space left on device")
    assert not list(tmp_path.iterdir())

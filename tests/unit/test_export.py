"""Students leave as folders and hub repositories that plain diffusers loads, with a card."""

import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants

from flash_ray.errors import UserError
from flash_ray.evaluation.sample import student_sampler
from flash_ray.models.loading import load_model
from flash_ray.models.sampling import sample
from flash_ray.recipe import load_recipe
from flash_ray.storage.scores import Baseline, GapClosed, PublishedScores
from flash_ray.storage.students import publish_student, put_samples
from flash_ray.workflows import export as module
from flash_ray.workflows.export import export
from tests.helpers.hub_writes import TOKEN, Hub, hub_server
from tests.helpers.small import build_base
from tests.helpers.storage import MemoryStore

CARD = "---\nlicense: apache-2.0\n---\n\nA base.\n"
SCORES = PublishedScores(
    benchmark="mine",
    digest="0123456789abcdef",
    judge="exact",
    cases_per_category=4,
    tasks={"t2i": 4.25, "edit": 3.5},
    intervals={"t2i": (4.0, 4.5)},
    baselines={
        "teacher": Baseline(nfe=80, tasks={"t2i": 4.5, "edit": 4.0}),
        "untrained": Baseline(nfe=4, tasks={"t2i": 3.5, "edit": 4.0}),
    },
    gap_closed={"t2i": GapClosed(share=0.75, interval=(0.5, 1.0))},
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved pipeline whose scheduler shifts, with a card."""
    folder = build_base(tmp_path_factory.mktemp("base") / "pipeline")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"shift": 1.0', '"shift": 3.0'))
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def published(base, tmp_path, monkeypatch):
    """The store of a student named `mine`, open to the command."""
    store = MemoryStore("bucket", "", None)
    model = load_model(str(base), torch.float32, "cpu", encoders=False)
    model.save_student(model.transformer, tmp_path / "student")
    recipe = load_recipe("miniature", [f"base={base}", "training.precision=fp32"])
    publish_student(store, "mine", tmp_path / "student", recipe, SCORES)

    @contextmanager
    def opened(address):
        yield store

    monkeypatch.setattr(module, "open_store", opened)
    return store


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the older protocol
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def test_a_card_shows_the_students_contact_sheet_if_there_is_one(published, tmp_path):
    export("mine", tmp_path / "before", None, None, force=False)
    put_samples(published, "mine", b"a PNG")
    export("mine", tmp_path / "after", None, None, force=False)
    assert (tmp_path / "after" / "samples.png").read_bytes() == b"a PNG"
    cards = [(tmp_path / each / "README.md").read_text() for each in ("before", "after")]
    shown = [len(re.findall(r"!\[.+\]\(samples.png\)", text)) for text in cards]
    assert shown == [0, 1] and not (tmp_path / "before" / "samples.png").exists()


def test_the_cards_snippet_draws_the_students_pictures(published, base, tmp_path):
    out = tmp_path / "out"
    assert export("mine", out, None, None, force=False) == str(out)
    names: dict = {}
    code = snippet((out / "README.md").read_text())
    drawn = "output_resolution=64, latents=noise, output_type='np', sigmas="
    assert len(code.splitlines()) <= 11
    noise = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))
    exec(code.replace("sigmas=", drawn), names | {"noise": noise}, names)
    model = load_model(str(base), torch.float32, "cpu", encoders=True)
    conditions = model.encode(["a red house under a blue sky"], None, (64, 64))
    recipe = load_recipe(str(out / "recipe.yaml"))
    sampler = student_sampler(recipe.student.rungs)
    x = sample(model, model.transformer, conditions, noise, sampler)
    ours = model.to_images(x, conditions.layout)[0].astype(float)
    assert abs(ours - names["image"][..., :3] * 255).max() <= 1
    assert np.ptp(ours) > 20


def test_the_card_has_what_the_hub_reads(published, base, tmp_path):
    export("mine", tmp_path / "out", None, None, force=False)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data
    assert (data.base_model, data.library_name) == (str(base), "diffusers")
    assert (data.pipeline_tag, data.license) == ("text-to-image", "apache-2.0")
    results = {(r.task_type, r.dataset_name, r.metric_value) for r in data.eval_results}
    assert results == {("text-to-image", "mine", 4.25), ("image-to-image", "mine", 3.5)}
    rows = card.text[card.text.index("| | evaluations |") :].splitlines()[:6]
    assert rows == [
        "| | evaluations | text to image | editing |",
        "|---|--:|--:|--:|",
        "| teacher | 80 | 4.50 | 4.00 |",
        "| untrained | 4 | 3.50 | 4.00 |",
        "| student | 4 | 4.25 [4.00, 4.50] | 3.50 |",
        "| gap closed | | 75% [50%, 100%] | no gap |",
    ]
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["base"] == str(base)


def test_a_student_is_pushed_to_the_hub_whole(published, hub: Hub, tmp_path):
    for count in (1, 2):  # a repository that is there is written again
        address = export("mine", None, "owner/student", None, force=False)
        assert address == f"{hub.address}/owner/student/commit/{'0' * 40}"
        assert len(hub.messages) == count
    export("mine", tmp_path / "out", None, None, force=False)
    local = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    remote = hub.files["owner/student"]
    assert {*remote} == {*local} >= {"README.md", "config.json", "recipe.yaml", "model.json"}
    assert {name for name in local if local[name] != remote[name]} == {"README.md"}
    assert 'student, dtype = "owner/student", torch.float32' in remote["README.md"].decode()


def test_a_hub_that_does_not_know_the_login_is_one_line(published, hub: Hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="--push: owner/student: .*401.*; allowed") as caught:
        export("mine", None, "owner/student", None, force=False)
    assert "\n" not in str(caught.value) and "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "push", "says"),
    [
        (None, None, "DIR: missing, and --push too"),
        (None, "student", "--push: no name of a repository"),
        (None, "a/b/c", "--push: no name of a repository"),
        ("full", None, "DIR: .* holds something"),
    ],
)
def test_bad_input_is_refused_before_the_store_is_opened(tmp_path, folder, push, says):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=says):
        export("mine", tmp_path / folder if folder else None, push, "/nowhere", force=False)


def test_an_earlier_export_is_replaced_when_asked(published, tmp_path):
    out: Path = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    export("mine", out, None, None, force=True)
    assert (out / "README.md").is_file() and not (out / "old").exists()

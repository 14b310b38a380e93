"""A user's own pipeline, data, benchmark and judges, from the recipe to the gallery and a study."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from PIL import Image
from selenium.webdriver.support.ui import Select

from flash_ray.storage.embedded import embedded_store
from tests.helpers.chat_server import KEY, Answer, Asked, ChatServer, chat_server
from tests.helpers.commands import FLASH_RAY, user_environment
from tests.helpers.embedders import save_clip
from tests.helpers.endpoints import ServedStore, start_serving
from tests.helpers.foreign import save_benchmark, save_data, save_pipeline
from tests.helpers.gallery_page import Page, shoot

RECIPE = {
    "name": "mine",
    "base": "theirs",
    "data": {
        "source": {"t2i": "prompts.jsonl", "edit": "edits.jsonl"},
        "composition": {"t2i": {"animals": 1, "food": 1}, "edit": {"photos": 1}},
        "num_cases": 8,
        "resolution": [128, 160],
    },
    "tasks": {"t2i": 1, "edit": 1},
    "teachers": "base-only",
    "teacher_defaults": {"guidance_scale": 1.0, "placement": "in_process"},
    "objective": {"name": "dmd"},
    "student": {"steps": 4},
    "training": {
        "iterations": 4,
        "optimizer": {"lr": 1e-5},
        "fake_score": {"optimizer": {"lr": 1e-5}},
    },
    "evaluation": {
        "benchmark": {"t2i": "bench/bench.jsonl", "edit": "bench/bench.jsonl"},
        "judge": "clip:clip",
        "every": 2,
        "published_cases": 2,
    },
    "runtime": {"num_workers": 1, "micro_batch_size": 4, "checkpoint_every": 2},
}
STUDY = {
    "name": "shares",
    "recipe": "mine.yaml",
    "seeds": [0],
    "budget": {"iterations": 2},
    "cases": {"t2i": 2, "edit": 2},
    "arms": {"even": {}, "edits": {"tasks": {"t2i": 1, "edit": 3}}},
}
JUDGES = ("clip:clip", "ocr", "vlm:vlm.yaml", "vlm-pair:pair.yaml")
# What only the small world has: its name, its judge, its categories, its size.
STRANGE = re.compile(
    r"miniature|\bexact\b|landscape|portrait|enhancement|\b64\s?[x×]\s?64\b", re.IGNORECASE
)
Command = Callable[..., subprocess.CompletedProcess[str]]


def answer(asked: Asked, number: int) -> Answer:
    """Prefers the brighter of two pictures, and gives one picture 3."""
    if '"better"' not in asked.rubric:
        return Answer(json.dumps({"score": 3, "reason": "fair"}))
    first, second = (picture.mean() for picture in asked.pictures[-2:])
    return Answer(json.dumps({"better": "A" if first > second else "B", "reason": "brighter"}))


@pytest.fixture(scope="module")
def seer() -> Iterator[ChatServer]:
    with pytest.MonkeyPatch.context() as patch, chat_server() as running:
        patch.setenv("SEER_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        running.script = answer
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, seer: ChatServer) -> Iterator[ServedStore]:
    """A store, and in its folder all that a user brings."""
    folder = tmp_path_factory.mktemp("whole")
    save_pipeline(folder / "theirs")
    save_data(folder)
    save_benchmark(folder / "bench")
    save_clip(folder / "clip")
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "shares.yaml").write_text(yaml.safe_dump(STUDY))
    settings = {"base_url": seer.base_url, "model": "seer", "key_variable": "SEER_KEY"}
    settings |= {"max_requests": 200}
    (folder / "vlm.yaml").write_text(
        yaml.safe_dump({**settings, "rubrics": {"t2i": {"food": "Look at the steam."}}})
    )
    (folder / "pair.yaml").write_text(yaml.safe_dump({**settings, "reference": "teacher"}))
    with embedded_store(folder / "store") as store:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
        yield ServedStore(folder, store.url(), {name: os.environ[name] for name in names})


@pytest.fixture(scope="module")
def run(theirs: ServedStore) -> Command:
    """Runs a command to a good end, and sees that it says nothing of the small world."""

    def to_its_end(*words: str) -> str:
        ended = subprocess.run(
            [FLASH_RAY, *words],
            cwd=theirs.folder,
            env=user_environment(theirs.folder, COLUMNS="200", **theirs.variables),
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert not STRANGE.search(ended.stdout + ended.stderr), ended.stdout + ended.stderr
        return ended.stdout

    return to_its_end


@pytest.mark.slow
def test_a_users_pipeline_goes_the_whole_way(theirs, run, seer, browser, tmp_path):
    folder, store = theirs.folder, ("--store", theirs.url)
    assert run("recipe", "check", "mine.yaml").startswith("OK mine ")
    described = run("data", "describe", "mine.yaml", *store)
    assert "animals" in described and "food" in described and "photos" in described
    assert "bench, text to image: 0 of 12 prompts are training prompts too" in described
    described = run("benchmark", "describe", "bench/bench.jsonl", "--recipe", "mine.yaml")
    assert "128x192" in described and "photos" in described
    assert run("data", "encode", "mine.yaml", *store).startswith("16 cases; ")
    assert run("distill", "mine.yaml", *store) == "s3://flash-ray/students/mine\n"
    listed = run("models", *store)
    assert "bench, 2 cases a category, clip:clip (cosine" in " ".join(listed.split())
    _evaluate(folder, run, store, seer)
    _draw_plainly(folder, run, store)
    _serve(theirs, browser, tmp_path)
    _study(folder, run, store)


def _evaluate(folder: Path, run: Command, store: tuple[str, str], seer: ChatServer) -> None:
    """Both tasks by all judges, and ranks."""
    judges = [word for judge in JUDGES for word in ("--judge", judge)]
    for model in ("mine", "teacher"):
        recipe = [] if model == "mine" else ["--recipe", "mine.yaml"]
        words = ["evaluate", model, "--task", "t2i", *recipe, *judges, *store]
        run(*words, "--out", f"{model}.json")
        result = json.loads((folder / f"{model}.json").read_text())
        scored = {name: judged["scale"] for name, judged in result["judges"].items()}
        assert scored == {
            "clip:clip": "cosine similarity, -1 to 1",
            "ocr": "characters right, 0 to 1",
            "vlm:seer": "1 to 5",
            "vlm-pair:seer:teacher": "share of wins, 0 to 1, a tie is half a win",
        }
        assert all(len(judged["cases"]) == 12 for judged in result["judges"].values())
    assert result["judges"]["vlm-pair:seer:teacher"]["measures"]["tie"] == 1.0  # against itself
    assert any("Look at the steam." in asked.rubric for asked in seer.asked)
    ranked = run("rank", "mine.json", "teacher.json")
    assert "mean of judges, standardized" in " ".join(ranked.split())
    shown = run("evaluate", "mine", "--task", "edit", "--judge", "clip:clip", *store)
    assert "likeness" in shown and "photos" in shown


def _draw_plainly(folder: Path, run: Command, store: tuple[str, str]) -> None:
    """diffusers draws with the export what the endpoint of no flash_ray knows."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.models.transformers.transformer_qwenimage21 import (
        QwenImage21Transformer2DModel,
    )

    from flash_ray.models.processor import TextImageProcessor

    run("export", "mine", "exported", *store)
    card = (folder / "exported" / "README.md").read_text()
    assert "| gap closed |" in card or "untrained" in card
    assert not STRANGE.search(card)
    sigmas = json.loads(re.search(r"sigmas=(\[.*?\])", card)[1])
    pipeline = QwenImage21Pipeline.from_pretrained(
        folder / "theirs",
        transformer=QwenImage21Transformer2DModel.from_pretrained(folder / "exported"),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(
            folder / "exported", subfolder="scheduler"
        ),
        processor=TextImageProcessor.from_pretrained(folder / "theirs", subfolder="processor"),
    )
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline("a red fox", height=128, width=160, sigmas=sigmas, generator=generator)
    pixels = np.asarray(drawn.images[0].convert("RGB"))
    assert pixels.shape == (128, 160, 3) and np.ptp(pixels) > 20


def _serve(theirs: ServedStore, browser: object, tmp_path: Path) -> None:
    """The endpoints and the gallery speak of the user's benchmarks alone."""
    benchmarks = "benchmarks=[bench/bench.jsonl, {t2i: prompts.jsonl}]"
    served = start_serving(theirs, "mine.yaml", "--serving", benchmarks)
    try:
        page = Page(browser, served)
        page.sign_in()
        status, models = served.call("GET", "/v1/models")
        assert status == 200 and {model["id"] for model in models["data"]} == {"teacher", "mine"}
        status, me = served.call("GET", "/v1/me")
        assert me["scales"]["clip:clip"] == "cosine similarity, -1 to 1"
        body = {"model": "mine", "benchmark": "bench", "task": "edit", "cases": 1}
        status, started = served.call("POST", "/v1/evaluations", body)
        assert status == 202, started
        view = served.settled(started["id"])
        assert view["status"] == "succeeded", view
        (asked,) = view["result"]["answers"]
        assert asked["case"] == "photo-0" and asked["category"] == "photos"
        page.one("#evaluations-tab").click()
        page.wait(lambda: "clip:clip" in page.one("#evaluations").text)
        Select(page.one("#evaluation-benchmark")).select_by_value("prompts")
        assert not page.one("#evaluation-task").is_displayed()  # it has prompts alone
        page.one("#evaluate").click()
        work = "on prompts t2i, judged by clip:clip, 2 cases a category, seed 0"
        page.labelled(f"Open teacher {work}")
        text = page.one("body").text
        shoot(browser, tmp_path / "gallery.png")
        for said in (text, json.dumps([models, me, view])):
            assert not STRANGE.search(said), STRANGE.search(said)
        assert "animals" in json.dumps(served.call("GET", "/v1/benchmarks")[1])
    finally:
        served.stop()


def _study(folder: Path, run: Command, store: tuple[str, str]) -> None:
    """Two arms, judged by the recipe's benchmark and judge."""
    run("study", "run", "shares.yaml", "--out", "shares", *store)
    run("study", "report", "shares.yaml", "--out", "shares", "--to", "report")
    report = (folder / "report" / "report.md").read_text()
    assert "`clip:clip` (cosine similarity, -1 to 1)" in report
    assert "animals" in report and "photos" in report and not STRANGE.search(report)
    figures = list((folder / "report").rglob("*.png")) + list((folder / "report").rglob("*.webp"))
    for figure in figures:
        Image.open(figure).verify()

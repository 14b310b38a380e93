"""What TensorBoard, MLflow and Weights & Biases have of a run, read back with their own readers."""

import struct
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import wandb
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.recipe.load import parse_recipe
from flash_ray.telemetry import trackers
from flash_ray.telemetry.tracking import Tracking, tracked, validate_trackers
from tests.helpers.metrics import update_metrics
from tests.helpers.storage import MemoryStore

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
EVENTS = "runs/mine/tensorboard/"


@pytest.fixture
def store():
    return MemoryStore("bucket", "", None)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder of the command; nobody's key and no retries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    wandb.teardown()  # it reads the environment once a session


def recipe_with(tracking: str):
    return load_recipe("miniature", [f"tracking={tracking}"])


def run(recipe, store, iterations, lines=None, shown=()):
    """One session of the run `mine`: losses are a hundredth of the iteration."""
    with tracked(recipe, store, "mine", [].append if lines is None else lines.append) as tracking:
        for iteration in iterations:
            if iteration in shown:
                tracking.show(iteration, PICTURE)
            log(tracking, iteration)


def log(tracking: Tracking, iteration: int) -> None:
    metrics = update_metrics(iteration, student_loss=iteration / 100)
    tracking.log(iteration, replace(metrics, scores={"t2i": 3.5}).scalars())


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0})
    return events.Reload()


def losses(folder) -> list[tuple[int, float]]:
    return [(s.step, round(s.value, 6)) for s in read(folder).Scalars("student_loss")]


def test_every_number_of_the_record_is_told_by_its_path():
    scored = {"scores": {"edit": 4.0}, "categories": {"edit": {"style": 3.5}}}
    scalars = replace(update_metrics(3), **scored).scalars()
    assert scalars["scores/edit"] == 4.0 and scalars["categories/edit/style"] == 3.5
    assert scalars["tasks/t2i/student_loss"] == scalars["student_loss"] == 0.3
    assert scalars["stages/ema"] == 0.4 and scalars["diagnostics/x_rms"] == 0.7
    assert "iteration" not in scalars
    assert "scores/edit" not in update_metrics(3).scalars()


def test_tensorboard_reads_measures_pictures_and_recipe(here, store):
    recipe = recipe_with("{tensorboard: true}")
    run(recipe, store, range(1, 4), shown=[2])
    events = read(here / "tensorboard" / "mine")
    assert losses(here / "tensorboard" / "mine") == [(1, 0.01), (2, 0.02), (3, 0.03)]
    assert events.Scalars("scores/t2i")[0].value == 3.5
    (shown,) = events.Images("samples")
    assert (shown.step, shown.height, shown.width) == (2, 6, 4)
    (text,) = events.Tensors("recipe/text_summary")
    assert recipe.digest.encode() in text.tensor_proto.string_val[0]
    # The store has the same files.
    (file,) = (here / "tensorboard" / "mine").iterdir()
    assert store.objects[EVENTS + file.name] == file.read_bytes()


def test_a_picture_of_a_file_is_read_before_the_threads_share_it(here, store):
    PICTURE.save(here / "sheet.png")
    lines: list[str] = []
    with tracked(recipe_with("{tensorboard: true}"), store, "mine", lines.append) as tracking:
        with Image.open(here / "sheet.png") as picture:
            tracking.show(1, picture)
        log(tracking, 1)
    assert lines == []
    assert [shown.step for shown in read(here / "tensorboard" / "mine").Images("samples")] == [1]


def test_a_run_resumed_on_another_machine_goes_on_from_its_checkpoint(here, store, monkeypatch):
    recipe = recipe_with("{tensorboard: true}")
    run(recipe, store, range(1, 6))
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    run(recipe, store, range(4, 8))  # the last checkpoint was of iteration 3
    assert [step for step, _ in losses("tensorboard/mine")] == [1, 2, 3, 4, 5, 6, 7]
    assert len(store.objects.keys() & {EVENTS + p.name for p in here.glob("other/*/mine/*")}) == 2


def test_workers_that_go_back_to_a_checkpoint_leave_no_second_curve(here, store):
    run(recipe_with("{tensorboard: true}"), store, [1, 2, 3, 2, 3, 4])
    assert [step for step, _ in losses(here / "tensorboard" / "mine")] == [1, 2, 3, 4]


def test_a_long_run_is_in_the_store_before_its_end(here, store, monkeypatch):
    monkeypatch.setattr(trackers, "UPLOAD_S", 0.0)
    recipe, seen = recipe_with("{tensorboard: true}"), []
    monkeypatch.setattr(store, "put_file", lambda path, key: seen.append(key))
    run(recipe, store, range(1, 4))
    assert len(seen) == 4 and len(set(seen)) == 1  # after each iteration, and at the end


@pytest.fixture
def mlflow_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


def runs_of(uri: str):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("few steps")
    return client, client.search_runs([experiment.experiment_id])


def test_mlflow_has_one_run_of_all_sessions(here, store, mlflow_uri):
    tracking = f"{{mlflow: {{uri: '{mlflow_uri}', experiment: few steps}}}}"
    recipe, lines = recipe_with(tracking), []
    run(recipe, store, range(1, 4), lines, shown=[2])
    longer = load_recipe("miniature", [f"tracking={tracking}", "training.iterations=900"])
    run(longer, store, range(4, 6), lines)
    assert lines == []
    client, (found,) = runs_of(mlflow_uri)
    assert found.info.run_name == "mine" and found.info.status == "FINISHED"
    assert found.data.tags["recipe_digest"] == recipe.digest
    assert found.data.params["teacher_defaults.guidance_scale"] == "2.5"
    history = client.get_metric_history(found.info.run_id, "student_loss")
    assert [(m.step, m.value) for m in history] == [(i, i / 100) for i in range(1, 6)]
    assert found.data.metrics["scores/t2i"] == 3.5
    paths = [file.path for file in client.list_artifacts(found.info.run_id)]
    assert paths == ["images", "recipe.yaml"]
    images = client.list_artifacts(found.info.run_id, "images")
    assert any("samples" in file.path and file.path.endswith(".png") for file in images)


def test_a_run_that_fails_is_failed_there_and_its_name_makes_another_run(store, mlflow_uri):
    recipe = recipe_with(f"{{mlflow: {{uri: '{mlflow_uri}', experiment: few steps}}}}")
    with pytest.raises(UserError, match="diverged"), tracked(recipe, store, "mine", print):
        raise UserError("diverged")
    store.delete_all("runs/mine/")  # the name is given back
    run(recipe, store, [1])
    _, found = runs_of(mlflow_uri)
    assert sorted(each.info.status for each in found) == ["FAILED", "FINISHED"]


def test_categories_in_any_script_are_no_trouble_to_mlflow(store, mlflow_uri):
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["data"]["source"] = {"t2i": "prompts.jsonl"}
    raw["data"]["composition"]["t2i"] = {"动物 & more, 50%": 1.0}
    raw["tasks"]["edit"] = 0
    raw["tracking"] = {"mlflow": {"uri": mlflow_uri, "experiment": "few steps"}}
    lines: list[str] = []
    run(parse_recipe(raw), store, [1], lines)
    assert lines == []
    _, (found,) = runs_of(mlflow_uri)
    assert found.data.params["data.composition.t2i.动物 _ more_ 50_"] == "1.0"


@contextmanager
def offline_wandb(monkeypatch, folder):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    yield
    wandb.teardown()


def records(folder) -> list[Record]:
    """What an offline run would send: LevelDB's log format after a header of 7 bytes, in which a
    record is in pieces that do not cross the borders of 32 KiB blocks."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, position, piece, found = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        if (room := -position % 2**15) and room < 7:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        piece += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(Record.FromString(piece))
            piece = b""
    return found


def test_wandb_offline_has_one_id_for_all_sessions(here, store, monkeypatch):
    recipe, lines, ids = recipe_with("{wandb: {project: few steps}}"), [], set()
    for name, iterations in (("first", [1, 2, 3]), ("second", [4])):
        (here / name).mkdir()
        with offline_wandb(monkeypatch, here / name):
            run(recipe, store, iterations, lines, shown=[2])
        found = records(here / name)
        (begun,) = [r.run for r in found if r.HasField("run")]
        ids.add(begun.run_id)
        assert (begun.display_name, begun.project) == ("mine", "few steps")
        config = {item.key: item.value_json for item in begun.config.update}
        assert config["recipe_digest"] == f'"{recipe.digest}"'
        rows = [
            {"/".join(i.nested_key) or i.key: i.value_json for i in r.history.item}
            for r in found
            if r.HasField("history")
        ]
        assert [float(row["student_loss"]) for row in rows] == [i / 100 for i in iterations]
        assert [any("samples" in key for key in row) for row in rows] == [
            i == 2 for i in iterations
        ]
    assert lines == [] and len(ids) == 1


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("tracking", "environment", "says"),
    [
        (f"{{mlflow: {{uri: {NOWHERE}}}}}", {}, "tracking.mlflow: MlflowException: "),
        ("{wandb: {project: x}}", {}, "tracking.wandb: ValueError: no key; set WANDB_API_KEY"),
        ("{wandb: {project: x}}", {"WANDB_API_KEY": "short"}, "tracking.wandb: "),
        (
            "{wandb: {project: x}}",
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": NOWHERE},
            "tracking.wandb: ",
        ),
        ("{tensorboard: true}", {}, "tracking.tensorboard: NotADirectoryError: "),
    ],
)
def test_a_tracker_that_does_not_start_costs_one_line(
    here, store, monkeypatch, tracking, environment, says
):
    (here / "tensorboard").write_text("a file where the folder would be")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    run(recipe_with(tracking), store, range(1, 20), lines)
    (line,) = lines
    assert line.startswith(says) and line.endswith("; the run goes on without it")
    assert "\n" not in line


def awaited_run(client: MlflowClient):
    """The run of the experiment `flash_ray`, once it has a measure."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        experiment = client.get_experiment_by_name("flash_ray")
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        if found and found[0].data.metrics:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no run appeared")


def test_a_tracker_that_fails_in_the_midst_costs_one_line_and_the_others_nothing(
    here, store, mlflow_uri
):
    recipe = recipe_with(f"{{tensorboard: true, mlflow: {{uri: '{mlflow_uri}'}}}}")
    lines: list[str] = []
    with tracked(recipe, store, "mine", lines.append) as tracking:
        log(tracking, 1)
        client = MlflowClient(mlflow_uri)
        client.delete_run(awaited_run(client).info.run_id)
        for iteration in range(2, 20):
            log(tracking, iteration)
    (line,) = lines
    assert line.startswith("tracking.mlflow: MlflowException: ")
    assert len(losses(here / "tensorboard" / "mine")) == 19


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_bad_input(here, monkeypatch, name):
    tracking = {
        "tensorboard": "{tensorboard: true}",
        "wandb": "{wandb: {project: x}}",
        "mlflow": "{mlflow: {uri: 'sqlite:///runs.db'}}",
    }
    (here / name).mkdir()  # of an earlier run: it is no package
    recipe = recipe_with(tracking[name])
    says = rf"^tracking.{name}: .*install 'flash-ray\[{name}\]'"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=says):
        patch.setattr(sys, "path", [str(here)])
        patch.delitem(sys.modules, name, raising=False)
        validate_trackers(recipe)
    validate_trackers(recipe)


@pytest.mark.parametrize(
    "uri",
    ["http://me:secret@host", "host:5000", "http://host?token=secret", "file:///runs", "s3://b/x"],
)
def test_an_address_with_a_login_is_refused_and_not_quoted(uri):
    with pytest.raises(UserError, match="^tracking.mlflow.uri: .*MLFLOW_TRACKING_USER") as caught:
        recipe_with(f"{{mlflow: {{uri: '{uri}'}}}}")
    assert "secret" not in str(caught.value)

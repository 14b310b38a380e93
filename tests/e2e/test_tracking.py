"""A run as its user follows it: trackers of one recipe, a key that is missing, and a resume."""

import pytest
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUNS = "sqlite:///runs.db"
TRACKING = f"tracking={{tensorboard: true, wandb: {{project: x}}, mlflow: {{uri: '{RUNS}'}}}}"


@pytest.mark.slow
def test_a_run_and_its_resume_are_one_run_of_each_tracker(flash_ray, tmp_path, small):
    words = ("distill", "miniature", "--name", "mine", *small, "--set", TRACKING)
    ended = flash_ray(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "s3://flash-ray/students/mine\n"
    longer = ("--set", "training.iterations=6", "--resume", "--publish", "mine-2")
    resumed = flash_ray(*words, *longer)
    assert resumed.returncode == 0, resumed.stderr
    for each in (ended, resumed):
        (line,) = [line for line in each.stderr.splitlines() if "the run goes on" in line]
        assert line.endswith(
            "tracking.wandb: ValueError: no key; set WANDB_API_KEY; the run goes on without it"
        )
        assert "tensorboard --logdir tensorboard/mine" in each.stderr
    events = EventAccumulator(str(tmp_path / "tensorboard/mine")).Reload()
    assert [each.step for each in events.Scalars("student_loss")] == [1, 2, 3, 4, 5, 6]
    assert [each.step for each in events.Images("samples")] == [2, 4, 6]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("flash_ray").experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "scores/edit")
    assert [each.step for each in history] == [2, 4, 6]
    exported = flash_ray("export", "mine-2", "out")
    assert exported.returncode == 0, exported.stderr
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.width > sheet.height > 128
    assert "](samples.png)" in (tmp_path / "out" / "README.md").read_text()

"""Where a run can be followed: TensorBoard, Weights & Biases, MLflow, each by its own client.

The clients are imported when a tracker starts: they take seconds, and are in extras.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flash_ray.recipe import Recipe, dump_yaml
from flash_ray.recipe.identity import leaves
from flash_ray.recipe.sections import MlflowServer, WandbProject
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from PIL import Image

FOLDER = Path("tensorboard")  # where a run's events go, by its name, in the command's folder
UPLOAD_S = 300.0  # between uploads of the events, which S3 takes as a whole
MOST_PARAMS = 100  # of one request to MLflow


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run when they start.

    Args:
        id: of letters and digits; the same for every session of the run, and no other run's.
        store: where its records are.
    """

    name: str
    id: str
    recipe: Recipe
    store: Store

    @property
    def events(self) -> str:
        """The prefix of the keys of TensorBoard's events."""
        return f"runs/{self.name}/tensorboard/"

    @property
    def recipe_text(self) -> str:
        """The recipe as YAML, under its digest."""
        return f"# digest: {self.recipe.digest}\n{dump_yaml(self.recipe)}"


class Tracker(Protocol):
    """Follows one run; each call may raise whatever the client raises, and may take long."""

    def start(self) -> None:
        """Begins the run there, or goes on with it, and tells the recipe."""
        ...

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Takes an iteration's measures."""
        ...

    def show(self, iteration: int, picture: "Image.Image") -> None:
        """Takes the sheet of pictures drawn after an iteration; its `log` follows."""
        ...

    def finish(self, failed: bool) -> None:
        """Ends the run there."""
        ...


class TensorBoard:
    """Event files in a folder here, which are copied to the store every few minutes."""

    def __init__(self, run: TrackedRun):
        self._run = run
        self._folder = (FOLDER / run.name).absolute()  # the working directory may change
        self._writer: Any = None
        self._last = 0  # the last iteration that was logged
        self._earlier: set[Path] = set()  # files of earlier sessions
        self._uploaded = time.monotonic()

    def start(self) -> None:
        """Fetches what earlier sessions of the run logged, if it is not here."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for key in [*self._run.store.list(self._run.events)]:
            path = self._folder / Path(key).name
            if not path.exists():
                self._run.store.get_file(key, path)
        self._earlier = set(self._folder.iterdir())

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Writes one scalar of each value."""
        self._reach(iteration)
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)
        self._last = iteration
        if time.monotonic() - self._uploaded > UPLOAD_S:
            self._upload()

    def show(self, iteration: int, picture: "Image.Image") -> None:
        """Writes the picture as PNG."""
        self._reach(iteration)
        self._writer.add_image("samples", np.asarray(picture), iteration, dataformats="HWC")

    def finish(self, failed: bool) -> None:
        """Closes the events' file."""
        if self._writer is not None:
            self._upload()
            self._writer.close()

    def _reach(self, iteration: int) -> None:
        """Has a writer at the iteration: a new one where the run went back to a checkpoint."""
        if self._writer is not None and iteration > self._last:
            return
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        # Readers forget what an earlier session logged of this iteration and later ones.
        self._writer = SummaryWriter(self._folder, purge_step=iteration, flush_secs=30)
        code = "".join(f"    {line}\n" for line in self._run.recipe_text.splitlines())
        self._writer.add_text("recipe", code, iteration)
        self._last = iteration - 1

    def _upload(self) -> None:
        self._writer.flush()
        for path in set(self._folder.iterdir()) - self._earlier:
            self._run.store.put_file(path, f"{self._run.events}{path.name}")
        self._uploaded = time.monotonic()


class Wandb:
    """A run of Weights & Biases; WANDB_* variables say by whom and where."""

    def __init__(self, run: TrackedRun, project: WandbProject):
        self._run, self._project = run, project.project
        self._at: Any = None

    def start(self) -> None:
        """Begins or resumes the run; the recipe is its config.

        Raises:
            ValueError: the environment has no key.
            wandb.Error: the server does not answer, or rejects the key.
        """
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        online = wandb.setup(settings).settings.mode in ("online", "shared")
        # Without a key the client would ask for one, on a terminal.
        if online and not wandb.login(prompt=False):
            raise ValueError("no key; set WANDB_API_KEY")
        fields = self._run.recipe.model_dump(mode="json")
        self._at = wandb.init(
            project=self._project,
            name=self._run.name,
            id=self._run.id,
            resume="allow",
            config={**fields, "recipe_digest": self._run.recipe.digest},
            allow_val_change=True,  # what --resume may change
            settings=settings,
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Logs the values; those of an iteration that it has already are left out."""
        self._at.log(dict(values), step=iteration)

    def show(self, iteration: int, picture: "Image.Image") -> None:
        """Logs the picture."""
        import wandb

        self._at.log({"samples": wandb.Image(picture)}, step=iteration)

    def finish(self, failed: bool) -> None:
        """Waits until all is sent."""
        self._at.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow; MLFLOW_TRACKING_* variables hold its login."""

    def __init__(self, run: TrackedRun, server: MlflowServer):
        self._run, self._server = run, server
        self._client: Any = None
        self._id = ""

    def start(self) -> None:
        """Finds the run of an earlier session, or makes one, with the recipe as its parameters.

        Raises:
            mlflow.exceptions.MlflowException: the server does not answer, or rejects a request.
        """
        from mlflow import MlflowClient

        # Stdout has the command's result.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._client = client = MlflowClient(self._server.uri)
        experiment, run = self._experiment(), self._run
        found = client.search_runs([experiment], f"tags.tracking_id = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            tags = {"tracking_id": run.id, "recipe_digest": run.recipe.digest}
            self._id = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            for params in _params(run.recipe):
                client.log_batch(self._id, params=params)
        client.log_text(self._id, run.recipe_text, "recipe.yaml")

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Logs the values in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, iteration) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def show(self, iteration: int, picture: "Image.Image") -> None:
        """Keeps the picture among the run's images."""
        self._client.log_image(self._id, picture, key="samples", step=iteration)

    def finish(self, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._server.experiment
        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another trial of a study made it meanwhile
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)


def _params(recipe: Recipe) -> Iterator[list[Any]]:
    """The recipe's leaves as MLflow's parameters, as many at once as it takes."""
    from mlflow.entities import Param

    params = [
        Param(re.sub(r"[^\w.\- :/]", "_", path), str(value))  # categories are anybody's words
        for path, value in leaves(recipe.model_dump(mode="json"))
    ]
    return (params[i : i + MOST_PARAMS] for i in range(0, len(params), MOST_PARAMS))

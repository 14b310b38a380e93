"""The driver of a run: from a recipe to a distilled student on this machine, through Ray."""

import io
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.result import Result
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.queue import Empty, Queue

from flash_ray.cluster.environment import thread_limits
from flash_ray.cluster.resources import check_cluster
from flash_ray.data.encode import prepare
from flash_ray.errors import UserError
from flash_ray.models.loading import validate_family, validate_quantizer
from flash_ray.models.lora_source import with_pins
from flash_ray.recipe import Recipe
from flash_ray.storage.manifest import verify
from flash_ray.storage.s3 import Store, train_storage
from flash_ray.teachers.launch import TeacherSet, start_teachers
from flash_ray.teachers.protocol import teacher_actors
from flash_ray.teachers.validation import validate_teachers
from flash_ray.telemetry.tracking import Tracking, tracked, validate_trackers
from flash_ray.trainer import fatal
from flash_ray.trainer.claim import claimed_run
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.trainer.process_group import ProcessGroupConfig
from flash_ray.trainer.resume import forget_latest, keep_whole
from flash_ray.trainer.setup import Evaluate, Final, Once, WorkerConfig
from flash_ray.trainer.student_init import validate_targets
from flash_ray.trainer.worker import Outcome, Sheet, student_key, train_worker


@dataclass(frozen=True)
class Callbacks:
    """What a caller may add to a run.

    Args:
        evaluate: draws with the averaged student and scores it, every `evaluation.every`
            iterations, on worker 0; it is pickled.
        once: the same after one iteration, of which only what it keeps itself counts; pickled.
        live: called in the driver, in a thread of its own, with every iteration's record.
        final: looks at the averaged student at the end, on worker 0; it is pickled.
        say: called in the driver with lines: rows that cannot be used, damage that was mended.
    """

    evaluate: Evaluate | None = None
    live: Callable[[UpdateMetrics], None] | None = None
    final: Final | None = None
    once: Once | None = None
    say: Callable[[str], None] = logging.getLogger(__name__).warning


@dataclass(frozen=True)
class DistillResult:
    """A finished run.

    Args:
        folder: the averaged student, a transformer in diffusers format, not yet published.
        history: a record of every iteration, also of earlier sessions of the run.
        seconds: of this session: `prepare`, `train`.
        final: what `Callbacks.final` returned.
    """

    folder: Path
    history: list[UpdateMetrics]
    seconds: dict[str, float]
    final: Any = None


def distill(
    recipe: Recipe,
    store: Store,
    run_name: str,
    folder: Path,
    resume: bool = False,
    callbacks: Callbacks = Callbacks(),  # noqa: B008 (frozen)
    teacher_set: TeacherSet | None = None,
) -> DistillResult:
    """Runs the recipe on the connected Ray cluster and puts the student into `folder`.

    Args:
        store: where resume state, cached conditions and the student go; a Ray that runs already
            must have been started with its AWS_* variables.
        run_name: names the run in the store; with `resume` an earlier one, to be continued.
        teacher_set: teachers that run already, for several runs; None: the recipe's are started.

    Raises:
        UserError: bad input; where it can be known, before any process starts.
        Diverged: the student was lost; there is no result.
        ray.train.TrainingFailedError: the workers failed more than `runtime.max_failures` times.
    """
    validate_family(recipe)
    validate_teachers(recipe)
    validate_targets(recipe)
    validate_quantizer(recipe)
    validate_trackers(recipe)
    recipe = with_pins(recipe)
    check_cluster(recipe, teacher_actors(recipe) if teacher_set is None else 0)
    store.check()
    with (
        claimed_run(recipe, store, run_name, resume),
        tracked(recipe, store, run_name, callbacks.say) as tracking,
    ):
        return _distill(recipe, store, run_name, folder, resume, callbacks, teacher_set, tracking)


def _distill(
    recipe: Recipe,
    store: Store,
    run_name: str,
    folder: Path,
    resume: bool,
    callbacks: Callbacks,
    teacher_set: TeacherSet | None,
    tracking: Tracking,
) -> DistillResult:
    started = time.monotonic()
    started_here = None
    if teacher_set is None and recipe.teacher_defaults.placement == "actors":
        teacher_set = started_here = start_teachers(recipe)
    live = Queue(actor_options={"num_cpus": 0})
    try:
        plan = prepare(recipe, store, say=callbacks.say)
        for line in plan.complaints:
            callbacks.say(line)
        prepared = time.monotonic()
        fatal.forget(store, run_name)
        if resume:
            keep_whole(store, run_name)
        config = WorkerConfig(
            recipe,
            store,
            run_name,
            plan.shards,
            teacher_set,
            live,
            callbacks.evaluate,
            callbacks.once,
            callbacks.final,
        )
        with listening(live, _shown_by(store, run_name, callbacks, tracking)):
            outcome = _fit(config)
            if outcome.lost:
                callbacks.say(f"encode {len(outcome.lost)} damaged shards of conditions anew")
                prepare(recipe, store, say=callbacks.say)
                outcome = _fit(config)
            if outcome.lost:
                raise UserError(
                    f"runtime.storage.url: {store.url('conditions')} returns "
                    f"{len(outcome.lost)} shards damaged again; repair that store, or use another"
                )
    finally:
        live.shutdown(force=True)
        if started_here:
            started_here.stop()
    _fetch(store, run_name, outcome, folder)
    seconds = {"prepare": prepared - started, "train": time.monotonic() - prepared}
    return DistillResult(folder, outcome.history, seconds, outcome.final)


def _shown_by(
    store: Store, run_name: str, callbacks: Callbacks, tracking: Tracking
) -> Callable[[UpdateMetrics | Sheet | str], None]:
    """What takes the workers' records, sheets and lines."""

    def show(item: UpdateMetrics | Sheet | str) -> None:
        if isinstance(item, str):
            callbacks.say(item)
        elif isinstance(item, Sheet):
            store.put_bytes(sheet_key(run_name, item.iteration), item.png)
            tracking.show(item.iteration, Image.open(io.BytesIO(item.png)))
        else:
            tracking.log(item.iteration, item.scalars())
            if callbacks.live:
                callbacks.live(item)

    return show


def sheet_key(run_name: str, iteration: int) -> str:
    """Where the store has the contact sheet that was drawn after an iteration of a run."""
    return f"runs/{run_name}/sheets/iteration-{iteration:06d}.png"


def _fit(config: WorkerConfig) -> Outcome:
    """Trains, with restarts of failed workers and without damaged checkpoints; raises UserError and
    Diverged of the workers."""
    while True:
        outcome = _fit_once(config)
        if outcome.damaged is None:
            break
        if not forget_latest(config.store, config.run_name, outcome.damaged):
            raise outcome.damaged
    if outcome.bad_input:
        raise UserError(outcome.bad_input)
    if outcome.diverged:
        raise Diverged(outcome.diverged)
    return outcome


def _fit_once(config: WorkerConfig) -> Outcome:
    recipe, runtime = config.recipe, config.recipe.runtime
    path, filesystem = train_storage(config.store, config.run_name)
    trainer = _Trainer(
        train_worker,
        train_loop_config={"config": config},
        torch_config=ProcessGroupConfig(backend="nccl" if runtime.gpu else "gloo"),
        scaling_config=ScalingConfig(
            **_group_size(recipe),
            use_gpu=runtime.gpu,
            resources_per_worker={
                "CPU": runtime.cpus_per_worker,
                "trainer": 1,
                **({"GPU": 1} if runtime.gpu else {}),
            },
        ),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=runtime.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": thread_limits(recipe)},
        ),
    )
    result = cast(Result, trainer.fit())  # the annotation is that of an older trainer
    return cast(Outcome, result.return_value)


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the command: Ray's handler waits, then ends the process with its own code.

    The run's actors end with the command's Ray, or, on a shared cluster, with its driver.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _group_size(recipe: Recipe) -> dict[str, Any]:
    """The part of ScalingConfig that says how many workers there are, and whether that changes."""
    workers = recipe.runtime.num_workers
    if isinstance(workers, int):
        return {"num_workers": workers}
    return {
        "num_workers": (workers.min, workers.max),
        "elastic_resize_monitor_interval_s": workers.resize_every_s,
    }


def _fetch(store: Store, run_name: str, outcome: Outcome, folder: Path) -> None:
    """Downloads the exported student; the folder appears when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        partial = Path(name) / "student"
        partial.mkdir()
        for path in outcome.files:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            store.get_file(f"{student_key(run_name)}/{path}", partial / path)
        verify(partial, outcome.files, store.url(student_key(run_name)))
        partial.replace(folder)


@contextmanager
def listening(queue: Queue, call: Callable[[Any], None]) -> Iterator[None]:
    """Hands what workers put into the queue to `call` while the block runs; its errors rise at the
    end."""
    ended = threading.Event()

    def listen() -> None:
        while True:
            last = ended.is_set()
            try:
                call(queue.get(timeout=0.5))
            except Empty:
                if last:
                    return

    with ThreadPoolExecutor(1) as pool:
        listener = pool.submit(listen)
        try:
            yield
        finally:
            ended.set()
        listener.result()

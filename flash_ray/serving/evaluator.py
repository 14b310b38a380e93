"""Scores models: single pictures at once, evaluations as Ray tasks that draw what is missing."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import ray
from PIL import Image

from flash_ray.cluster.environment import one_process, thread_limits
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import score_answers
from flash_ray.evaluation.judges.base import CaseScore, Judge, JudgeResult
from flash_ray.evaluation.judges.choose import validate_judge
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.serving.benchmarks import Benchmarks, reference_paths
from flash_ray.serving.engine import Engine, LoadedModel, Prompt, load_engine
from flash_ray.serving.evaluations import EvaluationSpec, EvaluationStore
from flash_ray.serving.images import png
from flash_ray.serving.judges import open_judge, vlm_identity
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.schemas import Answer, EvaluationResult, Failure
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store

SEEDS = 2**31

logger = logging.getLogger("ray.serve")


class Evaluator:
    """One replica; it takes up what an earlier one left unfinished, from the store's records."""

    def __init__(self, recipe: Recipe, store: Store, settings: Serving, benchmarks: Benchmarks):
        self._recipe, self._store, self._settings = recipe, store, settings
        self._benchmarks = benchmarks
        self._judge = CaseJudge(benchmarks, settings, store)
        self._evaluations = EvaluationStore(store)
        self._running: dict[str, ray.ObjectRef] = {}
        self._places = asyncio.Semaphore(settings.evaluations)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def judge(self, benchmark: str, task: Task, case: str, picture: bytes) -> CaseScore:
        """What the default judge says of a PNG, the answer to a case that there is."""
        return await asyncio.to_thread(self._judge, benchmark, task, case, picture)

    async def start(self, id: str) -> None:
        """Runs an evaluation, unless it runs already, as soon as fewer than the settings' run."""
        if id not in self._tasks:
            task = asyncio.create_task(self._run(id))
            self._tasks[id] = task
            task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def cancel(self, id: str) -> None:
        """Ends an evaluation that waits or runs."""
        if id in self._running:
            ray.cancel(self._running[id], force=True)
        elif id in self._tasks:
            self._tasks[id].cancel()

    async def check_health(self) -> None:
        """Takes up what an earlier replica left unfinished; Serve calls it every few seconds."""
        if not self._benchmarks:
            return
        served = (self._recipe.base, set(self._benchmarks))
        try:
            unfinished = await asyncio.to_thread(self._evaluations.unfinished, *served)
        except UserError as error:  # another replica could not read the store either
            logger.error("%s", error)
            return
        for id in unfinished:
            await self.start(id)

    async def _run(self, id: str) -> None:
        async with self._places:
            self._running[id] = self._remote(id)
            try:
                await self._running[id]
            except ray.exceptions.RayError as error:
                # One that was cancelled has its end; one that failed gets it here.
                if await asyncio.to_thread(self._evaluations.end, id) is None:
                    reason = " ".join(str(getattr(error, "cause", None) or error).split())[:500]
                    failure = Failure(error=reason)
                    await asyncio.to_thread(self._evaluations.finish, id, "failed", failure)
                    logger.exception("evaluation %s failed", id)
            finally:
                del self._running[id]

    def _remote(self, id: str) -> ray.ObjectRef:
        runtime = self._recipe.runtime
        task = ray.remote(evaluate).options(
            num_cpus=runtime.cpus_per_worker,
            num_gpus=self._settings.gpu_share if runtime.gpu else 0,
            max_retries=3,
            scheduling_strategy="DEFAULT",  # anywhere, not in the replica's own placement group
            runtime_env={"env_vars": thread_limits(self._recipe)},
        )
        return task.remote(id, self._recipe, self._store, self._settings, self._benchmarks)


class CaseJudge:
    """Judges single answers with the default judge of the case's benchmark and task, one at a time:
    a judge need not be safe for several threads."""

    def __init__(self, benchmarks: Benchmarks, settings: Serving, store: Store):
        self._benchmarks, self._settings, self._store = benchmarks, settings, store
        self._judges: dict[str, Judge] = {}
        self._lock = threading.Lock()

    def __call__(self, benchmark: str, task: Task, id: str, picture: bytes) -> CaseScore:
        served = self._benchmarks[benchmark]
        case = served.case(task, id)
        if case is None:
            raise ValueError(f"{benchmark} has no {task} case {id!r}")
        with self._lock:
            judge = self._open(served.judges[task][0])
            (score,) = judge.judge([case], [_pixels(picture)])
        return CaseScore(**score.model_dump())  # plain: a judge's own class may not be picklable

    def _open(self, name: str) -> Judge:
        if name not in self._judges:
            self._judges[name] = open_judge(name, self._settings, self._store)
        return self._judges[name]


def evaluate(
    id: str, recipe: Recipe, store: Store, settings: Serving, benchmarks: Benchmarks
) -> None:
    """Draws and judges what an evaluation asks for, and writes how it ended."""
    evaluations = EvaluationStore(store)
    spec = evaluations.spec(id)
    if spec is None or evaluations.end(id):
        return
    one_process(recipe)
    try:
        cases = _cases(spec, settings, benchmarks)
        judge = _judge(spec, cases, settings, store)  # before anything is drawn
        images = _answers(evaluations, spec, cases, recipe, store, settings)
        # In this process: the cluster's cores belong to the replicas.
        judged = score_answers(judge, cases, images)
    except UserError as error:
        evaluations.finish(id, "failed", Failure(error=str(error)))
        return
    evaluations.finish(id, "result", _result(spec, cases, judged))


def _cases(spec: EvaluationSpec, settings: Serving, benchmarks: Benchmarks) -> list[Case]:
    benchmark = benchmarks.get(spec.benchmark)
    if benchmark is None or benchmark.digest != spec.digest:
        raise UserError(
            f"benchmark: the server does not have {spec.benchmark!r} with the digest {spec.digest} "
            "any more; ask again"
        )
    if spec.cases > settings.limits.cases:
        raise UserError(
            f"cases: {spec.cases}; allowed: at most {settings.limits.cases} of each category; "
            "ask for fewer"
        )
    return benchmark.cases(spec.task, spec.cases)


def _judge(spec: EvaluationSpec, cases: Sequence[Case], settings: Serving, store: Store) -> Judge:
    if spec.vlm != vlm_identity(spec.judge, settings):
        raise UserError(
            f"judge: the server's settings do not name {spec.judge!r} any more, or another model; "
            "ask again"
        )
    judge = open_judge(spec.judge, settings, store)
    validate_judge(judge, cases, spec.benchmark, "judge")
    return judge


def _answers(
    evaluations: EvaluationStore,
    spec: EvaluationSpec,
    cases: Sequence[Case],
    recipe: Recipe,
    store: Store,
    settings: Serving,
) -> list[np.ndarray]:
    """The answers to the cases, uint8 (H, W, 3); those that the store does not have, or has
    damaged, are drawn and kept there."""
    answers = {case.id: _kept_answer(evaluations, spec.id, case) for case in cases}
    missing = [case for case in cases if answers[case.id] is None]
    if missing:
        engine = load_engine(recipe, settings.condition_mib * MIB, 0)
        model = _load_model(engine, spec.model, store, settings)
    for batch in _batches(missing, settings):
        prompts = engine.encode([prompt_of(case) for case in batch]).prompts
        seeds = [(case.seed + spec.seed) % SEEDS for case in batch]
        pictures = engine.sample(model, spec.model.sampler, prompts, seeds).pictures_BHWC
        for case, picture_HW3 in zip(batch, pictures, strict=True):
            data = png(picture_HW3)
            evaluations.put_picture(spec.id, case.id, data)
            answers[case.id] = _pixels(data)
    return [answer for answer in answers.values() if answer is not None]


def _kept_answer(evaluations: EvaluationStore, id: str, case: Case) -> np.ndarray | None:
    """The answer to a case that the store has; None if it has none that can be read."""
    data = evaluations.picture(id, case.id)
    if data is None:
        return None
    try:
        picture = Image.open(BytesIO(data), formats=("PNG",))
        if (picture.height, picture.width) != case.size:  # before it is decoded
            raise ValueError(f"{picture.height}x{picture.width}, not {case.size}")
        return np.asarray(picture.convert("RGB"))
    except Exception as error:  # of many kinds: Pillow knows many ways to be broken
        logger.warning("%s: the answer to %s is corrupt (%s); drawn anew", id, case.id, error)
        return None


def _batches(cases: Sequence[Case], settings: Serving) -> Iterator[Sequence[Case]]:
    """Cases that can be drawn together: of one size, with references of the same sizes."""
    alike: dict[object, list[Case]] = {}
    for case in cases:
        sizes = tuple(reference.size for reference in case.references)
        alike.setdefault((case.size, sizes), []).append(case)
    for group in alike.values():
        height, width = group[0].size
        most = settings.pictures_of_batch(height * width)
        yield from (group[i : i + most] for i in range(0, len(group), most))


def prompt_of(case: Case) -> Prompt:
    """What a model is asked for by a case."""
    return Prompt(case.prompt, tuple(png(picture) for picture in case.references), case.size)


def _load_model(engine: Engine, model: ServedModel, store: Store, settings: Serving) -> LoadedModel:
    if model.student is None:
        return LoadedModel(model.digest, engine.base.transformer)
    weights = WeightCache(store, cache_home() / "students", settings.weights_mib * MIB)
    folder = weights.folder_of(model)
    return LoadedModel(model.digest, engine.base.load_transformer(folder))


def _pixels(picture: bytes) -> np.ndarray:
    """A PNG as uint8 RGB (H, W, 3)."""
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


def _result(spec: EvaluationSpec, cases: Sequence[Case], judged: JudgeResult) -> EvaluationResult:
    answers = [
        Answer(
            **judged.cases[case.id].model_dump(mode="json"),
            case=case.id,
            category=case.category,
            prompt=case.prompt,
            picture=f"/v1/evaluations/{spec.id}/pictures/{case.id}.png",
            references=reference_paths(spec.benchmark, case),
        )
        for case in cases
    ]
    return EvaluationResult(
        score=judged.score,
        interval=judged.interval,
        counted=len(judged.scores),
        measures=judged.measures,
        categories=judged.categories,
        answers=answers,
    )

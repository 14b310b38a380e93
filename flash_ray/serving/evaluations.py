"""Evaluations in object storage: a request, pictures as they are drawn, one end.

Everything about an evaluation lies under evaluations/ID/: request.json, pictures/CASE.png, and,
when it has ended, one of result.json, failed.json and cancelled.json. Equal requests have one id,
so they share one result.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Literal, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from flash_ray.recipe.schema import Section, Task
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.schemas import (
    Evaluation,
    EvaluationResult,
    Failure,
    MeanScore,
    Progress,
    Status,
)
from flash_ray.storage.s3 import Store

logger = logging.getLogger("ray.serve")

HOME = "evaluations/"
READS = 8  # records read at a time
End = Literal["result", "failed", "cancelled"]
ENDS: Mapping[End, Status] = {"result": "succeeded", "failed": "failed", "cancelled": "cancelled"}
Record = TypeVar("Record", bound=BaseModel)
Read = TypeVar("Read")


class EvaluationSpec(Section):
    """What is evaluated: a model's answers to the first cases of each category of a task.

    Args:
        digest: the benchmark's, 16 hex digits.
        cases: of each category.
        total: the cases of all categories; some may have fewer than `cases`.
        vlm: what decides the answers of a judge that is a VLM, else None.
        created: seconds since 1970 when it was asked for first.
    """

    version: Literal[2] = 2
    model: ServedModel
    benchmark: str
    digest: str
    task: Task
    cases: int
    total: int
    seed: int
    judge: str
    vlm: dict[str, JsonValue] | None
    created: int

    @property
    def id(self) -> str:
        """A name made of what decides the result: an alias that moved on is another evaluation."""
        decisive = [
            [self.model.digest, self.model.base, asdict(self.model.sampler)],
            [self.benchmark, self.digest, self.task, self.cases, self.seed],
            [self.judge, self.vlm],
        ]
        text = json.dumps(decisive, sort_keys=True)
        return f"eval-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class EvaluationStore:
    """Reads and writes the records of one store; for several threads.

    Records of another version are left out, and logged.
    """

    def __init__(self, store: Store):
        self._store = store
        self._specs: dict[str, EvaluationSpec | None] = {}  # they never change
        self._scores: dict[str, MeanScore] = {}  # of results, which do not change either
        self._ended: set[str] = set()

    def open(self, spec: EvaluationSpec) -> bool:
        """Records a request; returns whether its evaluation has to be started: it is new, failed or
        was cancelled."""
        is_new = self._store.put_bytes_if_absent(
            f"{_home(spec.id)}/request.json",
            spec.model_dump_json(exclude={"model": {"scores"}}).encode(),
        )
        end = None if is_new else self.end(spec.id)
        if end in ("failed", "cancelled"):
            self._store.delete(f"{_home(spec.id)}/{end}.json")
        return is_new or end in ("failed", "cancelled")

    def spec(self, id: str) -> EvaluationSpec | None:
        """What was asked for under that id; None if nothing was."""
        if id not in self._specs:
            text = self._store.get_bytes(f"{_home(id)}/request.json")
            if text is None:
                return None
            self._specs[id] = self._parse(id, text)
        return self._specs[id]

    def page(self, limit: int, after: str | None) -> tuple[list[Evaluation], bool]:
        """Evaluations without their results, the newest first, and whether there are more.

        Args:
            after: the id of the last one that the caller has; one that there is.
        """
        specs = _each(self.spec, list(self._store.folders(HOME)))
        order = sorted((-spec.created, id) for id, spec in specs.items() if spec)
        if after is not None and (last := self.spec(after)):
            order = [key for key in order if key > (-last.created, after)]
        rest: list[str] = [id for _, id in order]
        views: list[Evaluation] = []
        while rest and len(views) < limit:  # some may have been deleted since they were read
            ids, rest = rest[: limit - len(views)], rest[limit - len(views) :]
            views += filter(None, _each(partial(self.view, whole=False), ids).values())
        return views, bool(rest)

    def unfinished(self, base: str, benchmark: str) -> list[str]:
        """The ids of those of models of that base, on that benchmark, that have not ended.

        One that this store has seen ended is not looked at again: who begins it again says so.
        """
        ends = _each(self.end, [id for id in self._store.folders(HOME) if id not in self._ended])
        self._ended.update(id for id, end in ends.items() if end)
        specs = {id: self.spec(id) for id, end in ends.items() if end is None}
        served = (base, benchmark)
        return [id for id, s in specs.items() if s and (s.model.base, s.benchmark) == served]

    def end(self, id: str) -> End | None:
        """How it ended; None if it has not."""
        return _end(self._keys(id))

    def finish(self, id: str, end: End, record: BaseModel | None = None) -> None:
        """Writes how it ended; a result outweighs a cancellation that came too late."""
        text = "{}" if record is None else record.model_dump_json()
        self._store.put_bytes_if_absent(f"{_home(id)}/{end}.json", text.encode())

    def pictures(self, id: str) -> set[str]:
        """The ids of the cases that are drawn."""
        home = f"{_home(id)}/pictures/"
        return {key[len(home) :].removesuffix(".png") for key in self._store.list(home)}

    def put_picture(self, id: str, case: str, data: bytes) -> None:
        """Keeps the answer to a case, a PNG."""
        self._store.put_bytes(f"{_home(id)}/pictures/{case}.png", data)

    def picture(self, id: str, case: str) -> bytes | None:
        """The answer to a case, a PNG; None if there is none yet."""
        return self._store.get_bytes(f"{_home(id)}/pictures/{case}.png")

    def view(self, id: str, whole: bool = True) -> Evaluation | None:
        """The evaluation as clients see it, None if there is none.

        Args:
            whole: with its result.
        """
        keys, spec = self._keys(id), self.spec(id)
        if spec is None or "request.json" not in keys:
            return None
        end = _end(keys)
        done = sum(key.startswith("pictures/") for key in keys)
        failure = self._read(id, end, Failure) if end == "failed" else None
        result = self._read(id, end, EvaluationResult) if end == "result" and whole else None
        return Evaluation(
            id=id,
            status=ENDS[end] if end else ("running" if done else "queued"),
            model=spec.model.id,
            identity=spec.model.identity,
            benchmark=spec.benchmark,
            benchmark_digest=spec.digest,
            task=spec.task,
            cases=spec.cases,
            seed=spec.seed,
            judge=spec.judge,
            created=spec.created,
            progress=Progress(done=done, total=spec.total),
            error=failure.error if failure else None,
            score=self._score(id) if end == "result" else None,
            result=result,
        )

    def _score(self, id: str) -> MeanScore | None:
        """The score of a result; None if it was taken away meanwhile, or is damaged."""
        if id not in self._scores:
            try:
                result = self._read(id, "result", EvaluationResult)
            except ValidationError as error:
                url = self._store.url(f"{_home(id)}/result.json")
                logger.warning("%s has no score: %s", url, error.errors()[0]["msg"])
                return None
            if result is None:
                return None
            fields = result.model_dump(include=set(MeanScore.model_fields))
            self._scores[id] = MeanScore(**fields)
        return self._scores[id]

    def _keys(self, id: str) -> set[str]:
        """The keys of its records, without what they share."""
        home = f"{_home(id)}/"
        return {key[len(home) :] for key in self._store.list(home)}

    def _read(self, id: str, end: End, kind: type[Record]) -> Record | None:
        """How it ended; None if that was taken away meanwhile."""
        text = self._store.get_bytes(f"{_home(id)}/{end}.json")
        return None if text is None else kind.model_validate_json(text)

    def _parse(self, id: str, text: bytes) -> EvaluationSpec | None:
        try:
            return EvaluationSpec.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            url = self._store.url(f"{_home(id)}/request.json")
            logger.warning("%s is left out: %s: %s", url, field, first["msg"])
            return None


def _each(read: Callable[[str], Read], ids: Sequence[str]) -> dict[str, Read]:
    with ThreadPoolExecutor(READS) as pool:
        return dict(zip(ids, pool.map(read, ids), strict=True))


def _end(keys: set[str]) -> End | None:
    return next((end for end in ENDS if f"{end}.json" in keys), None)


def _home(id: str) -> str:
    return f"{HOME}{id}"

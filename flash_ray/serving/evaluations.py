"""Evaluations in object storage: a request, pictures as they are drawn, one end.

Everything about an evaluation lies under evaluations/ID/: request.json, pictures/CASE.png, and,
when it has ended, one of result.json, failed.json and cancelled.json. Equal requests have one id,
so they share one result.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue

from flash_ray.models.loading import is_same_base
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
from flash_ray.storage.records import (
    CorruptRecord,
    FaultLog,
    Seconds,
    Text,
    read_each,
    read_record,
)
from flash_ray.storage.s3 import Store

logger = logging.getLogger("ray.serve")

HOME = "evaluations/"
ID = re.compile("eval-[0-9a-f]{16}")
ASK_AGAIN = "ask for the evaluation again"
End = Literal["result", "failed", "cancelled"]
ENDS: Mapping[End, Status] = {"result": "succeeded", "failed": "failed", "cancelled": "cancelled"}
Record = TypeVar("Record", bound=BaseModel)


class EvaluationSpec(Section):
    """What is evaluated: a model's answers to the first cases of each category of a task.

    Args:
        digest: the benchmark's, 16 hex digits.
        cases: of each category.
        total: the cases of all categories; some may have fewer than `cases`.
        scale: what the judge's scores are, in words.
        vlm: what decides the answers of a judge that is a VLM, else None.
        created: seconds since 1970 when it was asked for first.
    """

    version: Literal[3] = 3
    model: ServedModel
    benchmark: Text
    digest: Text
    task: Task
    cases: int = Field(ge=1)
    total: int = Field(ge=0)
    seed: int = Field(ge=0, lt=2**31)
    judge: Text
    scale: Text
    vlm: dict[str, JsonValue] | None
    created: Seconds

    @property
    def id(self) -> str:
        """A name made of what decides the result: an alias that moved on is another evaluation."""
        decisive = [
            [self.model.digest, self.model.base, asdict(self.model.sampler)],
            [self.benchmark, self.digest, self.task, self.cases, self.seed],
            [self.judge, self.scale, self.vlm],
        ]
        text = json.dumps(decisive, sort_keys=True)
        return f"eval-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class EvaluationStore:
    """Reads and writes the records of one store; for several threads.

    A record that is corrupt, or of another version, is left out of lists, and the log names it; who
    asks for it by its id is told why. Asking for such an evaluation again mends it.
    """

    def __init__(self, store: Store):
        self._store = store
        self._specs: dict[str, EvaluationSpec] = {}  # they never change
        self._scores: dict[str, MeanScore] = {}  # of results, which do not change either
        self._ended: set[str] = set()
        self._log = FaultLog(logger)

    def open(self, spec: EvaluationSpec) -> bool:
        """Records a request; returns whether its evaluation has to be started: it is new, failed,
        was cancelled, or one of its records is corrupt."""
        key = f"{_home(spec.id)}/request.json"
        text = spec.model_dump_json(exclude={"model": {"scores"}}).encode()
        is_new = self._store.put_bytes_if_absent(key, text)
        if not is_new and not self._is_sound(spec.id):
            self._store.put_bytes(key, text)
            is_new = True
        end = self.end(spec.id)
        if end == "result" and self._is_sound(spec.id, end):
            return False
        if end:
            self._store.delete(f"{_home(spec.id)}/{end}.json")
        return is_new or end is not None

    def spec(self, id: str) -> EvaluationSpec | None:
        """What was asked for under that id; None if nothing was.

        Raises:
            CorruptRecord: it is not what it should be.
        """
        if id not in self._specs and ID.fullmatch(id):
            key = f"{_home(id)}/request.json"
            spec = read_record(self._store, key, EvaluationSpec, ASK_AGAIN)
            if spec is None:
                return None
            if spec.id != id:
                raise CorruptRecord(self._store.url(key), f"the request of {spec.id}", ASK_AGAIN)
            self._specs[id] = spec
        return self._specs.get(id)

    def page(self, limit: int, after: str | None) -> tuple[list[Evaluation], bool]:
        """Evaluations without their results, the newest first, and whether there are more.

        Args:
            after: the id of the last one that the caller has; one that there is.
        """
        ids, strangers = self._ids()
        specs, faults = read_each(self.spec, ids)
        self._log.name([*strangers, *faults.values()])
        order = sorted((-spec.created, id) for id, spec in specs.items())
        if after is not None and (last := self.spec(after)):
            order = [key for key in order if key > (-last.created, after)]
        rest: list[str] = [id for _, id in order]
        views: list[Evaluation] = []
        while rest and len(views) < limit:  # some may have been deleted since they were read
            ids, rest = rest[: limit - len(views)], rest[limit - len(views) :]
            views += read_each(partial(self.view, whole=False), ids)[0].values()
        return views, bool(rest)

    def unfinished(self, base: str, benchmark: str) -> list[str]:
        """The ids of those of models of that base, on that benchmark, that have not ended.

        One that this store has seen ended is not looked at again: who begins it again says so.
        """
        ids, strangers = self._ids()
        unseen = [id for id in ids if id not in self._ended]
        ended, _ = read_each(self.end, unseen)
        self._ended.update(ended)
        specs, faults = read_each(self.spec, [id for id in unseen if id not in ended])
        self._log.name([*strangers, *faults.values()])
        return [
            id
            for id, spec in specs.items()
            if is_same_base(spec.model.base, base) and spec.benchmark == benchmark
        ]

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
        spec = self.spec(id)
        if spec is None or "request.json" not in (keys := self._keys(id)):
            return None
        end = _end(keys)
        done = sum(key.startswith("pictures/") for key in keys)
        status: Status = ENDS[end] if end else ("running" if done else "queued")
        error, score, result = None, None, None
        try:
            if end == "failed" and (failure := self._read(id, end, Failure)):
                error = failure.error
            if end == "result":
                score = self._score(id)
                result = self._read(id, end, EvaluationResult) if whole else None
        except CorruptRecord as fault:
            status, error = "failed", f"{end}.json is corrupt ({fault.reason}); {fault.cure}"
        return Evaluation(
            id=id,
            status=status,
            model=spec.model.id,
            identity=spec.model.identity,
            benchmark=spec.benchmark,
            benchmark_digest=spec.digest,
            task=spec.task,
            cases=spec.cases,
            seed=spec.seed,
            judge=spec.judge,
            scale=spec.scale,
            created=spec.created,
            progress=Progress(done=min(done, spec.total), total=spec.total),
            error=error,
            score=score,
            result=result,
        )

    def _score(self, id: str) -> MeanScore | None:
        """The score of a result; None if it was taken away meanwhile."""
        if id not in self._scores and (result := self._read(id, "result", EvaluationResult)):
            fields = result.model_dump(include=set(MeanScore.model_fields))
            self._scores[id] = MeanScore(**fields)
        return self._scores.get(id)

    def _keys(self, id: str) -> set[str]:
        """The keys of its records, without what they share."""
        home = f"{_home(id)}/"
        return {key[len(home) :] for key in self._store.list(home)}

    def _read(self, id: str, end: End, kind: type[Record]) -> Record | None:
        """How it ended; None if that was taken away meanwhile."""
        return read_record(self._store, f"{_home(id)}/{end}.json", kind, ASK_AGAIN)

    def _is_sound(self, id: str, end: Literal["result"] | None = None) -> bool:
        """Whether the record of its request, or of its result, can be read."""
        try:
            if end:
                self._read(id, end, EvaluationResult)
            else:
                self.spec(id)
        except CorruptRecord:
            return False
        return True

    def _ids(self) -> tuple[list[str], list[CorruptRecord]]:
        """The ids that there are, and folders that no evaluation has."""
        names = list(self._store.folders(HOME))
        ids = [name for name in names if ID.fullmatch(name)]
        strangers = [
            CorruptRecord(self._store.url(_home(name)), "not the id of an evaluation", "remove it")
            for name in names
            if not ID.fullmatch(name)
        ]
        return ids, strangers


def _end(keys: set[str]) -> End | None:
    return next((end for end in ENDS if f"{end}.json" in keys), None)


def _home(id: str) -> str:
    return f"{HOME}{id}"

"""Evaluations in object storage: a request, pictures as they are drawn, one end.

Everything about an evaluation lies under evaluations/ID/: request.json, pictures/CASE.png, and,
when it has ended, one of result.json, failed.json and cancelled.json. Equal requests have one id,
so they share one result.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from flash_ray.miniature.benchmark import BENCHES
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.schemas import Evaluation, EvaluationRequest, Progress
from flash_ray.storage.s3 import Store

HOME = "evaluations/"
READS = 8  # records read at a time
ENDS = {"result": "succeeded", "failed": "failed", "cancelled": "cancelled"}
Read = TypeVar("Read")


@dataclass(frozen=True)
class Asked:
    """What is evaluated: a model's answers to the first `cases` of each category of a bench.

    Args:
        vlm: what decides the answers of a judge that is a VLM, else None.
    """

    model: ServedModel
    bench: str
    cases: int
    seed: int
    created: int
    judge: str = "exact"  # records without these two are of a time that had no other
    vlm: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        return self.cases * len(BENCHES[self.bench])


class EvaluationStore:
    """Reads and writes the records of one store; for several threads."""

    def __init__(self, store: Store):
        self._store = store
        self._asked: dict[str, Asked] = {}  # requests never change
        self._ended: set[str] = set()

    def open(
        self, request: EvaluationRequest, model: ServedModel, vlm: dict[str, Any] | None = None
    ) -> tuple[str, bool]:
        """The id of an evaluation, and whether it has to be started: it is new, failed or was
        cancelled."""
        fields = request.model_dump(exclude={"model"})
        asked = Asked(model, **fields, created=int(time.time()), vlm=vlm)
        name = _name(asked)
        new = self._store.put_bytes_if_absent(
            f"{_home(name)}/request.json", json.dumps(asdict(asked)).encode()
        )
        end = None if new else self.end(name)
        if end in ("failed", "cancelled"):
            self._store.delete(f"{_home(name)}/{end}.json")
        return name, new or end in ("failed", "cancelled")

    def asked(self, name: str) -> Asked | None:
        """What was asked for under that id; None if nothing was."""
        asked = self._asked.get(name)
        if asked is None and (fields := self._read(name, "request")) is not None:
            model = fields.pop("model")
            asked = Asked(ServedModel(**{**model, "sigmas": tuple(model["sigmas"])}), **fields)
            self._asked[name] = asked
        return asked

    def page(self, limit: int, after: str | None) -> tuple[list[Evaluation], bool]:
        """Evaluations without their results, the newest first, and whether there are more.

        Args:
            after: the id of the last one that the caller has; one that there is.
        """
        names = list(self._store.folders(HOME))
        asked = {name: what for name, what in _each(self.asked, names).items() if what}
        places = sorted((-what.created, name) for name, what in asked.items())
        if after is not None and (last := self.asked(after)):
            places = [place for place in places if place > (-last.created, after)]
        names, found = [name for _, name in places], []
        while names and len(found) < limit:  # some may have been deleted since they were read
            now, names = names[: limit - len(found)], names[limit - len(found) :]
            found += [view for view in _each(partial(self.view, whole=False), now).values() if view]
        return found, bool(names)

    def unfinished(self, base: str) -> list[str]:
        """The ids of those of models of that base that have not ended.

        One that this book has seen ended is not looked at again: who begins it again says so.
        """
        ends = _each(self.end, [n for n in self._store.folders(HOME) if n not in self._ended])
        self._ended.update(name for name, end in ends.items() if end)
        asked = {name: self.asked(name) for name, end in ends.items() if end is None}
        return [name for name, what in asked.items() if what and what.model.base == base]

    def end(self, name: str) -> str | None:
        """`result`, `failed` or `cancelled`; None if it has not ended."""
        return _end(self._parts(name))

    def finish(self, name: str, end: str, content: dict[str, Any]) -> None:
        """Writes how it ended; a result outweighs a cancellation that came too late."""
        text = json.dumps(content, allow_nan=False).encode()
        self._store.put_bytes_if_absent(f"{_home(name)}/{end}.json", text)

    def pictures(self, name: str) -> set[str]:
        """The ids of the cases that are drawn."""
        home = f"{_home(name)}/pictures/"
        return {key[len(home) :].removesuffix(".png") for key in self._store.list(home)}

    def put_picture(self, name: str, case: str, data: bytes) -> None:
        self._store.put_bytes(f"{_home(name)}/pictures/{case}.png", data)

    def picture(self, name: str, case: str) -> bytes | None:
        """The answer to a case, a PNG; None if there is none yet."""
        return self._store.get_bytes(f"{_home(name)}/pictures/{case}.png")

    def view(self, name: str, whole: bool = True) -> Evaluation | None:
        """The evaluation as clients see it; `whole`: with its result. None if there is none."""
        parts, asked = self._parts(name), self.asked(name)
        if asked is None or "request.json" not in parts:
            return None
        end = _end(parts)
        done = sum(part.startswith("pictures/") for part in parts)
        ended = self._read(name, end) if end and (whole or end == "failed") else None
        return Evaluation(
            id=name,
            status=ENDS[end] if end else ("running" if done else "queued"),
            model=asked.model.id,
            bench=asked.bench,
            cases=asked.cases,
            seed=asked.seed,
            judge=asked.judge,
            created=asked.created,
            progress=Progress(done=done, total=asked.total),
            error=ended["error"] if ended and end == "failed" else None,
            result=ended if end == "result" and whole else None,
        )

    def _parts(self, name: str) -> set[str]:
        """The keys of its records, without what they share."""
        home = f"{_home(name)}/"
        return {key[len(home) :] for key in self._store.list(home)}

    def _read(self, name: str, part: str) -> dict[str, Any] | None:
        text = self._store.get_bytes(f"{_home(name)}/{part}.json")
        return None if text is None else json.loads(text)


def _each(read: Callable[[str], Read], names: Sequence[str]) -> dict[str, Read]:
    with ThreadPoolExecutor(READS) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def _end(parts: set[str]) -> str | None:
    return next((end for end in ENDS if f"{end}.json" in parts), None)


def _home(name: str) -> str:
    return f"{HOME}{name}"


def _name(asked: Asked) -> str:
    """By what decides the result: an alias that moved on is another evaluation."""
    model = asked.model
    decides: list[Any] = [model.digest, model.base, model.sigmas, model.guidance, model.rescale]
    decides += [asked.bench, asked.cases, asked.seed]
    if asked.judge != "exact":
        decides += [asked.judge, asked.vlm]
    text = json.dumps(decides, sort_keys=True)
    return f"eval-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

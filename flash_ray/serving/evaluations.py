"""Evaluations in object storage: a request, pictures as they are drawn, one end.

Everything about an evaluation lies under evaluations/ID/: request.json, pictures/CASE.png, and,
when it has ended, one of result.json, failed.json and cancelled.json. Equal requests have one id,
so they share one result.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flash_ray.checkpoints.storage import Store
from flash_ray.miniature.bench import BENCHES
from flash_ray.serving.models import Model
from flash_ray.serving.schemas import Evaluation, EvaluationRequest, Progress

ENDS = {"result": "succeeded", "failed": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Asked:
    """What is evaluated: a model's answers to the first `cases` of each category of a bench."""

    model: Model
    bench: str
    cases: int
    seed: int
    created: int

    @property
    def total(self) -> int:
        return self.cases * len(BENCHES[self.bench])


class EvaluationBook:
    """Reads and writes the records of one store."""

    def __init__(self, store: Store):
        self._store = store

    def open(self, request: EvaluationRequest, model: Model) -> tuple[str, bool]:
        """The id of an evaluation, and whether it has to be started: it is new, failed or was
        cancelled."""
        asked = Asked(model, request.bench, request.cases, request.seed, int(time.time()))
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
        fields = self._read(name, "request")
        if fields is None:
            return None
        model = fields.pop("model")
        return Asked(Model(**{**model, "sigmas": tuple(model["sigmas"])}), **fields)

    def names(self) -> Iterator[str]:
        """The ids of all evaluations."""
        for key in self._store.list("evaluations/"):
            parts = key.split("/")
            if len(parts) == 3 and parts[2] == "request.json":
                yield parts[1]

    def unfinished(self) -> list[str]:
        """The ids of those that have not ended."""
        return [name for name in self.names() if self.end(name) is None]

    def end(self, name: str) -> str | None:
        """`result`, `failed` or `cancelled`; None if it has not ended."""
        ends = {key.split("/")[-1] for key in self._store.list(f"{_home(name)}/") if ".json" in key}
        return next((end for end in ENDS if f"{end}.json" in ends), None)

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
        asked = self.asked(name)
        if asked is None:
            return None
        end = self.end(name)
        done = len(self.pictures(name))
        ended = self._read(name, end) if end and (whole or end == "failed") else None
        return Evaluation(
            id=name,
            status=ENDS[end] if end else ("running" if done else "queued"),
            model=asked.model.id,
            bench=asked.bench,
            cases=asked.cases,
            seed=asked.seed,
            created=asked.created,
            progress=Progress(done=done, total=asked.total),
            error=ended["error"] if ended and end == "failed" else None,
            result=ended if end == "result" and whole else None,
        )

    def _read(self, name: str, part: str) -> dict[str, Any] | None:
        text = self._store.get_bytes(f"{_home(name)}/{part}.json")
        return None if text is None else json.loads(text)


def _home(name: str) -> str:
    return f"evaluations/{name}"


def _name(asked: Asked) -> str:
    """By what decides the result: an alias that moved on is another evaluation."""
    model = asked.model
    decides = [model.digest, model.base, model.sigmas, model.guidance, model.rescale]
    text = json.dumps([*decides, asked.bench, asked.cases, asked.seed])
    return f"eval-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

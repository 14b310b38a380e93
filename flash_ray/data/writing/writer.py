"""Has the writer fill what a spec wants: asks, keeps what can be used, asks again for the rest."""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from flash_ray.data.alike import alike, plain
from flash_ray.data.writing.folder import Row, RowFile
from flash_ray.data.writing.questions import Answer, Kind, fault, messages, read_answers
from flash_ray.data.writing.spec import WritingSpec
from flash_ray.data.writing.wanted import Wanted, lacking
from flash_ray.errors import UserError
from flash_ray.models.endpoint import Endpoint, Reply

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

TRIES = 5  # at one row, in one command
USELESS = 10  # answers in a row without any row, after which the writer is of no use
REMINDED = 8  # prompts of a category that the writer is shown: it repeats itself less


@dataclass(frozen=True)
class Stage:
    """One kind of rows, all that the spec wants of it.

    Args:
        rows: where they go.
        about: what each category is, for the writer.
        avoid: prompts of benchmarks.
        picture: gives the picture of an id, as PNG, for edits.
        origin: gives more fields of a row, by the id of its picture.
    """

    kind: Kind
    wanted: Sequence[Wanted]
    rows: RowFile
    about: Callable[[str], str]
    avoid: Sequence[str] = ()
    picture: Callable[[str], bytes] | None = None
    origin: Callable[[str], Row] = field(default=lambda picture: {})


class Writer:
    """Writes stages with one endpoint and its budget.

    What it is told goes to the files in this thread alone, as soon as it comes.

    Attributes:
        dropped: answers that could not be used, by why.
    """

    def __init__(
        self,
        spec: WritingSpec,
        endpoint: Endpoint,
        requests: RowFile,
        progress: Callable[[str, int, int], None],
    ):
        self.dropped = Counter[str]()
        self._spec, self._endpoint, self._requests = spec, endpoint, requests
        self._progress = progress
        self._useless = 0

    def write(self, stage: Stage) -> list[Wanted]:
        """Has the rows written that are not there yet; returns those that could not be had.

        Raises:
            UserError: the endpoint cannot be used, the budget is spent, or the answers hold no
                rows. What was answered until then is kept.
        """
        missing, before = lacking(stage.wanted, stage.rows.rows), len(stage.rows.rows)
        queue, known = _Queue(missing, self._spec.batch), _Known(self._spec.alike, stage)
        problem: UserError | None = None
        flying = 0
        with _Askers(self._endpoint, self._spec.writer.concurrency) as askers:
            while True:
                while flying < self._spec.writer.concurrency and not problem:
                    if not (tries := queue.take()):
                        break
                    askers.send(tries, self._messages(stage, tries, known))
                    flying += 1
                if not flying:
                    break
                answered, reply = askers.next()
                flying -= 1
                try:
                    queue.put_back(self._keep(stage, answered, reply, known))
                except UserError as error:
                    problem = problem or error  # what else was asked is still waited for
                left = len(missing) - (len(stage.rows.rows) - before)
                self._progress(stage.kind, len(stage.wanted) - left, len(stage.wanted))
        if problem:
            raise problem
        return queue.given_up

    def _messages(
        self, stage: Stage, tries: "Sequence[_Try]", known: "_Known"
    ) -> "list[ChatCompletionMessageParam]":
        wanted = [each.wanted for each in tries]
        category, name = wanted[0].category, wanted[0].picture
        picture = stage.picture(name) if stage.picture and name else None
        written = known.latest(category)
        return messages(stage.kind, stage.about(category), wanted, written, picture)

    def _keep(
        self, stage: Stage, tries: "Sequence[_Try]", reply: "Reply | Exception", known: "_Known"
    ) -> "list[_Try]":
        """Writes what can be used of a reply; returns what is to be asked for again."""
        if isinstance(reply, Exception):
            raise reply
        answers = {} if reply.refused else read_answers(reply.text)
        request, rows, again = len(self._requests.rows) + 1, list[Row](), list[_Try]()
        dropped = Counter[str]()
        for number, each in enumerate(tries, 1):
            answer = answers.get(number)
            reason = "refused" if reply.refused else "not answered"
            if answer is not None:
                reason = fault(each.wanted, answer) or known.fault(answer.prompt) or ""
            if answer is None or reason:
                dropped[reason] += 1
                again.append(_Try(each.wanted, each.count + 1))
                continue
            known.add(each.wanted.category, answer.prompt)
            rows.append(self._row(stage, each.wanted, answer, request))
        self.dropped += dropped
        note = {"kind": stage.kind, "asked": len(tries), "written": len(rows)}
        self._requests.append([self._note(request, reply, note, dropped)])
        stage.rows.append(rows)
        self._validate_use(reply, bool(answers))
        return again

    def _row(self, stage: Stage, wanted: Wanted, answer: Answer, request: int) -> Row:
        content = json.dumps([stage.kind, answer.prompt, wanted.picture])
        own: Row = {"picture": wanted.picture} if wanted.picture else {}
        return {
            "id": hashlib.sha256(content.encode()).hexdigest()[:12],
            "category": wanted.category,
            "prompt": answer.prompt,
            "text": answer.text if wanted.has_text else None,
            "rendered_text": wanted.has_text,
            "language": wanted.language,
            "theme": wanted.theme,
            "writer": self._spec.writer.model,
            "request": request,
            **own,
            **(stage.origin(wanted.picture) if wanted.picture else {}),
        }

    def _note(
        self, request: int, reply: Reply, note: dict[str, Any], dropped: Counter[str]
    ) -> dict[str, Any]:
        writer = self._spec.writer
        return {
            "request": request,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "base_url": writer.base_url,
            "model": writer.model,
            "parameters": writer.parameters,
            **note,
            "dropped": dict(dropped),
            "tokens": reply.tokens,
        }

    def _validate_use(self, reply: Reply, is_useful: bool) -> None:
        """Raises UserError after too many answers without any row."""
        self._useless = 0 if is_useful else self._useless + 1
        if self._useless < USELESS:
            return
        last = "it refuses" if reply.refused else repr((reply.text or "")[:80])
        raise UserError(
            f"writer.model: {USELESS} answers of {self._spec.writer.model} in succession hold no "
            f"row, the last: {last}; allowed: a model that answers in JSON; choose another, or "
            "give it more tokens in writer.parameters; what was written is kept"
        )


@dataclass(frozen=True)
class _Try:
    """A row that is wanted, and how often it was asked for."""

    wanted: Wanted
    count: int = 0


class _Queue:
    """Rows yet to be asked for; those of one request have category, language and picture alike."""

    def __init__(self, wanted: Sequence[Wanted], batch: int):
        self._batch, self._groups = batch, dict[tuple, deque[_Try]]()
        self.given_up: list[Wanted] = []
        self.put_back([_Try(row) for row in wanted])

    def take(self) -> list[_Try]:
        """Those of the next request; none if none is left."""
        name = next(iter(self._groups), None)
        if name is None:
            return []
        group = self._groups[name]
        taken = [group.popleft() for _ in range(min(self._batch, len(group)))]
        if not group:
            del self._groups[name]
        return taken

    def put_back(self, tries: Sequence[_Try]) -> None:
        """Has rows asked for again, but for those that were asked for often enough."""
        for each in tries:
            row = each.wanted
            if each.count >= TRIES:
                self.given_up.append(row)
            else:
                group = row.category, row.language, row.picture
                self._groups.setdefault(group, deque()).append(each)


class _Known:
    """Prompts that are not to be written again."""

    def __init__(self, percent: int, stage: Stage):
        self._percent, self._avoid = percent, [plain(prompt) for prompt in stage.avoid]
        self._written: list[str] = []
        self._latest: dict[str, deque[str]] = {}
        for row in stage.rows.rows:
            self.add(str(row.get("category")), str(row.get("prompt")))

    def fault(self, prompt: str) -> str | None:
        """Why a prompt cannot be used, in a few words; None: it can."""
        for others, reason in ((self._avoid, "in a benchmark"), (self._written, "near-duplicate")):
            if alike([plain(prompt)], others, self._percent):
                return reason
        return None

    def add(self, category: str, prompt: str) -> None:
        self._written.append(plain(prompt))
        self._latest.setdefault(category, deque(maxlen=REMINDED)).append(prompt)

    def latest(self, category: str) -> list[str]:
        """The last prompts of a category."""
        return list(self._latest.get(category, ()))


class _Askers:
    """Threads that ask. They end with the process: Ctrl-C need not wait for a slow server."""

    def __init__(self, endpoint: Endpoint, count: int):
        self._endpoint, self._count = endpoint, count
        self._todo = SimpleQueue[tuple[list[_Try], Any] | None]()
        self._done = SimpleQueue[tuple[list[_Try], Reply | Exception]]()

    def __enter__(self) -> "_Askers":
        for _ in range(self._count):
            Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(self._count):
            self._todo.put(None)

    def send(self, tries: list[_Try], asked: "list[ChatCompletionMessageParam]") -> None:
        self._todo.put((tries, asked))

    def next(self) -> tuple[list[_Try], Reply | Exception]:
        """What was asked for and the reply, or why there is none, as they come."""
        return self._done.get()

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None:
            tries, asked = todo
            try:
                self._done.put((tries, self._endpoint.ask(asked)))
            except Exception as error:  # raised again where it is taken out
                self._done.put((tries, error))

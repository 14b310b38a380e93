"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

EVERY_S = 10.0  # between plain lines of one stage


class Steps:
    """Shows how far each stage of a command is; a context manager."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line: tuple[str, float] = ("", 0.0)  # its stage, and when
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bars."""
        seconds = time.monotonic() - self._start
        self._bar.console.print(
            f"{seconds:6.0f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def show(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Shows that the stage is at `done` of `total`."""
        if not self._console.is_terminal:
            self._plain(stage, done, total, detail)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, detail=detail)
        self._bar.update(self._tasks[stage], completed=done, detail=detail)

    def _plain(self, stage: str, done: int, total: int, detail: str) -> None:
        last_stage, when = self._last_line
        now = time.monotonic()
        if last_stage != stage or done == total or now - when >= EVERY_S:
            self._last_line = (stage, now)
            self.say(f"{stage}: {done}/{total}{'  ' if detail else ''}{detail}")

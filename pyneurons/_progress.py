"""Progress of long work: what is done, tokens per second, time left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_EVERY_S = 30.0


def _bar_on(console: Console) -> RichProgress:
    """Return a bar whose rate is that of the last while; rich is loaded only to show progress."""
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            scale = float(task.fields.get("scale", 1.0))
            unit = str(task.fields.get("unit", ""))
            return Text("" if speed is None else f"{speed * scale:,.0f} {unit}/s", style="green")

    return RichProgress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>4.0f} %"),
        RateColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )


class Progress:
    """A bar on a terminal; elsewhere a line every 30 seconds; nothing when disabled.

    Everything goes to standard error, so that results on standard output stay clean.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._console: Console | None = None
        self._enabled = enabled
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._total = 0.0
        self._done = 0.0
        self._scale = 1.0
        self._unit = ""
        self._what = ""
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._enabled:
            from rich.console import Console

            self._console = Console(stderr=True)
            if self._console.is_terminal:
                self._bar = _bar_on(self._console)
                self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str, total: float | None, *, unit: str, scale: float = 1.0) -> None:
        """Begin a stage of ``total`` steps (None: unknown); a step is ``scale`` units."""
        self._what, self._total, self._done = what, total or 0.0, 0.0
        self._scale, self._unit = scale, unit
        self._began = self._last_line = time.monotonic()
        if self._bar is not None:
            for task in self._bar.tasks:  # a stage whose size was unknown, or overestimated
                self._bar.update(task.id, total=task.completed or 1, completed=task.completed or 1)
            self._task = self._bar.add_task(what, total=total, unit=unit, scale=scale)

    def warn(self, what: str) -> None:
        """Print a line, also where progress is not shown."""
        if self._console is None:
            sys.stderr.write(f"warning: {what}\n")
        else:
            self._console.print(f"warning: {what}", highlight=False, markup=False)

    def say(self, what: str) -> None:
        """Name what is being done."""
        self._what = what
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)

    def reach(self, steps: float, what: str) -> None:
        """Tell that ``steps`` are done in all."""
        self.say(what)
        self.advance(steps - self._done)

    def advance(self, steps: float) -> None:
        """Tell that ``steps`` more are done."""
        self._done += steps
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)
        elif self._console is not None and time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            seconds = self._last_line - self._began
            rate = self._done * self._scale / seconds
            line = f"{self._what}: {rate:,.0f} {self._unit}/s"
            if self._total:
                left = seconds * (self._total - self._done) / max(self._done, 1e-9)
                line += f", {100 * self._done / self._total:.0f} %, about {left:,.0f} s left"
            self._console.print(line, highlight=False)

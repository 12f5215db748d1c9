"""A run on the terminal: accuracies and doubts before, a bar while it is made, a summary after."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from certmix.commands import arguments
from certmix.formatting import percent_nearest, ratio, upper
from certmix.runs.listener import After, Before, Listener


class Bar:
    """Of what is done, on standard error, and only where somebody looks at it."""

    def __init__(self, doing: str) -> None:
        console = Console(stderr=True)
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def progress(self, done: int, total: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)

    def stop(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._task = None


class Terminal(Listener):
    """A bar while the run is made."""

    def __init__(self) -> None:
        self._bar = Bar("certifying")

    def before(self, found: Before) -> None:
        plain = ", not smoothed" if found.smoothed else ""
        shown = ", ".join(f"{name} {percent_nearest(*ratio(share))} %" for name, share in found.accuracies.items())
        print(f"accuracy on the {found.inputs} inputs{plain}: {shown}", flush=True)
        arguments.warn(found.doubts)

    def progress(self, done: int, total: int) -> None:
        self._bar.progress(done, total)

    def refuted(self, index: int, advice: str, saved: Path) -> None:
        print(f"REFUTED: input {index}: {advice}; reproduce with {saved}")

    def after(self, found: After) -> None:
        self.stopped()
        resumed = f" ({found.proven} of the {found.session} proven in this session)" if found.resumed else ""
        print(f"{found.certified} of {found.inputs} inputs certified{resumed}: {found.path}")
        if found.attackable is not None and found.certified < found.inputs:
            print(f"of the others {found.attackable} are attackable (a confirmed attack), {found.open} are open")
        if found.cost is not None:
            print(f"largest relative part of a proposed radius that the judge did not accept: {upper(found.cost, 3)}")
        print(f"next: certmix check {found.path}; certmix report {found.path}")

    def stopped(self) -> None:
        self._bar.stop()

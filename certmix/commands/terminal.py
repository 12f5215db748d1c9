"""A run on the terminal: accuracies and doubts before, a bar while it is made, a summary after; or events in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from certmix.commands import arguments
from certmix.formatting import nearest, percent_nearest, ratio, upper
from certmix.provers.problem import Pursued
from certmix.runs.listener import After, Before, Listener, SoFar

BETWEEN_LINES = 30.0  # seconds


class Bar:
    """Of what is done, on standard error; where nobody looks at it, a line now and then."""

    def __init__(self, doing: str) -> None:
        console = Console(stderr=True)
        self._doing = doing
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None
        self._began, self._said, self._before = 0.0, 0.0, 0

    def progress(self, done: int, total: int, so_far: SoFar | None = None) -> None:
        now, ends = monotonic(), "" if so_far is None else in_words(so_far)
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._doing, total=total)
            self._began = self._said = now
            self._before = done
        self._bar.update(self._task, completed=done, description=self._doing + ends)
        if self._bar.disable and now >= self._said + BETWEEN_LINES:
            self._said = now
            per_second = (done - self._before) / (now - self._began)
            left = "" if per_second == 0 else f", about {upper((total - done) / per_second, 2)} s left"
            print(f"{self._doing}: {done} of {total}, {nearest(per_second, 2)} a second{left}{ends}", file=sys.stderr)

    def say(self, doing: str) -> None:
        """What is done just now, until the next progress."""
        if self._task is not None:
            self._bar.update(self._task, description=doing)

    def stop(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._task = None


def in_words(so_far: SoFar) -> str:
    """What became of inputs, behind what is done: nothing where nothing is decided."""
    shown = [f"{n} {name}" for name, n in dataclasses.asdict(so_far).items() if n]
    return f" ({', '.join(shown)})" if shown else ""


def pursuit(how: Pursued) -> str:
    """How far branching on an input has come, in a line."""
    left = "" if how.seconds is None else f", {int(how.seconds)} s left"
    parts = f"{how.proven} of {how.parts} parts proven, the worst lacks {nearest(how.lack, 2)}"
    return f"input {how.index} at radius {nearest(how.radius, 4)}: {parts}{left}"


class Terminal(Listener):
    """A bar while the run is made."""

    def __init__(self) -> None:
        self._bar = Bar("certifying")

    def before(self, found: Before) -> None:
        plain = ", not smoothed" if found.smoothed else ""
        shown = ", ".join(f"{name} {percent_nearest(*ratio(share))} %" for name, share in found.accuracies.items())
        if found.accuracies:
            print(f"accuracy on the {found.inputs} inputs{plain}: {shown}", flush=True)
        else:
            print(f"the {found.inputs} inputs have no labels: nothing is known to be correct", flush=True)
        for note in found.notes:
            print(note, flush=True)
        arguments.warn(found.doubts)

    def progress(self, done: int, total: int, so_far: SoFar | None = None) -> None:
        self._bar.progress(done, total, so_far)

    def pursued(self, how: Pursued) -> None:
        self._bar.say(pursuit(how))

    def refuted(self, index: int, advice: str, saved: Path) -> None:
        print(f"REFUTED: input {index}: {advice}; reproduce with {saved}")

    def after(self, found: After) -> None:
        self.stopped()
        if found.missing:
            done = f"{found.inputs - found.missing} of {found.inputs} inputs are done"
            print(f"{done}, {found.certified} certified: {found.path}")
            print(f"next: the other parts (--shard), here or elsewhere; certmix merge {found.path} DIR … --out DIR")
            return
        before = f"{found.proven} of the {found.session} proven in this session, the others as their lines say"
        resumed = f" ({before})" if found.resumed else ""
        print(f"{found.certified} of {found.inputs} inputs certified{resumed}: {found.path}")
        if found.attackable is not None and found.certified < found.inputs:
            print(f"of the others {found.attackable} are attackable (a confirmed attack), {found.open} are open")
        if found.cost is not None:
            print(f"largest relative part of a proposed radius that the judge did not accept: {upper(found.cost, 3)}")
        if found.compared is not None:
            text, doubtful = found.compared.in_words()
            arguments.warn([text]) if doubtful else print(text)
        print(f"next: certmix check {found.path}; certmix report {found.path}")

    def stopped(self) -> None:
        self._bar.stop()


class Quiet(Listener):
    """Only what may be a mistake, and attacks that refute a certificate."""

    def before(self, found: Before) -> None:
        arguments.warn(found.doubts)

    def refuted(self, index: int, advice: str, saved: Path) -> None:
        print(f"REFUTED: input {index}: {advice}; reproduce with {saved}", file=sys.stderr)


class Events(Listener):
    """Each thing that is told, as a JSON object in a line of standard output."""

    def before(self, found: Before) -> None:
        _event("before", dataclasses.asdict(found))

    def progress(self, done: int, total: int, so_far: SoFar | None = None) -> None:
        _event("progress", {"done": done, "total": total, **({} if so_far is None else dataclasses.asdict(so_far))})

    def pursued(self, how: Pursued) -> None:
        _event("branching", dataclasses.asdict(how))

    def refuted(self, index: int, advice: str, saved: Path) -> None:
        _event("refuted", {"index": index, "advice": advice, "saved": str(saved)})

    def after(self, found: After) -> None:
        _event("after", {**dataclasses.asdict(found), "path": str(found.path)})


def _event(name: str, said: dict[str, object]) -> None:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in said.items()}
    print(json.dumps({"event": name, **finite}, allow_nan=False), flush=True)

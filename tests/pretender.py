"""A worker that proves nothing, and fails as it is told: what executes tasks is tried with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from certmix.errors import UsageError
from certmix.runs.audit import Audit
from certmix.runs.batches import Batch, Task, Worker

COUNT = 5
TASKS = (Task(0, 2), Task(2, 4), Task(4, 5))


@dataclasses.dataclass(frozen=True, eq=False)
class Pretender(Worker):
    """Proves nothing, and fails at input 3 as `fault` says, in a task of at least `least` inputs; where there is a file
    `once` it does so the first time only."""

    fault: str = ""
    least: int = 1
    once: Path | None = None

    def __call__(self, task: Task) -> Batch:
        if task.start <= 3 < task.stop and len(task) >= self.least and not self._failed_before():
            match self.fault:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "memory":
                    raise MemoryError
                case "usage":
                    raise UsageError("input 3 is odd")
                case "bug":
                    raise ZeroDivisionError("deep inside")
        return self.given_up(task, f"pretended with {len(task)}")

    def _failed_before(self) -> bool:
        if self.once is None:
            return False
        before = self.once.exists()
        self.once.touch()
        return before

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["fault"] == "unborn":
            raise OSError("no such device")
        super().__setstate__(state)


@dataclasses.dataclass(frozen=True, eq=False)
class Echo(Worker):
    """Says of each input what came of it: the sha256 of its bytes."""

    def __call__(self, task: Task) -> Batch:
        lines = tuple(hashlib.sha256(x.tobytes()).hexdigest().encode() for x in self.inputs)
        return Batch(task, lines, (), {}, (), ())


def pretender(of: Audit, **fault: Any) -> Pretender:
    worker = Worker(of.standard, of.robust, of.data.inputs, of.data.labels, of.settings, of.prover)
    values = {f.name: getattr(worker, f.name) for f in dataclasses.fields(worker)}
    return Pretender(**values, **fault)


def why(batches: Iterable[Batch]) -> dict[int, str]:
    """What is said of each input, which must be there once."""
    lines = [json.loads(line) for batch in batches for line in batch.lines]
    said = {line["index"]: line["advice"] for line in lines}
    assert len(lines) == len(said) == COUNT
    assert {line["reason"] for line in lines} == {"NOT_EXECUTED"}
    return said


def offspring(process: int) -> Iterator[int]:
    """Its direct children."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:  # it has ended meanwhile
            continue
        if int(stat.rpartition(")")[2].split()[1]) == process:
            yield int(path.parent.name)

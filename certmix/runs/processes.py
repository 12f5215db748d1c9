"""A run's tasks in several processes of this machine, of which any may die."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from certmix.provers.problem import Pursued
from certmix.runs.attempts import Attempt, Failed, Lost, WorkerError, attempted
from certmix.runs.batches import Batch, Task, Worker

READY = "ready"  # a process has its worker


@dataclass(frozen=True)
class Processes:
    """Executes the tasks of a run in `jobs` processes, each with a copy of the worker.

    A process that dies is started anew, and what it was at is tried again, then in halves: a batch that was too large
    ends well, and of an input that kills twice the run says so. tell: hears how branching goes, wherever that is.
    Ensures: where no task kills twice, the batches of one process. Raises what a process raised: UsageError and OSError
    as they are.
    """

    jobs: int
    tell: Callable[[Pursued], None] | None = None

    def __call__(self, work: Worker, tasks: Iterable[Task]) -> Iterator[Batch]:
        left = deque(Attempt(task) for task in tasks)
        with ExitStack() as stack:
            processes = [stack.enter_context(_Process(work)) for _ in range(min(self.jobs, len(left)))]
            while left or any(p.at is not None for p in processes):
                for process in processes:
                    if left and process.at is None:
                        process.start(left.popleft())
                busy = {p.connection: p for p in processes if p.at is not None}
                for ready in wait(list(busy)):
                    process = busy[ready]  # type: ignore[index]  # of what it was given, which are connections
                    answer = process.answer()
                    if isinstance(answer, Batch):
                        yield answer
                    elif isinstance(answer, Pursued):
                        if self.tell is not None:
                            self.tell(answer)
                    elif answer is not None:
                        again = answer.again()
                        left.extendleft(reversed(again))
                        if not again:
                            yield work.given_up(answer.attempt.task, answer.why)


@dataclass(eq=False)
class _Process:
    """One process, and what it is at. It ends with this one, however that ends."""

    work: Worker
    at: Attempt | None = None
    ready: bool = False
    process: Any = field(init=False, default=None)
    connection: Connection = field(init=False)

    def __enter__(self) -> _Process:
        self._begin()
        return self

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, self.work), daemon=True)
        self.process.start()
        other.close()  # so that its end is seen here
        self.ready = False

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def start(self, attempt: Attempt) -> None:
        self.at = attempt
        with contextlib.suppress(OSError):  # it has died: `answer` says so
            self.connection.send(attempt.task)

    def answer(self) -> Batch | Pursued | Lost | None:
        """What it has to say: a batch, how it goes, or what came to nothing. None: that it can begin. Raises
        WorkerError where it never could, and what it raised."""
        if self.at is None:
            raise RuntimeError("a process without a task has nothing to say")
        attempt = self.at
        try:
            said = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            how = _how(self.process.exitcode)
            if not self.ready:  # no fault of the task: the next would not begin either
                raise WorkerError(f"a process of the run {how} before it could begin") from None
            self.at = None
            self.connection.close()
            self._begin()
            return Lost(attempt, f"the process that proves it {how}")
        if said == READY:
            self.ready = True
            return None
        if isinstance(said, Pursued):
            return said
        self.at = None
        return said.lost(attempt) if isinstance(said, Failed) else said


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", as where memory runs out" if -code == signal.SIGKILL else "")
    return f"ended with exit code {code}"


def _serve(connection: Connection, work: Worker) -> None:
    """A process of a run: tasks in, batches out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's process hears it, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = dataclasses.replace(work, tell=connection.send)
    connection.send(READY)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(attempted(worker, task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

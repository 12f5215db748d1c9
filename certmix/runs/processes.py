"""A run's tasks in several processes of this machine, of which any may die."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from certmix.errors import UsageError
from certmix.provers.problem import Pursued
from certmix.provers.session import out_of_memory
from certmix.runs.batches import OUT_OF_MEMORY, Batch, Task, Worker

TRIES = 2  # for an input alone
READY = "ready"  # a process has its worker


@dataclass(frozen=True)
class Failed:
    """What a process says of a task that it could not execute. memory: for want of it. error: what was raised, if it
    travels; text: its trace."""

    memory: bool
    error: Exception | None
    text: str


class WorkerError(RuntimeError):
    """An error in another process; its text is the trace there."""


@dataclass(frozen=True)
class Processes:
    """Executes the tasks of a run in `jobs` processes, each with a copy of the worker.

    A process that dies is started anew, and what it was at is tried in halves: a batch that was too large ends well,
    and of an input that kills twice the run says so. tell: hears how branching goes, wherever that is. Ensures: where
    none dies, the batches of one process. Raises what a process raised: UsageError and OSError as they are.
    """

    jobs: int
    tell: Callable[[Pursued], None] | None = None

    def __call__(self, work: Worker, tasks: Iterable[Task]) -> Iterator[Batch]:
        left = deque((task, 0) for task in tasks)
        with ExitStack() as stack:
            processes = [stack.enter_context(_Process(work)) for _ in range(min(self.jobs, len(left)))]
            while left or any(p.at is not None for p in processes):
                for process in processes:
                    if left and process.at is None:
                        process.start(*left.popleft())
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
                        task, tries, why = answer
                        if len(task) > 1:
                            left.extendleft((half, 0) for half in reversed(task.halves()))
                        elif tries + 1 < TRIES:
                            left.appendleft((task, tries + 1))
                        else:
                            yield work.given_up(task, why)


@dataclass(eq=False)
class _Process:
    """One process, and what it is at. It ends with this one, however that ends."""

    work: Worker
    at: tuple[Task, int] | None = None
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

    def start(self, task: Task, tries: int) -> None:
        self.at = (task, tries)
        with contextlib.suppress(OSError):  # it has died: `answer` says so
            self.connection.send(task)

    def answer(self) -> Batch | Pursued | tuple[Task, int, str] | None:
        """What it has to say: a batch, how it goes, or the task that came to nothing, how often it was tried and why.
        None: that it can begin. Raises WorkerError where it never could, and what it raised."""
        if self.at is None:
            raise RuntimeError("a process without a task has nothing to say")
        task, tries = self.at
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
            return task, tries, f"the process that proves it {how}"
        if said == READY:
            self.ready = True
            return None
        if isinstance(said, Pursued):
            return said
        self.at = None
        if isinstance(said, Failed):
            if not said.memory:
                raise WorkerError(said.text) if said.error is None else said.error
            return task, tries, OUT_OF_MEMORY
        return said


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
        try:
            answer: Batch | Failed = worker(task)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other side raises it, or tries again
            told = error if isinstance(error, UsageError | OSError) else None
            answer = Failed(out_of_memory(error), told, "".join(traceback.format_exception(error)))
        connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""A task where it may come to nothing: what is said of it then, and how it is tried again."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from certmix.errors import UsageError
from certmix.provers.session import out_of_memory
from certmix.runs.batches import OUT_OF_MEMORY, Batch, Task, Worker

TRIES = 2  # for a task as it is


class WorkerError(RuntimeError):
    """An error in another process; its text is the trace there."""


@dataclass(frozen=True)
class Attempt:
    """A task, and how often it came to nothing as it is."""

    task: Task
    failed: int = 0


@dataclass(frozen=True)
class Lost:
    """An attempt that came to nothing. why: a sentence. memory: it is known that it was for want of it."""

    attempt: Attempt
    why: str
    memory: bool = False

    def again(self) -> list[Attempt]:
        """What to try next, in order; none: nothing is left to try.

        A process that died may have been killed by anybody: the task is tried once more as it is, so that a machine
        that goes away leaves no trace in what a run says. Then in halves, and where memory ran out at once.
        """
        task, failed = self.attempt.task, self.attempt.failed + 1
        if failed < TRIES and (len(task) == 1 or not self.memory):
            return [Attempt(task, failed)]
        return [Attempt(half) for half in task.halves()] if len(task) > 1 else []


@dataclass(frozen=True)
class Failed:
    """What a process says of a task that it could not execute. memory: for want of it. error: what was raised, if it
    travels; text: its trace."""

    memory: bool
    error: Exception | None
    text: str

    def lost(self, attempt: Attempt) -> Lost:
        """Raises what was raised there, unless memory ran out."""
        if self.memory:
            return Lost(attempt, OUT_OF_MEMORY, memory=True)
        raise WorkerError(self.text) if self.error is None else self.error


def attempted(work: Worker, task: Task) -> Batch | Failed:
    """What a process has to say of a task."""
    try:
        return work(task)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other side raises it, or tries again
        told = error if isinstance(error, UsageError | OSError) else None
        return Failed(out_of_memory(error), told, "".join(traceback.format_exception(error)))

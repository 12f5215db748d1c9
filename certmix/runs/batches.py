"""A run as tasks: ranges of inputs in, lines and what is kept beside them out, wherever that is executed.

`Worker` is a pure function of a `Task` that can be pickled, so an executor may call it here, in other processes or on
other machines; what it prepares once it prepares again wherever it wakes up.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.mixing.adaptive import AdaptiveMix
from certmix.models.model import Model
from certmix.provers.certify import Prover
from certmix.provers.problem import Archiver, ProverProblem, Pursued
from certmix.provers.session import Session, open_session, out_of_memory
from certmix.records.bound_archive import ArchivedBound
from certmix.records.lines import record_line
from certmix.records.outcomes import Abstained, Attack, Certified, Falsified, Outcome, Reason
from certmix.records.unfinished import Desk
from certmix.settings import Settings
from proofs_check.certificate import ClassOf


@dataclass(frozen=True)
class Task:
    """Inputs start, …, stop - 1 of the run."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def halves(self) -> tuple[Task, Task]:
        """Requires more than one input."""
        middle = self.start + (len(self) + 1) // 2
        return Task(self.start, middle), Task(middle, self.stop)


@dataclass(frozen=True, eq=False)
class Refuted:
    """An attack that left a certified class: what is needed to see it again."""

    index: int
    advice: str
    input: NDArray[np.float32]
    counterexample: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Batch:
    """What became of a task. lines: one per input, in order. bounds: by input index, for other alphas and temperatures.
    attacks: by input index. radii: (proposed, judged) of each certificate. attackable: inputs without one, of which an
    attack is confirmed."""

    task: Task
    lines: tuple[bytes, ...]
    bounds: tuple[tuple[int, ArchivedBound], ...]
    attacks: dict[int, Attack]
    refuted: tuple[Refuted, ...]
    radii: tuple[tuple[float, float], ...]
    attackable: int = 0


@dataclass(frozen=True, eq=False)
class Worker:
    """Proves tasks of one run. inputs (N, *shape) float32, labels (N,): of the run, from its input `first` on.

    desk, tell: of its problems. Requires models whose modules can be pickled where it is; the models' references stay
    behind, and so does who is told.
    """

    standard: Model
    robust: Model
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    settings: Settings
    prover: Prover
    desk: Desk | None = None
    tell: Callable[[Pursued], None] | None = None
    adaptive: AdaptiveMix | None = None
    first: int = 0
    prepared: list[Session] = field(default_factory=list)

    def __call__(self, task: Task) -> Batch:
        torch.set_num_threads(self.settings.threads)
        bounds: list[tuple[int, ArchivedBound]] = []

        def keep(index: int, bound: ArchivedBound) -> None:
            bounds.append((index, bound))

        problem = self.problem(task, keep if self.settings.curves else None)
        if not self.prepared:
            self.prepared.append(open_session(problem))
        outcomes = self.prover(problem, self.prepared[0])
        numbered_outcomes = list(enumerate(outcomes))
        return Batch(
            task=task,
            lines=tuple(_line(problem, k, outcome) for k, outcome in numbered_outcomes),
            bounds=tuple(bounds),
            attacks=_attacks(problem, outcomes),
            refuted=tuple(
                Refuted(problem.indices[k], o.advice, problem.input(k), o.counterexample)
                for k, o in numbered_outcomes
                if isinstance(o, Falsified)
            ),
            radii=tuple((o.proposed_radius, o.radius) for o in outcomes if isinstance(o, Certified)),
            attackable=sum(isinstance(o, Abstained) and o.attack is not None for o in outcomes),
        )

    def given_up(self, task: Task, why: str) -> Batch:
        """What becomes of a task that cannot be executed: no input gets a certificate. why: what happened."""
        class_of: ClassOf = "mix" if self.settings.use_standard else "robust"
        problem = self.problem(task)
        model = problem.mix if self.settings.use_standard else self.robust.module
        lines: list[bytes] = []
        for k, x in enumerate(problem.inputs.split(1)):
            with torch.no_grad():
                predicted = int(model(x).argmax())
            lines.append(_line(problem, k, problem.abstained(predicted, Reason.NOT_EXECUTED, why, class_of)))
        return Batch(task, tuple(lines), (), {}, (), ())

    def problem(self, task: Task, archive: Archiver | None = None) -> ProverProblem:
        """The task as provers take it."""
        mine = self.of(task)
        inputs = torch.from_numpy(np.ascontiguousarray(mine.inputs, dtype=np.float32))
        labels = tuple(int(label) for label in mine.labels)
        indices = tuple(range(task.start, task.start + len(labels)))
        models, told = (self.standard, self.robust), (archive, self.desk, self.tell)
        return ProverProblem(*models, inputs, indices, labels, self.settings, *told, self.adaptive)

    def of(self, task: Task) -> Worker:
        """The same with no inputs but the task's; what is prepared is shared."""
        its = slice(task.start - self.first, task.stop - self.first)
        return dataclasses.replace(self, inputs=self.inputs[its], labels=self.labels[its], first=task.start)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is prepared, and without the models' references: neither is needed to prove, nor travels."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        models = {name: dataclasses.replace(kept[name], reference=None) for name in ("standard", "robust")}
        return {**kept, **models, "tell": None, "prepared": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


Executor = Callable[[Worker, Iterable[Task]], Iterable[Batch]]
"""Executes tasks, and yields what became of them in any order; the parts of a task that was too much, on their own."""

OUT_OF_MEMORY = "memory runs out on this input alone: use fewer --jobs, a smaller --branch-parts, or a larger machine"


def here(work: Worker, tasks: Iterable[Task]) -> Iterator[Batch]:
    """Execute one after another in this process; a batch for which memory runs out in halves."""
    for task in tasks:
        left = deque([task])
        while left:
            part = left.popleft()
            try:
                yield work(part)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if len(part) == 1:
                    yield work.given_up(part, OUT_OF_MEMORY)
                else:
                    left.extendleft(reversed(part.halves()))


def _line(problem: ProverProblem, k: int, outcome: Outcome) -> bytes:
    if isinstance(outcome, Certified):
        return outcome.line
    return record_line(problem.indices[k], problem.labels[k], outcome)


def _attacks(problem: ProverProblem, outcomes: list[Outcome]) -> dict[int, Attack]:
    indexed_outcomes = zip(problem.indices, outcomes, strict=True)
    return {i: o.attack for i, o in indexed_outcomes if not isinstance(o, Falsified) and o.attack is not None}

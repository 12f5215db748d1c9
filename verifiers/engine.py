"""What every bounding engine is asked and answers. Engines are untrusted: the judge re-derives the claim.

A network is prepared once; the state this gives is asked about again and again, and what an answer leaves is where
the next one may start (as `init` and `compute` of lineax, options and device being fields of the engine itself).

To add an engine: one file with a frozen dataclass deriving from `Engine`, one line in `verifiers.ENGINES`;
the laws in tests/verifiers/test_engine_laws.py then run on it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from proofs_check.certificate import Norm, PlainNetwork
from verifiers.perturbation import Balls

Interval = tuple[Tensor, Tensor]


class EngineError(Exception):
    """The engine cannot answer this query (absent, unsupported layer, out of memory): the text says why."""


# ---------------------------------------------------------------- questions


@dataclass(frozen=True, eq=False)
class Constraints:
    """What is known of inner values on the balls of a query, whoever found it: an engine intersects its own with it.

    values: by node of the plain network, (lower, upper), (N, *shape) each, infinite where nothing is known. final:
    tightening them further is not worth a backward pass.
    """

    values: dict[int, Interval] = field(default_factory=dict)
    final: bool = False

    def pick(self, index: Tensor | slice) -> Constraints:
        """Those of the inputs `index` (possibly repeated)."""
        return Constraints({k: (a[index], b[index]) for k, (a, b) in self.values.items()}, self.final)


NOTHING_KNOWN = Constraints()


@dataclass(frozen=True, eq=False)
class Query:
    """Bounds wanted of R linear functions of the K logits on each of N balls.

    rows: (N, R, K), the specification matrix of each ball. steps: gradient steps spent on it, None: the engine's own.
    goal: (N, R), upper bounds below it are good enough, or None. upper_only: lower bounds may be -inf.
    """

    balls: Balls
    rows: Tensor
    constraints: Constraints = NOTHING_KNOWN
    steps: int | None = None
    goal: Tensor | None = None
    upper_only: bool = False

    def __post_init__(self) -> None:
        if self.rows.ndim != 3 or len(self.rows) != len(self.balls):
            raise ValueError(f"rows must have shape ({len(self.balls)}, R, K), got {tuple(self.rows.shape)}")
        if self.goal is not None and self.goal.shape != self.rows.shape[:2]:
            raise ValueError(f"goal must have shape {tuple(self.rows.shape[:2])}, got {tuple(self.goal.shape)}")

    def pick(self, index: Tensor | slice) -> Query:
        """The question about the inputs `index` alone."""
        goal = None if self.goal is None else self.goal[index]
        constraints = self.constraints.pick(index)
        return replace(self, balls=self.balls.pick(index), rows=self.rows[index], constraints=constraints, goal=goal)


def differences(predicted: Tensor, classes: int) -> Tensor:
    """(N, K, K) float64 rows of d_j = z_j - z_y, y = predicted (N,); row y is 0."""
    eye = torch.eye(classes, dtype=torch.float64, device=predicted.device)
    return eye - eye[predicted][:, None]


def rows_that_count(rows: Tensor) -> Tensor:
    """(N, R') indices of the rows (N, R, K) that are not 0, ascending; where a ball has fewer than another, some that
    are."""
    counts = rows.ne(0).any(2)
    most = int(counts.sum(1).max()) if len(rows) else 0
    return counts.byte().argsort(dim=1, descending=True, stable=True)[:, :most]


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower, upper: (N, R) float64 bounds of the rows on each ball, on the CPU."""

    lower: Tensor
    upper: Tensor


class Layers(Protocol):
    """What an engine found of the layers on the balls of one query; its own, opaque to who asks."""

    def pick(self, index: Tensor) -> Layers:
        """Those of the inputs `index` (possibly repeated)."""
        ...

    def constraints(self) -> dict[int, Interval]:
        """Bounds of inner values on these balls, by node of the plain network; they hold on smaller ones too."""
        ...

    def witness(self, box: Tensor | None, exponential: Tensor | None) -> tuple[bytes | None, ...]:
        """Per input what the judge re-derives the bounds from (FORMAT.md, network_margin), None: it needs nothing.

        box, exponential: (N, K, n) slopes that the passes of d_j and of the exponential form ended with, or None.
        """
        ...


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Where an answer may start. layers: found on these very balls, or None. slopes: per ball (R, n), of the
    relaxations, row by row of the query, in the engine's own order; None where none are known. Slopes of another
    radius are good to start from."""

    layers: Layers | None
    slopes: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What `engine` found about a query, and what it takes to go on from there."""

    engine: Engine
    state: Any
    query: Query
    bounds: Bounds
    left: WarmStart | None

    def upper_bounds(
        self, inputs: Tensor, rows: Tensor, goal: Tensor, steps: int, start: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """(M,) upper bounds of a row (M, K) on the ball of each of the `inputs` (M,), and the slopes (n,) they end
        with. goal: (M,). start: slopes (n,) to start from."""
        layers = None if self.left is None or self.left.layers is None else self.left.layers.pick(inputs)
        query = Query(self.query.balls.pick(inputs), rows[:, None], steps=steps, goal=goal[:, None], upper_only=True)
        first = tuple(None if one is None else one[None] for one in start)
        bounds, warm_start = self.engine.bound(self.state, query, WarmStart(layers, first))
        slopes = (None,) * len(inputs) if warm_start is None else warm_start.slopes
        return bounds.upper[:, 0], tuple(None if one is None else one[0] for one in slopes)

    def further(self, rows: Tensor) -> Bounds:
        """Bounds of other rows (N, R, K) on the same balls, with the slopes that all rows share."""
        layers = None if self.left is None else self.left.layers
        query = Query(self.query.balls, rows, steps=0)
        return self.engine.bound(self.state, query, WarmStart(layers, (None,) * len(rows)))[0]

    def slopes(self) -> Tensor | None:
        """(N, R, n) that the passes ended with, None where none were tuned."""
        return None if self.left is None else stacked(self.left.slopes)

    def witness(self, exponential: Tensor | None = None) -> tuple[bytes | None, ...]:
        """Per input what the judge re-derives the bounds of d_j from. exponential: (N, K, n) slopes of that form."""
        if self.left is None or self.left.layers is None:
            return (None,) * len(self.query.balls)
        return self.left.layers.witness(self.slopes(), exponential)


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do beyond bounding. Where it cannot, callers do without, and never ask which engine it is.

    witness: the judge finds the same bounds, up to rounding, from `Layers.witness`: tuning pays under his eyes, too.
    warm_start: slopes of an earlier answer are tuned further. second_form: with the layers of an earlier answer on the
    same balls further rows cost a last pass alone.
    """

    witness: bool = False
    warm_start: bool = False
    second_form: bool = False


@dataclass(frozen=True, eq=False)
class MarginQuery:
    """A question that stands alone: bounds of d_j = z_j - z_y over balls around a batch of inputs.

    network: the plain network with logits z. inputs: (N, *network.input_shape) float32, raw units.
    radius: (N,) float64 >= 0, raw units, one per input. domain: every coordinate lies in [low, high], or
    None. predicted: (N,) int64, the class y of each input.
    """

    network: PlainNetwork
    inputs: Tensor
    norm: Norm
    radius: Tensor
    domain: tuple[float, float] | None
    predicted: Tensor

    def __post_init__(self) -> None:
        if tuple(self.inputs.shape[1:]) != self.network.input_shape:
            raise ValueError(f"inputs must have shape (N, {self.network.input_shape}), got {tuple(self.inputs.shape)}")
        if self.predicted.shape != self.inputs.shape[:1]:
            raise ValueError(f"predicted must have shape ({len(self.inputs)},), got {tuple(self.predicted.shape)}")
        self.query()  # checks the radii

    def query(self) -> Query:
        """The same as rows and balls."""
        balls = Balls(self.inputs, self.radius, self.norm, self.domain)
        return Query(balls, differences(self.predicted, self.network.classes))


@dataclass(frozen=True, eq=False)
class LogitBounds:
    """lower, upper: (N, K) float64, lower <= d_j <= upper on each ball; column y of each row is 0.

    witness: per input, hints from which the judge re-derives bounds as good (see proofs_check/FORMAT.md,
    rule network_margin), or None.
    """

    lower: Tensor
    upper: Tensor
    witness: tuple[bytes | None, ...]

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or self.lower.dtype != torch.float64:
            raise ValueError(f"bounds must be float64 of one shape, got {self.lower.shape}, {self.upper.shape}")


# ---------------------------------------------------------------- engines


@dataclass(frozen=True, kw_only=True)
class Engine(abc.ABC):
    """A bounder of linear functions of logits; its fields are its options.

    steps: gradient steps spent on the slopes of each row, 0 for none. device: where it computes, in torch's words.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    batch: ClassVar[int] = 32  # inputs that `bounds` asks about at once

    steps: int = 0
    device: str = "cpu"

    @classmethod
    def require_installed(cls) -> None:
        """Raises EngineError, saying how to install it, where the engine needs a package that cannot be imported."""
        return

    @abc.abstractmethod
    def prepare(self, network: PlainNetwork) -> Any:
        """The network where and as this engine computes: the state of all questions about it.

        Raises EngineError where the device cannot be used, or the network not be represented."""

    @abc.abstractmethod
    def bound(self, state: Any, query: Query, warm_start: WarmStart | None = None) -> tuple[Bounds, WarmStart | None]:
        """Requires: the constraints hold; warm_start is of this engine, its layers of these very balls. Ensures
        (untrusted): lower <= rows . z <= upper on every ball. What is returned beside is where a next question may
        start, or None.

        Raises EngineError, with a reason a user can act on, where this engine cannot answer.
        """

    def answer(self, state: Any, query: Query, warm_start: WarmStart | None = None) -> Answer:
        """The same as `bound`, with what it takes to ask on."""
        return Answer(self, state, query, *self.bound(state, query, warm_start))

    def bounds(self, query: MarginQuery, state: Any = None) -> LogitBounds:
        """Bounds of d_j from nothing, in batches. state: of `prepare`, None: it is prepared for this question alone."""
        state = self.prepare(query.network) if state is None else state
        asked, logit_bounds = query.query(), list[LogitBounds]()
        for part in _batches(len(query.inputs), self.batch):
            answer = self.answer(state, asked.pick(part))
            logit_bounds.append(LogitBounds(answer.bounds.lower, answer.bounds.upper, answer.witness()))
        if not logit_bounds:
            none = torch.zeros(0, query.network.classes, dtype=torch.float64)
            return LogitBounds(none, none, ())
        lower, upper = (torch.cat([getattr(p, name) for p in logit_bounds]) for name in ("lower", "upper"))
        return LogitBounds(lower, upper, tuple(w for p in logit_bounds for w in p.witness))


def stacked(slopes: tuple[Tensor | None, ...]) -> Tensor | None:
    """(N, R, n) slopes of all balls, None where none are known of some."""
    tensors = [one for one in slopes if one is not None]
    return torch.stack(tensors) if tensors and len(tensors) == len(slopes) else None


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(i, i + size) for i in range(0, count, size))

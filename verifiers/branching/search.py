"""Branch and bound: parts of balls are split until a linear majorant answers each of them (docs/maths.md 10)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from proofs_check.certificate import PlainNetwork
from verifiers.branching.choice import choose
from verifiers.branching.compact import compact
from verifiers.branching.parts import (
    Anew,
    Hints,
    Leaf,
    Majorant,
    MajorantOf,
    Parts,
    Root,
    Side,
    Trial,
    in_units,
    majorant_at,
)
from verifiers.branching.refute import counterexample
from verifiers.crown.engine import Crown, CrownLayers
from verifiers.crown.network import CrownNetwork
from verifiers.crown.slopes import Descent, quantised
from verifiers.engine import Answer, EngineError, Query

T = TypeVar("T")
ROUNDING = 1e-9  # of the excess: what float64 may round away
SMALL, SHARED_STEPS = 1024, 15  # neurons of a network whose shared slopes are tuned, too; steps
RECALL = 0.8  # of the steps before, in the average of points
MOST_EXTRA_STEPS = 40  # of tuning, two for every side of a part: the more sides, the more multipliers to find


@dataclass(frozen=True)
class Budget:
    """What may be spent on each input: seconds by the clock, and parts that are bounded. Where inputs share a batch, so
    they do its time."""

    seconds: float
    parts: float = math.inf
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to about one input.

    leaves: of each question, parts that are proven. open: of each question, parts that are neither proven nor split.
    excess: of the worst of these, 0 if there is none. bounded, seconds: spent. point: (D,) of the ball, where a
    question is answered no, if such a one was met: then the search ended there.
    """

    leaves: dict[int, list[Leaf]]
    open: dict[int, list[Leaf]]
    excess: float
    bounded: int
    seconds: float
    point: Tensor | None = None

    @property
    def proven(self) -> bool:
        """Every question is answered."""
        return not self.unproven

    @property
    def unproven(self) -> int:
        """How many parts are open."""
        return sum(map(len, self.open.values()))

    @property
    def parts(self) -> int:
        """How many the ball is cut into, for all questions."""
        return self.unproven + sum(map(len, self.leaves.values()))

    def partition(self) -> dict[int, list[Leaf]]:
        """Of each question all parts, from which another search may start, at another radius, too."""
        return {q: self.leaves[q] + self.open[q] for q in self.leaves}


# told now and then how far input k has come
Listener = Callable[[int, Found], None]


@dataclass(frozen=True, eq=False)
class Open:
    """A part that is not proven. upper: (K,) bounds of d there, neurons: (2, m) of neurons, also those that children
    may not inherit as theirs. unit: of its majorant, 0 where it has none yet. point: of the ball, where the question
    is answered no."""

    owner: int
    root: Root
    question: int
    leaf: Leaf
    excess: float
    upper: Tensor
    neurons: Tensor
    unit: float
    point: Tensor | None = None


@dataclass(eq=False)
class Account:
    """What the search has of one input so far."""

    leaves: dict[int, list[Leaf]]
    open: list[Open] = field(default_factory=lambda: [])
    bounded: int = 0
    seconds: float = 0.0
    point: Tensor | None = None

    def within(self, budget: Budget) -> bool:
        return self.point is None and self.seconds < budget.seconds and self.bounded < budget.parts

    def found(self) -> Found:
        parts: dict[int, list[Leaf]] = {q: [] for q in self.leaves}
        for part in self.open:
            parts[part.question].append(part.leaf)
        excess = max((part.excess for part in self.open), default=0.0)
        leaves = {q: list(v) for q, v in self.leaves.items()}
        return Found(leaves, parts, excess, self.bounded, self.seconds, self.point)


@dataclass(frozen=True)
class Branching:
    """Branch and bound on top of the native engine, whose answer in float64 it starts from.

    bounds: that engine. parts: bounded at once. steps: of tuning, per part; root_steps: of a part with no sides.
    """

    bounds: Crown = field(default_factory=lambda: Crown(steps=20, precision="float64"))
    parts: int = 64
    steps: int = 8
    root_steps: int = 40

    def prepare(self, network: PlainNetwork) -> CrownNetwork:
        """See Engine.prepare."""
        return self.bounds.prepare(network)

    def answer(self, state: CrownNetwork, query: Query) -> Answer:
        """Bounds of d, the query's rows, on the balls: what a search starts from. Raises EngineError."""
        return self._engine(state).answer(state, query)

    def _engine(self, state: CrownNetwork) -> Crown:
        """The engine, which also tunes what all passes before the last share where that is cheap: every part gains."""
        if self.bounds.shared_steps or state.slopes > SMALL:
            return self.bounds
        return dataclasses.replace(self.bounds, shared_steps=SHARED_STEPS)

    @torch.no_grad()
    def search(
        self,
        answer: Answer,
        predicted: Tensor,
        questions: Sequence[Sequence[int]],
        majorant_of: MajorantOf,
        budget: Budget,
        start: Sequence[dict[int, list[Leaf]] | None] | None = None,
        listener: Listener | None = None,
    ) -> list[Found]:
        """What is found of every input. answer: of `answer`, about d of the classes predicted (N,). questions: what is
        asked about each input, by number. start: partitions of its ball, of another search, or None: the whole ball.

        Ensures (untrusted): leaves and open parts of a question cover the ball, and each leaf answers it.
        """
        roots = [_root(answer, predicted, k) if asked else None for k, asked in enumerate(questions)]
        accounts = [Account({q: [] for q in asked}) for asked in questions]
        first = [
            Open(k, root, q, leaf, math.inf, root.upper, torch.stack([root.net.lower, root.net.upper]), 0.0)
            for k, root in enumerate(roots)
            if root is not None
            for q in questions[k]
            for leaf in ((start[k] or {}) if start else {}).get(q) or [_whole_ball(root, q)]
        ]
        self._bound(majorant_of, first, accounts, budget)
        while chosen := self._next(accounts, budget):
            begun = budget.clock()
            children = [
                dataclasses.replace(part, leaf=functools.reduce(Leaf.split, sides, part.leaf))
                for some, several in _by_owner(lambda some: self._sides(majorant_of, some), chosen)
                for part, one in zip(some, several, strict=True)
                for sides in itertools.product(*((side, side.other()) for side in one))
            ]
            _charge(accounts, chosen, budget.clock() - begun)
            self._bound(majorant_of, children, accounts, budget)
            if listener is not None:
                for k in sorted({part.owner for part in chosen}):
                    listener(k, accounts[k].found())
        return [account.found() for account in accounts]

    def _next(self, accounts: list[Account], budget: Budget) -> list[Open]:
        """The parts to split next, taken from the accounts: of each input the worst, inputs sharing alike."""
        sharing = [a for a in accounts if a.open and a.within(budget)]
        chosen: list[Open] = []
        for position, account in enumerate(sorted(sharing, key=lambda a: len(a.open))):
            share = (self.parts - len(chosen)) // (len(sharing) - position)
            account.open.sort(key=lambda part: -part.excess)
            chosen += account.open[: max(share, 1)]
            del account.open[: max(share, 1)]
        return chosen

    def _sides(self, majorant_of: MajorantOf, chosen: list[Open]) -> list[list[Side]]:
        """The sides > 0 of the splits of each part."""
        root, parts = _beside(chosen)
        upper = torch.minimum(parts.upper, torch.stack([part.upper for part in chosen]))
        excess = parts.upper.new_tensor([part.excess for part in chosen])
        low, high = torch.stack([part.neurons for part in chosen], 1)
        parts = dataclasses.replace(parts, low=low, high=high, upper=upper, excess=excess)
        units = parts.upper.new_tensor([part.unit for part in chosen])
        return choose(root, majorant_of, parts, units, self.parts)

    def _bound(self, majorant_of: MajorantOf, parts: list[Open], accounts: list[Account], budget: Budget) -> None:
        """Bound these parts; they go to the accounts as leaves where they are proven, else as open. What is left when
        the budget is spent stays as it is, but for the first batch."""
        for first in range(0, len(parts), self.parts):
            chunk, begun = parts[first : first + self.parts], budget.clock()
            if first:
                for part in (late := [part for part in chunk if not accounts[part.owner].within(budget)]):
                    accounts[part.owner].open.append(part)
                chunk = [part for part in chunk if part not in late]
            for some, bounded in _by_owner(lambda some: self._bounded(majorant_of, some), chunk):
                for part, result in zip(some, bounded, strict=True):
                    account = accounts[part.owner]
                    account.bounded += 1
                    if isinstance(result, Leaf):
                        account.leaves[part.question].append(result)
                    else:
                        account.open.append(result)
                        account.point = account.point if result.point is None else result.point
            _charge(accounts, chunk, budget.clock() - begun)

    def _bounded(self, majorant_of: MajorantOf, chunk: list[Open]) -> list[Leaf | Open]:
        """Each part of one ball tuned: a leaf where it is proven."""
        root, cut = _beside(chunk)
        trial, units = root.trial, root.upper.new_tensor([part.unit for part in chunk])
        kinds = [cut, root.differences_anew(cut)]
        if trial.pays:
            kinds.append(root.differences_anew(root.neurons_anew(cut)))
        majorants = [majorant_at(root, majorant_of, parts) for parts in kinds]
        parts, majorant = kinds[-1], majorants[-1]
        depth = max(map(len, parts.paths))
        steps = self.steps + min(2 * depth, MOST_EXTRA_STEPS) if depth else self.root_steps
        tuned, points = _tuned(root, in_units(parts, majorant, units), majorant, steps)
        judged = dataclasses.replace(tuned, hints=tuned.hints.scaled(majorant.unit).exported())
        excess = torch.stack([
            root.bound(root.lines(one), one, judged.hints.scaled(1 / of.unit), of).excess
            for one, of in zip(kinds, majorants, strict=True)
        ])  # fmt: skip
        proofs = (excess < -ROUNDING) | torch.stack([one.empty for one in kinds])
        proven, least = proofs.any(0), proofs.int().argmax(0).tolist()
        left = (~proven).nonzero().flatten()
        if depth and trial.pays:
            trial.count(excess[1:, left])
        point = counterexample(root, majorant_of, parts.question[left], points[left], judged.excess[left])
        return [
            root.leaf(judged, b, Anew(least[b]))
            if proven[b]
            else dataclasses.replace(part, leaf=root.leaf(judged, b, Anew.NOTHING), excess=float(judged.excess[b]),
                                     upper=judged.upper[b], neurons=torch.stack([judged.low[b], judged.high[b]]),
                                     unit=float(majorant.unit[b]), point=point)
            for b, part in enumerate(chunk)
        ]  # fmt: skip


def _root(answer: Answer, predicted: Tensor, k: int) -> Root:
    if answer.left is None or not isinstance(answer.left.layers, CrownLayers):
        raise TypeError("branching starts from an answer of the native engine, which keeps its layers")
    layers, slopes, bounds = answer.left.layers.bounds.pick(torch.tensor([k])), answer.slopes(), answer.bounds
    net = compact(layers)
    own = layers.slopes.expand(bounds.upper.shape[1], -1) if slopes is None else slopes[k]
    position, known = np.full(own.shape[1], -1), np.zeros(own.shape[1], dtype=np.int64)
    for node, (start, stop) in layers.net.slope_ranges.items():
        lower, upper = (v.flatten() for v in layers.values[layers.net.parents(node)[0]])
        known[start:stop] = ((lower > 0).long() - (upper < 0).long()).cpu().numpy()
    for index, column in enumerate(net.columns.tolist()):
        if column >= 0:
            position[column] = index
    shared = torch.maximum(net.by_neuron(quantised(layers.slopes))[0], net.leak)
    rows = answer.query.rows[k].to(bounds.upper.dtype)
    trial = Trial(sum(stage.last - stage.first for stage in net.stages if stage.first))
    return Root(net, int(predicted[k]), rows, bounds.lower[k], bounds.upper[k], own, shared, position, known, trial)


def _whole_ball(root: Root, question: int) -> Leaf:
    return Leaf((), Anew.NOTHING, root.levels(question), np.zeros(0, dtype=np.float32))


def _beside(parts: list[Open]) -> tuple[Root, Parts]:
    """The ball that these are parts of, and them beside one another."""
    return parts[0].root, parts[0].root.parts([part.question for part in parts], [part.leaf for part in parts])


def _by_owner(work: Callable[[list[Open]], list[T]], parts: list[Open]) -> Iterator[tuple[list[Open], list[T]]]:
    """What `work` makes of these parts, ball by ball."""
    for k in sorted({part.owner for part in parts}):
        yield from _within_memory(work, [part for part in parts if part.owner == k])


def _within_memory(work: Callable[[list[Open]], list[T]], parts: list[Open]) -> list[tuple[list[Open], list[T]]]:
    """What `work` makes of these parts, or of each half of them where memory does not hold the whole, and so on.

    Raises EngineError where it does not even hold one part."""
    try:
        return [(parts, work(parts))] if parts else []
    except (MemoryError, RuntimeError) as error:  # torch raises the latter, too
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        if len(parts) == 1:
            raise EngineError(f"memory does not hold one part of the ball of one input: {error}") from error
    middle = len(parts) // 2
    return _within_memory(work, parts[:middle]) + _within_memory(work, parts[middle:])


def _charge(accounts: list[Account], parts: list[Open], seconds: float) -> None:
    """Every part of a batch costs its input the same."""
    for part in parts:
        accounts[part.owner].seconds += seconds / len(parts)


def _tuned(root: Root, parts: Parts, majorant: Majorant, steps: int) -> tuple[Parts, Tensor]:
    """Descent on slopes and multipliers, intervals and majorants fixed; the best of each part is kept. Also points
    (B, D) of the ball, where the bounds of late steps were attained on average: about where the least bound is."""
    start, lines = parts.hints.tensors(), root.lines(parts)
    one = torch.ones_like(parts.excess)[:, None]
    sizes = [0.5 * one, *[0.1 * one] * 3]
    free = [lines.free, parts.signs.abs(), parts.cut_lower.isfinite(), parts.cut_upper.isfinite()]
    most = [1.0, torch.inf, torch.inf, torch.inf]
    descents = [Descent(v, f.to(v.dtype), 0.0, m) for v, f, m in zip(start, free, most, strict=True)]
    best, kept, points = torch.full_like(parts.excess, torch.inf), start, torch.zeros(())
    for step in range(steps + 1):
        hints = Hints(*(d.value for d in descents)).exported()
        bound = root.bound(lines, parts, hints, majorant)
        points = bound.found.point if step == 0 else RECALL * points + (1 - RECALL) * bound.found.point
        better = bound.excess < best
        best = torch.where(better, bound.excess, best)
        kept = [torch.where(better[:, None], new, old) for new, old in zip(hints.tensors(), kept, strict=True)]
        if step == steps or bool((best < -ROUNDING).all()):
            break
        gradients = root.gradient(bound, parts).tensors()
        for descent, gradient, size in zip(descents, gradients, sizes, strict=True):
            descent.move(gradient, size * 0.9**step)  # type: ignore[arg-type]
    return dataclasses.replace(parts, excess=best, hints=Hints(*kept)), points

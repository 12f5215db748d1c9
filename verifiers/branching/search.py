"""Branch and bound: parts of one ball are split until a linear majorant answers each of them (docs/maths.md 10)."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifiers.branching.parts import Hints, Majorant, MajorantOf, Parts, Root, Side, joined
from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.slopes import LEVELS, Descent

ROUNDING = 1e-9  # of the excess: what float64 may round away
NEURONS, DIFFERENCES = 3, 2  # candidates for a split, tried before one is chosen
LEAST_GAP = 0.02  # of the excess, that a split of d must be able to take away
SMALLER_SIDE = 0.3  # weight, in the choice, of the side that is nearer to its goal


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part that is proven. slopes: (n,) bytes. multipliers: one per side of the path. rebounded: d bounded anew."""

    path: tuple[Side, ...]
    rebounded: bool
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """leaves: of each question. open: parts that are neither proven nor split; none, if all questions are answered."""

    leaves: dict[int, list[Leaf]]
    open: int
    excess: float

    @property
    def parts(self) -> int:
        return self.open + sum(map(len, self.leaves.values()))


@dataclass(frozen=True)
class Branching:
    """seconds: that may be spent. parts: bounded at once. steps: of tuning, per part; root_steps: at the root."""

    seconds: float
    parts: int = 64
    steps: int = 8
    root_steps: int = 40

    @torch.no_grad()
    def search(self, root: Root, majorant_of: MajorantOf, questions: list[int]) -> Found:
        """Ensures (untrusted): if none is open, the leaves of each question cover the ball and answer it on each."""
        end = time.monotonic() + self.seconds
        leaves: dict[int, list[Leaf]] = {q: [] for q in questions}
        if not questions:
            return Found(leaves, 0, 0.0)
        pool = self._bounded(root, majorant_of, _whole_ball(root, questions), self.root_steps, leaves)
        while len(pool) and time.monotonic() < end:
            order = pool.excess.argsort(descending=True)
            rest, worst = pool.pick(order[self.parts :]), pool.pick(order[: self.parts])
            sides = _choose(root, majorant_of, worst, self.parts)
            children = joined([worst.split(sides), worst.split([s.other() for s in sides])])
            remaining = [self._bounded(root, majorant_of, c, self.steps, leaves) for c in _chunks(children, self.parts)]
            pool = joined([rest, *remaining])
        return Found(leaves, len(pool), float(pool.excess.max()) if len(pool) else 0.0)

    def _bounded(
        self, root: Root, majorant_of: MajorantOf, parts: Parts, steps: int, leaves: dict[int, list[Leaf]]
    ) -> Parts:
        """The parts that are not proven, bounded; those that are go to `leaves`."""
        here, empty = root.cut(parts.signs)
        split_upper = torch.minimum(root.upper, parts.cut_upper)
        empty |= (parts.lower > split_upper).any(1)
        upper = torch.minimum(
            split_upper, root.upper_differences(here)
        )  # not those of larger parts: the judge sees none
        rebounded_empty = empty | (parts.lower > upper).any(1)
        parts = dataclasses.replace(parts, upper=torch.maximum(upper, parts.lower))
        deeper = min(2 * max(map(len, parts.paths), default=0), 40)  # the more sides, the more multipliers to find
        parts = _tuned(root, here, parts, majorant_of(parts.lower, parts.upper, parts.question), steps + deeper)
        proven = rebounded_empty | (parts.excess < -ROUNDING)
        wider = majorant_of(parts.lower, torch.maximum(split_upper, parts.lower), parts.question)
        simpler = empty | (root.excess(here, parts, parts.hints, wider) < -ROUNDING)
        for b in proven.nonzero().flatten().tolist():
            leaves[int(parts.question[b])].append(_leaf(parts, b, not bool(simpler[b])))
        return parts.pick((~proven).nonzero().flatten())


def _whole_ball(root: Root, questions: list[int]) -> Parts:
    count, k, n = len(questions), len(root.upper), root.bounds.slopes.shape[1]
    zeros = root.upper.new_zeros
    slopes = root.slopes[questions]
    hints = Hints(slopes, zeros(count, n), zeros(count, k), zeros(count, k))
    infinite = torch.full((count, k), torch.inf, dtype=root.upper.dtype)
    box = root.lower.expand(count, -1), root.upper.expand(count, -1)
    paths: list[tuple[Side, ...]] = [()] * count
    return Parts(torch.tensor(questions), paths, zeros(count, n), -infinite, infinite, *box, zeros(count), hints)


def _chunks(parts: Parts, size: int) -> list[Parts]:
    return [parts.pick(index) for index in torch.arange(len(parts)).split(size)]


def _tuned(root: Root, here: IntermediateBounds, parts: Parts, majorant: Majorant, steps: int) -> Parts:
    """Descent on slopes and multipliers, intervals and majorants fixed; the best of each part is kept."""
    start = parts.hints.tensors()
    scale = majorant.coefficients.abs().amax(1, keepdim=True)
    sizes = [torch.full_like(scale, 0.5), *[0.1 * scale] * 3]
    free = [torch.ones_like(parts.signs), parts.signs.abs(), parts.cut_lower.isfinite(), parts.cut_upper.isfinite()]
    most = [1.0, torch.inf, torch.inf, torch.inf]
    descents = [Descent(v, f.to(v.dtype), 0.0, m) for v, f, m in zip(start, free, most, strict=True)]
    best, kept = torch.full_like(parts.excess, torch.inf), start
    for step in range(steps + 1):
        variables = [d.value.detach().requires_grad_() for d in descents]
        with torch.enable_grad():
            hints = Hints(*variables).exported()
            excess = root.excess(here, parts, hints, majorant)
            total = excess.sum()
        better = excess.detach() < best
        best = torch.where(better, excess.detach(), best)
        found = zip(hints.tensors(), kept, strict=True)
        kept = [torch.where(better[:, None], new.detach(), old) for new, old in found]
        if step == steps or bool((best < -ROUNDING).all()):
            break
        gradients = torch.autograd.grad(total, variables, allow_unused=True)
        for descent, gradient, size in zip(descents, gradients, sizes, strict=True):
            descent.move(gradient, size * 0.9**step)  # type: ignore[arg-type]
    return dataclasses.replace(parts, excess=best, hints=Hints(*kept))


# ---------------------------------------------------------------- where to split


def _choose(root: Root, majorant_of: MajorantOf, parts: Parts, size: int) -> list[Side]:
    """For each part the side > 0 of the candidate whose two sides come nearest to their goals, hints as they are."""
    candidates: list[list[Side]] = [[] for _ in range(len(parts))]
    for index in torch.arange(len(parts)).split(size):
        picked = parts.pick(index)
        here, _ = root.cut(picked.signs)
        majorant = majorant_of(picked.lower, picked.upper, picked.question)
        shares = root.intercept_shares(here, picked, majorant).masked_fill(picked.signs != 0, 0.0)
        top = shares.topk(min(NEURONS, shares.shape[1]), 1)
        gaps = majorant.gap.topk(min(DIFFERENCES, majorant.gap.shape[1]), 1)
        for b, k in enumerate(index.tolist()):
            for value, column in zip(top.values[b].tolist(), top.indices[b].tolist(), strict=True):
                if value > 0:
                    candidates[k].append(Side(False, column, 0.0, 1))
            for value, j in zip(gaps.values[b].tolist(), gaps.indices[b].tolist(), strict=True):
                at = float(majorant.middle[b, j])
                if value > LEAST_GAP * float(picked.excess[b]) and float(picked.lower[b, j]) < at < float(
                    picked.upper[b, j]
                ):
                    candidates[k].append(Side(True, j, at, 1))
            if not candidates[k]:
                candidates[k].append(_last_resort(here, picked, b))
    flat = [(k, side) for k, sides in enumerate(candidates) for side in sides]
    owners = torch.tensor([k for k, _ in flat])
    excess = [_tried(root, majorant_of, parts.pick(owners).split([s for _, s in c]), size)
              for c in (flat, [(k, s.other()) for k, s in flat])]  # fmt: skip
    score = torch.maximum(*excess) + SMALLER_SIDE * torch.minimum(*excess)
    chosen: dict[int, tuple[float, Side]] = {}
    for (k, side), value in zip(flat, score.tolist(), strict=True):
        if k not in chosen or value < chosen[k][0]:
            chosen[k] = value, side
    return [chosen[k][1] for k in range(len(parts))]


def _last_resort(here: IntermediateBounds, parts: Parts, b: int) -> Side:
    """A neuron of unknown sign, the farthest from knowing it; else the widest interval of d, in the middle."""
    ends = [here.values[here.net.parents(k)[0]] for k in here.net.slope_ranges]
    doubts = [torch.minimum(-lower[b], upper[b]).flatten() for lower, upper in ends]
    if doubts and float((doubt := torch.cat(doubts)).max()) > 0:
        return Side(False, int(doubt.argmax()), 0.0, 1)
    j = int((parts.upper[b] - parts.lower[b]).argmax())
    return Side(True, j, float((parts.upper[b, j] + parts.lower[b, j]) / 2), 1)


def _tried(root: Root, majorant_of: MajorantOf, parts: Parts, size: int) -> Tensor:
    """(B,) the excess with hints as they are; what is empty or closed is as good as can be: -goal."""
    found: list[Tensor] = []
    for picked in _chunks(parts, size):
        here, empty = root.cut(picked.signs)
        empty |= (picked.lower > picked.upper).any(1)
        majorant = majorant_of(picked.lower, torch.maximum(picked.lower, picked.upper), picked.question)
        excess = root.excess(here, picked, picked.hints.exported(), majorant)
        found.append(torch.where(empty, torch.minimum(excess, -majorant.goal.abs()), excess))
    return torch.cat(found)


# ---------------------------------------------------------------- what is written down


def _leaf(parts: Parts, b: int, rebounded: bool) -> Leaf:
    hints = parts.hints.pick(torch.tensor([b]))
    multipliers: list[float] = []
    for side in parts.paths[b]:
        if not side.difference:
            multipliers.append(float(hints.on_signs[0, side.index]))
            continue
        cut, on = (parts.cut_lower, hints.on_lower) if side.sign > 0 else (parts.cut_upper, hints.on_upper)
        tightest = float(cut[b, side.index]) == side.at
        multipliers.append(float(on[0, side.index]) if tightest else 0.0)
    levels = (hints.slopes[0] * LEVELS).round().to(torch.uint8).numpy()
    return Leaf(parts.paths[b], rebounded, levels, np.array(multipliers, dtype=np.float32))

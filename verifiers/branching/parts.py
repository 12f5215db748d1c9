"""Parts of balls, cut out by signs of ReLUs' inputs and by logit differences, and bounds there: docs/maths.md 10.

A `Leaf` is one part as it is kept: its sides, and what is tuned for it. `Parts` are some of one ball's beside one
another as tensors: row b is about part b. A leaf tells neurons by the columns of a row of the witness, parts tell them
as the compact network does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifiers.branching.compact import Compact, Lines, Pass
from verifiers.crown.slopes import LEVELS, quantised


@dataclass(frozen=True)
class Side:
    """One side of a split: sign (v - at) >= 0, v the logit difference d_index, or the input of neuron `index`."""

    difference: bool
    index: int
    at: float
    sign: int

    def other(self) -> Side:
        return dataclasses.replace(self, sign=-self.sign)


class Anew(IntEnum):
    """What is bounded anew in a part, beyond cutting the ball's bounds: nothing, d, or neurons and d."""

    NOTHING = 0
    DIFFERENCES = 1
    EVERYTHING = 2


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part of a ball, not split further. anew: what its proof needs. slopes: (n,) bytes. multipliers: one per side of
    the path."""

    path: tuple[Side, ...]
    anew: Anew
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]

    def split(self, side: Side) -> Leaf:
        """Cut by one more side, hints as they were: a new multiplier starts from 0, that of a tighter cut of d from
        that of the wider one, which no longer counts."""
        multipliers, first = self.multipliers.copy(), np.float32(0)
        if side.difference:
            for k, above in enumerate(self.path):
                if above.difference and (above.index, above.sign) == (side.index, side.sign):
                    first, multipliers[k] = max(first, multipliers[k]), 0
        return Leaf((*self.path, side), Anew.NOTHING, self.slopes, np.append(multipliers, first))


class Majorant(NamedTuple):
    """The question, made linear on B boxes of d: answered where coefficients (B, K) . d < goal (B,).

    The largest coefficient is 1; unit: (B,) what all was divided by, and what the judge's multipliers are multiples of.
    over_box: (B,) the largest coefficients . d over the box. gap: (B, K) how far the linear function may lie above the
    true one, by d; middle: (B, K) where that is.
    """

    coefficients: Tensor
    goal: Tensor
    over_box: Tensor
    gap: Tensor
    middle: Tensor
    unit: Tensor


ROUNDING = 1e-9  # relative: of bounds that exclude one another
TRIED, WORTH = 200, 0.95  # parts, after which neurons are bounded anew only if that leaves so little of the excess
MOST_ANEW = 512  # neurons that read others: with more a part would cost many times as much

# lower, upper (B, K) of d, the class y and the question's number (B,) each -> its majorant there
MajorantOf = Callable[[Tensor, Tensor, Tensor, Tensor], Majorant]


@dataclass(frozen=True, eq=False)
class Hints:
    """What is tuned: slopes (B, n), and multipliers >= 0 of the signs (B, n), and of the splits of d (B, K)."""

    slopes: Tensor
    on_signs: Tensor
    on_lower: Tensor
    on_upper: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.slopes, self.on_signs, self.on_lower, self.on_upper]

    def pick(self, index: Tensor) -> Hints:
        return Hints(*(v[index] for v in self.tensors()))

    def scaled(self, by: Tensor) -> Hints:
        """Multipliers times (B,)."""
        multipliers = (v * by[:, None] for v in self.tensors()[1:])
        return Hints(self.slopes, *multipliers)

    def exported(self) -> Hints:
        """As the judge will read them."""
        return Hints(quantised(self.slopes), *(v.float().to(v.dtype) for v in self.tensors()[1:]))


# of `Parts`, by row
TENSORS = ("question", "signs", "cut_lower", "cut_upper", "low", "high", "lower", "upper", "excess", "empty")


@dataclass(frozen=True, eq=False)
class Parts:
    """B parts of one ball. question: (B,), what is asked there. signs: (B, m) in {-1, 0, 1}, 0 where no split says.
    cut_lower, cut_upper: (B, K) where splits cut d, infinite where they do not. low, high: (B, m) bounds of neurons'
    inputs. lower, upper: (B, K) bounds of d. excess: (B,) how far the best bound is above the goal; proven where
    negative. empty: (B,) sides are at odds with one another's or the ball's bounds."""

    question: Tensor
    paths: list[tuple[Side, ...]]
    signs: Tensor
    cut_lower: Tensor
    cut_upper: Tensor
    low: Tensor
    high: Tensor
    lower: Tensor
    upper: Tensor
    excess: Tensor
    empty: Tensor
    hints: Hints

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """`cut_lower` and `cut_upper`, 0 where d is not cut."""
        return torch.nan_to_num(self.cut_lower, neginf=0.0), torch.nan_to_num(self.cut_upper, posinf=0.0)

    def pick(self, index: Tensor) -> Parts:
        picked = {name: getattr(self, name)[index] for name in TENSORS}
        return Parts(paths=[self.paths[k] for k in index.tolist()], hints=self.hints.pick(index), **picked)

    def split(self, sides: Sequence[tuple[Side, int]]) -> Parts:
        """Each part cut by its own side, of a neuron whose position comes with it; other bounds and hints as they
        were."""
        signs, lower, upper = self.signs.clone(), self.lower.clone(), self.upper.clone()
        low, high = self.low.clone(), self.high.clone()
        cut_lower, cut_upper = self.cut_lower.clone(), self.cut_upper.clone()
        for kind, sign in itertools.product((False, True), (1, -1)):
            own = [b for b, (side, _) in enumerate(sides) if (side.difference, side.sign) == (kind, sign)]
            rows = torch.tensor(own, dtype=torch.long)
            columns = torch.tensor([sides[b][0].index if kind else sides[b][1] for b in own], dtype=torch.long)
            if not kind:
                signs[rows, columns] = float(sign)
                end = low if sign > 0 else high
                end[rows, columns] = end[rows, columns].clamp(**{"min" if sign > 0 else "max": 0.0})
                continue
            at = torch.tensor([sides[b][0].at for b in own], dtype=lower.dtype)
            if sign > 0:
                cut_lower[rows, columns], lower[rows, columns] = at, torch.maximum(lower[rows, columns], at)
            else:
                cut_upper[rows, columns], upper[rows, columns] = at, torch.minimum(upper[rows, columns], at)
        paths = [(*path, side) for path, (side, _) in zip(self.paths, sides, strict=True)]
        cuts = {"signs": signs, "cut_lower": cut_lower, "cut_upper": cut_upper}
        return _marked(dataclasses.replace(self, paths=paths, low=low, high=high, lower=lower, upper=upper, **cuts))


@dataclass(frozen=True, eq=False)
class Root:
    """The ball of one input: its network, the class y, rows (K, K) of d as forms on the logits, bounds (K,) of d,
    slopes (K, n) of their passes, and (m,) those that inner passes share. position: of a neuron by its column, -1 where
    its sign is known on the ball: then `known` is that sign."""

    net: Compact
    predicted: int
    rows: Tensor
    lower: Tensor
    upper: Tensor
    slopes: Tensor
    shared: Tensor
    position: NDArray[np.int64]
    known: NDArray[np.int64]
    trial: Trial

    def parts(self, questions: Sequence[int], leaves: Sequence[Leaf]) -> Parts:
        """These leaves beside one another; bounds of d are those of the ball, cut. Multipliers are the judge's."""
        count, m, classes = len(leaves), self.net.neurons, len(self.upper)
        signs, on_signs, on_lower, on_upper = (np.zeros((count, n)) for n in (m, m, classes, classes))
        cut_lower, cut_upper = np.full((count, classes), -np.inf), np.full((count, classes), np.inf)
        empty = np.zeros(len(leaves), dtype=np.bool_)
        for b, leaf in enumerate(leaves):
            for side, multiplier in zip(leaf.path, leaf.multipliers.tolist(), strict=True):
                if side.difference:
                    at, low = (b, side.index), side.sign > 0
                    if low:
                        cut_lower[at], on_lower[at] = max(cut_lower[at], side.at), multiplier
                    else:
                        cut_upper[at], on_upper[at] = min(cut_upper[at], side.at), multiplier
                elif (position := self.position[side.index]) >= 0:
                    signs[b, position], on_signs[b, position] = side.sign, multiplier
                else:
                    empty[b] |= side.sign * self.known[side.index] < 0
        levels = torch.from_numpy(np.stack([leaf.slopes for leaf in leaves]))
        slopes = self.net.by_neuron(levels).to(self.upper.dtype) / LEVELS
        arrays = signs, on_signs, cut_lower, cut_upper, on_lower, on_upper
        s, on_s, low, high, on_low, on_high = (torch.from_numpy(v).to(self.upper.dtype) for v in arrays)
        ends = (torch.where(s > 0, self.net.lower.clamp(min=0), self.net.lower),
                torch.where(s < 0, self.net.upper.clamp(max=0), self.net.upper),
                torch.maximum(self.lower, low), torch.minimum(self.upper, high))  # fmt: skip
        paths, zeros = [leaf.path for leaf in leaves], self.upper.new_zeros(len(leaves))
        hints = Hints(slopes, on_s, on_low, on_high)
        empty_ones = torch.from_numpy(empty)
        return _marked(Parts(torch.tensor(questions), paths, s, low, high, *ends, zeros, empty_ones, hints))

    def leaf(self, parts: Parts, b: int, anew: Anew) -> Leaf:
        """Part b as it is kept."""
        hints, multipliers = parts.hints, list[float]()
        for side in parts.paths[b]:
            if not side.difference:
                position = int(self.position[side.index])
                multipliers.append(float(hints.on_signs[b, position]) if position >= 0 else 0.0)
                continue
            cut, on = (parts.cut_lower, hints.on_lower) if side.sign > 0 else (parts.cut_upper, hints.on_upper)
            tightest = float(cut[b, side.index]) == side.at
            multipliers.append(float(on[b, side.index]) if tightest else 0.0)
        levels, sloped = self.levels(int(parts.question[b])), self.net.columns >= 0
        levels[self.net.columns[sloped].numpy()] = (hints.slopes[b, sloped] * LEVELS).round().to(torch.uint8).numpy()
        return Leaf(parts.paths[b], anew, levels, np.array(multipliers, dtype=np.float32))

    def levels(self, question: int) -> NDArray[np.uint8]:
        """(n,) slopes of the ball's own pass."""
        return (self.slopes[question] * LEVELS).round().to(torch.uint8).cpu().numpy()

    def lines(self, parts: Parts) -> Lines:
        """Of neurons, on these parts."""
        return self.net.lines(parts.low, parts.high)

    def neurons_anew(self, parts: Parts) -> Parts:
        """The parts with bounds of neurons that read others made anew, stage by stage, from those of earlier ones:
        of those that are split or of unknown sign. A part's bounds depend on no other's."""
        low, high = parts.low.clone(), parts.high.clone()
        for number, stage in enumerate(self.net.stages):
            if not (stage.sloped and stage.first):
                continue
            at = slice(stage.first, stage.last)
            asked = ((low[:, at] < 0) & (high[:, at] > 0)) | (parts.signs[:, at] != 0)
            some = asked.any(0).nonzero().flatten()
            lines, columns = self.net.lines(low, high).choose(self.shared.expand_as(low)), stage.first + some
            below = -self.net.inner(number, some, -1.0, lines)
            above = self.net.inner(number, some, 1.0, lines)
            low[:, columns] = torch.where(asked[:, some], torch.maximum(low[:, columns], below), low[:, columns])
            high[:, columns] = torch.where(asked[:, some], torch.minimum(high[:, columns], above), high[:, columns])
        return _marked(dataclasses.replace(parts, low=low, high=high))

    def differences_anew(self, parts: Parts) -> Parts:
        """The parts with upper bounds of d made anew, with the slopes of the ball."""
        classes, count, lines = len(self.upper), len(parts), self.lines(parts)
        forms = self.rows.repeat(count, 1)
        slopes = self.net.by_neuron(self.slopes).to(self.upper.dtype).repeat(count, 1)
        each = lines.repeat(classes).choose(torch.maximum(slopes, self.net.leak))
        value = self.net.backward(forms, each, torch.zeros_like(slopes)).value.view(count, classes)
        return _marked(dataclasses.replace(parts, upper=torch.minimum(parts.upper, value)))

    def bound(self, lines: Lines, parts: Parts, hints: Hints, majorant: Majorant) -> Bound:
        """Upper bounds of coefficients . d less the goal on parts, of which these are the lines."""
        constant = (hints.on_upper * parts.ends[1] - hints.on_lower * parts.ends[0]).sum(1)
        forms = (majorant.coefficients + hints.on_lower - hints.on_upper) @ self.rows
        lines = lines.choose(torch.maximum(hints.slopes, self.net.leak))
        found = self.net.backward(forms, lines, hints.on_signs * parts.signs)
        excess, at_box = found.value + constant - majorant.goal, majorant.over_box - majorant.goal
        return Bound(torch.where(at_box < 0, torch.minimum(excess, at_box), excess), found, lines)

    def gradient(self, bound: Bound, parts: Parts) -> Hints:
        """Of the excess in the hints."""
        logits, read = self.net.forward(bound.found, bound.lines)
        d = logits @ self.rows.T
        negative = bound.found.coefficients.clamp(max=0)
        slopes = torch.where(bound.lines.free, negative * read, 0.0)
        return Hints(slopes, parts.signs * read, d - parts.ends[0], parts.ends[1] - d)


@dataclass(eq=False)
class Trial:
    """Whether bounding neurons anew pays on a ball: how many there are, and the excess of parts with it and without, so
    far."""

    neurons: int = 0
    parts: int = 0
    without: float = 0.0
    anew: float = 0.0

    def count(self, excess: Tensor) -> None:
        """excess: (2, B), without and with it."""
        self.parts += excess.shape[1]
        self.without += float(excess[0].sum())
        self.anew += float(excess[1].sum())

    @property
    def pays(self) -> bool:
        return self.neurons <= MOST_ANEW and (self.parts < TRIED or self.anew < WORTH * self.without)


def _marked(parts: Parts) -> Parts:
    """The parts; where bounds exclude one another they are known to be empty, and bounds are made to meet."""
    ends = ((parts.low, parts.high), (parts.lower, parts.upper))
    apart = torch.stack([(a > b + ROUNDING * (1 + b.abs())).any(1) for a, b in ends]).any(0)
    high, upper = (torch.maximum(a, b) for a, b in ends)
    return dataclasses.replace(parts, high=high, upper=upper, empty=parts.empty | apart)


class Bound(NamedTuple):
    """excess: (B,). found, lines: the pass behind it."""

    excess: Tensor
    found: Pass
    lines: Lines

    def intercept_shares(self) -> Tensor:
        """(B, m): how much of each bound is due to the intercept of a neuron's upper line, which a split takes away."""
        return self.found.coefficients.clamp(min=0) * self.lines.intercept


def majorant_at(root: Root, majorant_of: MajorantOf, parts: Parts) -> Majorant:
    """The questions' majorant on these parts."""
    return majorant_of(parts.lower, parts.upper, torch.full_like(parts.question, root.predicted), parts.question)


def in_units(parts: Parts, majorant: Majorant, units: Tensor) -> Parts:
    """Multipliers in the majorant's units, from the judge's, which were found in these units (B,), 0: in the same. Best
    ones are proportional to the form that they are added to."""
    return dataclasses.replace(parts, hints=parts.hints.scaled(1 / torch.where(units > 0, units, majorant.unit)))

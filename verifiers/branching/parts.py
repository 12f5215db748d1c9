"""Parts of balls, cut out by signs of ReLUs' inputs and by logit differences, and bounds there: docs/maths.md 10.

A `Leaf` is one part as it is kept: its sides, and what is tuned for it. `Parts` are some of them beside one another as
tensors, of whatever inputs: row b is about part b. Columns of neurons are those of a row of the witness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verifiers.crown.backward import IntermediateBounds, concretizations, functional_upper
from verifiers.crown.slopes import LEVELS, quantised
from verifiers.engine import differences
from verifiers.linear_forms.forms import DenseForms, consecutive_forms
from verifiers.linear_forms.relaxation import LinearRelaxation, Relaxation


@dataclass(frozen=True)
class Side:
    """One side of a split: sign (v - at) >= 0, v the logit difference d_index, or the input of neuron `index`."""

    difference: bool
    index: int
    at: float
    sign: int

    def other(self) -> Side:
        return dataclasses.replace(self, sign=-self.sign)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part of a ball, not split further. slopes: (n,) bytes. multipliers: one per side of the path. rebounded: its
    proof needs d bounded anew."""

    path: tuple[Side, ...]
    rebounded: bool
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
        return Leaf((*self.path, side), False, self.slopes, np.append(multipliers, first))


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
        """As the judge will read them; gradients pass."""
        slopes = self.slopes + (quantised(self.slopes) - self.slopes).detach()
        single = [v + (v.float().double() - v).detach() for v in self.tensors()[1:]]
        return Hints(slopes, *single)


TENSORS = ("owner", "question", "signs", "cut_lower", "cut_upper", "lower", "upper", "excess")  # of `Parts`, by row


@dataclass(frozen=True, eq=False)
class Parts:
    """B parts. owner, question: (B,), whose ball it is a part of, and what is asked there. signs: (B, n) in {-1, 0, 1},
    0 where no split says. cut_lower, cut_upper: (B, K) where splits cut d, infinite where they do not. lower, upper:
    (B, K) bounds of d. excess: (B,) how far the best bound is above the goal; proven where negative."""

    owner: Tensor
    question: Tensor
    paths: list[tuple[Side, ...]]
    signs: Tensor
    cut_lower: Tensor
    cut_upper: Tensor
    lower: Tensor
    upper: Tensor
    excess: Tensor
    hints: Hints

    def __len__(self) -> int:
        return len(self.paths)

    def pick(self, index: Tensor) -> Parts:
        picked = {name: getattr(self, name)[index] for name in TENSORS}
        return Parts(paths=[self.paths[k] for k in index.tolist()], hints=self.hints.pick(index), **picked)

    def split(self, sides: Sequence[Side]) -> Parts:
        """Each part cut by its own side, bounds of d and hints as they were; see `Leaf.split`."""
        signs, lower, upper = self.signs.clone(), self.lower.clone(), self.upper.clone()
        cut_lower, cut_upper = self.cut_lower.clone(), self.cut_upper.clone()
        for b, side in enumerate(sides):
            at = b, side.index
            if not side.difference:
                signs[at] = side.sign
            elif side.sign > 0:
                cut_lower[at], lower[at] = side.at, max(float(lower[at]), side.at)
            else:
                cut_upper[at], upper[at] = side.at, min(float(upper[at]), side.at)
        paths = [(*path, side) for path, side in zip(self.paths, sides, strict=True)]
        cuts = {"signs": signs, "cut_lower": cut_lower, "cut_upper": cut_upper, "lower": lower, "upper": upper}
        return dataclasses.replace(self, paths=paths, **cuts)

    def leaf(self, b: int, rebounded: bool) -> Leaf:
        """Part b as it is kept."""
        hints, multipliers = self.hints, list[float]()
        for side in self.paths[b]:
            if not side.difference:
                multipliers.append(float(hints.on_signs[b, side.index]))
                continue
            cut, on = (self.cut_lower, hints.on_lower) if side.sign > 0 else (self.cut_upper, hints.on_upper)
            tightest = float(cut[b, side.index]) == side.at
            multipliers.append(float(on[b, side.index]) if tightest else 0.0)
        levels = (hints.slopes[b] * LEVELS).round().to(torch.uint8).cpu().numpy()
        return Leaf(self.paths[b], rebounded, levels, np.array(multipliers, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Roots:
    """The balls of N inputs: bounds of every node, the classes y (N,), bounds (N, K) of d, and slopes (N, K, n) of
    their passes."""

    bounds: IntermediateBounds
    predicted: Tensor
    lower: Tensor
    upper: Tensor
    slopes: Tensor

    def parts(self, owners: Sequence[int], questions: Sequence[int], leaves: Sequence[Leaf]) -> Parts:
        """These leaves beside one another; bounds of d are those of the balls, cut. Multipliers are the judge's."""
        owner, count, n = torch.tensor(owners), len(leaves), self.slopes.shape[2]
        signs, on_signs = self.upper.new_zeros(count, n), self.upper.new_zeros(count, n)
        infinite = torch.full_like(self.upper[owner], torch.inf)
        cut_lower, cut_upper = -infinite, infinite
        on_lower, on_upper = torch.zeros_like(infinite), torch.zeros_like(infinite)
        for b, leaf in enumerate(leaves):
            for side, multiplier in zip(leaf.path, leaf.multipliers.tolist(), strict=True):
                at = b, side.index
                if not side.difference:
                    signs[at], on_signs[at] = side.sign, multiplier
                elif side.sign > 0:
                    cut_lower[at], on_lower[at] = max(float(cut_lower[at]), side.at), multiplier
                else:
                    cut_upper[at], on_upper[at] = min(float(cut_upper[at]), side.at), multiplier
        slopes = torch.from_numpy(np.stack([leaf.slopes for leaf in leaves])).to(self.upper.dtype) / LEVELS
        lower, upper = torch.maximum(self.lower[owner], cut_lower), torch.minimum(self.upper[owner], cut_upper)
        hints = Hints(slopes, on_signs, on_lower, on_upper)
        paths, zeros = [leaf.path for leaf in leaves], self.upper.new_zeros(count)
        return Parts(owner, torch.tensor(questions), paths, signs, cut_lower, cut_upper, lower, upper, zeros, hints)

    def cut(self, parts: Parts) -> tuple[IntermediateBounds, Tensor]:
        """The bounds on these parts, but of d, and (B,) which of them are seen to be empty."""
        net, picked = self.bounds.net, self.bounds.pick(parts.owner)
        values, empty = list(picked.values), (parts.lower > parts.upper).any(1)
        for k, (start, stop) in net.slope_ranges.items():
            (i,) = net.parents(k)
            lower, upper = values[i]
            sign = parts.signs[:, start:stop].reshape(lower.shape)
            lower = torch.where(sign > 0, lower.clamp(min=0), lower)
            upper = torch.where(sign < 0, upper.clamp(max=0), upper)
            values[i] = lower, upper
            empty |= (lower > upper).flatten(1).any(1)
        return dataclasses.replace(picked, values=values), empty

    def upper_differences(self, here: IntermediateBounds, owner: Tensor) -> Tensor:
        """(B, K) upper bounds of d on parts, with the slopes of the balls."""
        forms = differences(self.predicted[owner], self.upper.shape[1]).to(self.slopes.dtype)
        return functional_upper(here, forms, self.slopes[owner])

    def excess(self, here: IntermediateBounds, parts: Parts, hints: Hints, majorant: Majorant) -> Tensor:
        """(B,) upper bounds of coefficients . d less the goal on parts, of which `here` are the bounds."""
        return self._excess(here, parts, hints, majorant, here.relaxations(hints.slopes))

    def intercept_shares(self, here: IntermediateBounds, parts: Parts, majorant: Majorant) -> Tensor:
        """(B, n): how much of each bound is due to the intercept of a neuron's upper line, which a split takes away."""
        relaxations = here.relaxations(parts.hints.slopes)
        lines = {
            k: dataclasses.replace(r, upper_intercept=r.upper_intercept.detach().requires_grad_())
            for k, r in relaxations.items()
            if k in here.net.slope_ranges and isinstance(r, LinearRelaxation)
        }
        with torch.enable_grad():
            excess = self._excess(here, parts, parts.hints, majorant, {**relaxations, **lines})
            taken = [r.upper_intercept for r in lines.values()]
            gradients = torch.autograd.grad(excess.sum(), taken, allow_unused=True, materialize_grads=True)
        shares = [(g * t).detach().flatten(1) for g, t in zip(gradients, taken, strict=True)]
        return torch.cat(shares, 1) if shares else excess.new_zeros(len(parts), 0)

    def _excess(
        self,
        here: IntermediateBounds,
        parts: Parts,
        hints: Hints,
        majorant: Majorant,
        relaxations: dict[int, Relaxation],
    ) -> Tensor:
        net = here.net
        below, above = parts.cut_lower.isfinite(), parts.cut_upper.isfinite()
        on_lower, on_upper = (torch.where(m, v, 0.0) for m, v in ((below, hints.on_lower), (above, hints.on_upper)))
        ends = torch.where(above, parts.cut_upper, 0.0), torch.where(below, parts.cut_lower, 0.0)
        constant = (on_upper * ends[0] - on_lower * ends[1]).sum(1)
        forms = majorant.coefficients + on_lower - on_upper
        forms = forms.scatter(1, self.predicted[parts.owner][:, None], -forms.sum(1, keepdim=True))
        signed = hints.on_signs * parts.signs
        multipliers = {k: signed[:, a:b].reshape(-1, *net.network.shapes[k]) for k, (a, b) in net.slope_ranges.items()}
        one_each = consecutive_forms(len(parts), 1, forms.device)
        frontier = {len(net.layers) - 1: DenseForms(forms)}
        found = concretizations(here, frontier, one_each, relaxations, False, None, multipliers)[-1]
        excess = found + constant - majorant.goal
        at_box = majorant.over_box - majorant.goal
        return torch.where(at_box < 0, torch.minimum(excess, at_box), excess)  # no gradient is wanted where that is so


def majorant_at(roots: Roots, majorant_of: MajorantOf, parts: Parts) -> Majorant:
    """The questions' majorant on these parts."""
    return majorant_of(parts.lower, parts.upper, roots.predicted[parts.owner], parts.question)


def in_units(parts: Parts, majorant: Majorant, units: Tensor) -> Parts:
    """Multipliers in the majorant's units, from the judge's, which were found in these units (B,), 0: in the same. Best
    ones are proportional to the form that they are added to."""
    return dataclasses.replace(parts, hints=parts.hints.scaled(1 / torch.where(units > 0, units, majorant.unit)))

"""Parts of a ball, cut out by signs of ReLUs' inputs and by logit differences, and bounds there: docs/maths.md 10.

A batch of parts stands beside one another as tensors: row b is about part b. Columns of neurons are those of a row of
the witness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifiers.crown.backward import IntermediateBounds, concretizations, functional_upper
from verifiers.crown.slopes import quantised
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


class Majorant(NamedTuple):
    """The question, made linear on B boxes of d: answered where coefficients (B, K) . d < goal (B,).

    over_box: (B,) the largest coefficients . d over the box. gap: (B, K) how far the linear function may lie above the
    true one, by d; middle: (B, K) where that is.
    """

    coefficients: Tensor
    goal: Tensor
    over_box: Tensor
    gap: Tensor
    middle: Tensor


# lower, upper (B, K) of d and the question's number (B,) -> its majorant there
MajorantOf = Callable[[Tensor, Tensor, Tensor], Majorant]


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

    def exported(self) -> Hints:
        """As the judge will read them; gradients pass."""
        slopes = self.slopes + (quantised(self.slopes) - self.slopes).detach()
        single = [v + (v.float().double() - v).detach() for v in self.tensors()[1:]]
        return Hints(slopes, *single)


TENSORS = ("question", "signs", "cut_lower", "cut_upper", "lower", "upper", "excess")  # of `Parts`, row by row


@dataclass(frozen=True, eq=False)
class Parts:
    """B parts. question: (B,). signs: (B, n) in {-1, 0, 1}, 0 where no split says. cut_lower, cut_upper: (B, K) where
    splits cut d, infinite where they do not. lower, upper: (B, K) bounds of d. excess: (B,) how far the best bound is
    above the goal; proven where negative."""

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
        """Each part cut by its own side; bounds of d and hints as they were: a new multiplier starts from 0, that of a
        tighter cut of d from that of the wider one."""
        signs, lower, upper = self.signs.clone(), self.lower.clone(), self.upper.clone()
        cut_lower, cut_upper = self.cut_lower.clone(), self.cut_upper.clone()
        for b, side in enumerate(sides):
            if not side.difference:
                signs[b, side.index] = side.sign
            elif side.sign > 0:
                cut_lower[b, side.index] = side.at
                lower[b, side.index] = max(float(lower[b, side.index]), side.at)
            else:
                cut_upper[b, side.index] = side.at
                upper[b, side.index] = min(float(upper[b, side.index]), side.at)
        paths = [(*path, side) for path, side in zip(self.paths, sides, strict=True)]
        return Parts(self.question, paths, signs, cut_lower, cut_upper, lower, upper, self.excess, self.hints)


def joined(parts: Sequence[Parts]) -> Parts:
    """All of them in one batch."""
    tensors = {name: torch.cat([getattr(p, name) for p in parts]) for name in TENSORS}
    hints = Hints(*(torch.cat(v) for v in zip(*(p.hints.tensors() for p in parts), strict=True)))
    return Parts(paths=[path for p in parts for path in p.paths], hints=hints, **tensors)


@dataclass(frozen=True, eq=False)
class Root:
    """One input's ball: bounds of every node (N = 1), the class y, bounds (K,) of d, slopes (K, n) of their passes."""

    bounds: IntermediateBounds
    predicted: int
    lower: Tensor
    upper: Tensor
    slopes: Tensor

    def cut(self, signs: Tensor) -> tuple[IntermediateBounds, Tensor]:
        """The bounds where these signs (B, n) hold, and (B,) where that is nowhere."""
        net, index = self.bounds.net, torch.zeros(len(signs), dtype=torch.int64)
        picked = self.bounds.pick(index)
        values, empty = list(picked.values), torch.zeros(len(signs), dtype=torch.bool)
        for k, (start, stop) in net.slope_ranges.items():
            (i,) = net.parents(k)
            lower, upper = values[i]
            sign = signs[:, start:stop].reshape(lower.shape)
            lower = torch.where(sign > 0, lower.clamp(min=0), lower)
            upper = torch.where(sign < 0, upper.clamp(max=0), upper)
            values[i] = lower, upper
            empty |= (lower > upper).flatten(1).any(1)
        return dataclasses.replace(picked, values=values), empty

    def upper_differences(self, here: IntermediateBounds) -> Tensor:
        """(B, K) upper bounds of d on parts, with the root's slopes."""
        k = len(self.upper)
        forms = torch.eye(k, dtype=self.slopes.dtype)
        forms = (forms - forms[self.predicted]).expand(len(here.slopes), -1, -1)
        return functional_upper(here, forms, self.slopes.expand(len(here.slopes), -1, -1))

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
        forms = torch.cat([forms[:, : self.predicted], -forms.sum(1, keepdim=True), forms[:, self.predicted + 1 :]], 1)
        signed = hints.on_signs * parts.signs
        multipliers = {k: signed[:, a:b].reshape(-1, *net.network.shapes[k]) for k, (a, b) in net.slope_ranges.items()}
        one_each = consecutive_forms(len(parts), 1, forms.device)
        frontier = {len(net.layers) - 1: DenseForms(forms)}
        found = concretizations(here, frontier, one_each, relaxations, False, None, multipliers)[-1]
        excess = found + constant - majorant.goal
        at_box = majorant.over_box - majorant.goal
        return torch.where(at_box < 0, torch.minimum(excess, at_box), excess)  # no gradient is wanted where that is so

"""What an engine's bounds of h's logits on balls come to after a map of the logits (docs/maths.md 8).

Floats that propose; proofs_check/rules/adaptive.py and mixed_nuts.py derive the like rigorously.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.mixing.mixed import transformed
from certmix.theorems import mixed_nuts
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import MixedNuts, Transform
from verifiers.engine import Answer, Bounds


@dataclass(frozen=True, eq=False)
class LogitsOnBalls:
    """Bounds, (N, K) each, of one map after the other on the same N balls: asked of an engine once.

    predicted: (N,) the class y. differences: of d_j = z_j - z_y. single: of z_j, for a Transform. centered: of
    z_j - mean z, for MixedNuts. None: no such map is meant.
    """

    predicted: Tensor
    differences: Bounds
    single: Bounds | None = None
    centered: Bounds | None = None

    @staticmethod
    def of(answer: Answer, predicted: Tensor, how: Transform | MixedNuts | None) -> LogitsOnBalls:
        """What maps of `how`'s kind need, from an engine's answer about differences. Raises EngineError."""
        classes = answer.bounds.upper.shape[1]
        eye = torch.eye(classes, dtype=torch.float64)
        if isinstance(how, MixedNuts):
            found = answer.further((classes * eye - 1).expand(len(predicted), -1, -1))
            centered = Bounds(found.lower / classes, found.upper / classes)
            return LogitsOnBalls(predicted, answer.bounds, centered=centered)
        if how is None:
            return LogitsOnBalls(predicted, answer.bounds)
        return LogitsOnBalls(predicted, answer.bounds, single=answer.further(eye.expand(len(predicted), -1, -1)))

    @staticmethod
    def joined(parts: Sequence[LogitsOnBalls]) -> LogitsOnBalls:
        """Those of several batches, asked for the same kind of map."""
        each = [[getattr(p, name) for p in parts] for name in ("differences", "single", "centered")]
        known = [None if None in found else _joined(found) for found in each]
        if known[0] is None:
            raise TypeError("every batch has bounds of differences")
        return LogitsOnBalls(torch.cat([p.predicted for p in parts]), known[0], known[1], known[2])

    def upper(self, how: Transform | MixedNuts | None) -> Tensor:
        """(N, K) upper bounds of M(z_j) - M(z_y), 0 at y. Requires: a map of the kind that was asked for."""
        if how is None:
            return self.differences.upper
        if isinstance(how, MixedNuts):
            if self.centered is None:
                raise ValueError("bounds of the logits less their mean were not asked for")
            upper = self.differences.upper
            after = mixed_nuts.pushed(self.centered.lower, self.centered.upper, upper, self.predicted, how)
            return after.masked_fill(own_class(self.predicted, upper.shape[1]), 0.0)
        if self.single is None:
            raise ValueError("bounds of single logits were not asked for")
        return transformed_upper(self.single.lower, self.single.upper, self.differences.upper, self.predicted, how)

    def least_margin(self, how: Transform | MixedNuts | None, temperature: float) -> Tensor:
        """(N,) lower bounds of min_i h_y - h_i after map and temperature; -1 where a rival may come out ahead."""
        return self.margin_of(self.upper(how), temperature)

    def margin_of(self, upper: Tensor, temperature: float) -> Tensor:
        """The same from what `upper` gave."""
        margin = box_margin(self.differences.lower, upper, self.predicted, temperature)
        least = margin.masked_fill(own_class(self.predicted, upper.shape[1]), 1.0).min(dim=1).values
        return torch.where((upper <= 0).all(dim=1), least, -1.0)


def _joined(parts: Sequence[Bounds]) -> Bounds:
    return Bounds(torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts]))


def transformed_upper(lower: Tensor, upper: Tensor, differences: Tensor, predicted: Tensor, how: Transform) -> Tensor:
    """(N, K) upper bounds of M(z_j) - M(z_y), 0 at y, from bounds of z and upper bounds of z_j - z_y, (N, K) each.

    Where M is convex z_j <= min(u_j, z_y + b_j) may be used too (proof: proofs_check/rules/adaptive.py).
    """
    least_of_y = lower.gather(1, predicted[:, None])
    largest = upper
    if how.clamp and how.power >= 1:
        largest = torch.where(differences <= 0, torch.minimum(upper, least_of_y + differences), upper)
    differences_after = transformed(largest, how) - transformed(least_of_y, how)
    return differences_after.masked_fill(own_class(predicted, upper.shape[1]), 0.0)

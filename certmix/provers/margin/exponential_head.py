"""The exponential margin head on the native engine: which inputs a query certifies, and the slopes that prove it.

Per rival that the box form (3a) leaves open, one more backward pass with the chord's coefficients (docs/maths.md 3b),
its relu slopes tuned for just that row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.records.bound_archive import ExponentialPasses
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import Chords, box_margin, chords, own_class
from verifiers.crown.engine import Analysis
from verifiers.crown.slopes import Tuning


@dataclass(frozen=True, eq=False)
class ExponentialSlopes:
    """Slopes (N, K, n) that the exponential passes ended with. ran: (N, K) bool, the rivals that a pass was run for;
    slopes of the others are 0."""

    slopes: Tensor
    ran: Tensor

    def of_input(self, k: int, box: Tensor) -> Tensor:
        """(K, n) of input k: those of its passes, and where none was run those of the box form, `box` (K, n)."""
        return torch.where(self.ran[k][:, None], self.slopes[k], box)

    def filled(self, box: Tensor) -> Tensor:
        """(N, K, n): the same of all inputs."""
        return torch.where(self.ran[:, :, None], self.slopes, box)


@dataclass(frozen=True, eq=False)
class ExponentialResult:
    """What the exponential passes of one analysis proved, and the slopes they ended with."""

    passes: ExponentialPasses
    slopes: ExponentialSlopes


@dataclass(frozen=True, eq=False)
class Head:
    """What one analysis certifies at (alpha, T).

    slack: (N,) > 0 where the margin is proven to exceed the required one for every rival; in units of probability.
    box_slack: the same from the box form alone. exponential: None if no pass was run for any input.
    """

    slack: Tensor
    box_slack: Tensor
    exponential: ExponentialResult | None


def head(analysis: Analysis, alpha: float, temperature: float, steps: int, start: Tensor | None = None) -> Head:
    """Box form, then the exponential form where it may help. start: slopes (N, K, n) to start from, or None.

    Requires: alpha > 1/2. Ensures: slack >= box_slack.
    """
    required = required_margin(alpha)
    own = own_class(analysis.predicted, analysis.upper.shape[1])
    by_rival = box_margin(analysis.lower, analysis.upper, analysis.predicted, temperature) - required
    by_rival = by_rival.masked_fill(own, torch.inf)
    box_slack = by_rival.min(1).values
    no_rival_wins = (analysis.upper <= 0).all(1) & (box_slack <= 0)
    ran = (by_rival <= 0) & no_rival_wins[:, None]
    inputs, rival = ran.nonzero(as_tuple=True)
    if not len(inputs):
        return Head(box_slack, box_slack, None)
    mu = torch.full((len(inputs),), required, dtype=torch.float64, device=inputs.device)
    majorant = chords(
        analysis.lower[inputs], analysis.upper[inputs], analysis.predicted[inputs], rival, mu, temperature
    )
    upper_bound, slopes = _upper_bound(analysis, inputs, rival, majorant, steps, start)
    slack = torch.maximum(by_rival[inputs, rival], majorant.goal() - upper_bound)
    best = by_rival.index_put((inputs, rival), slack).min(1).values
    all_slopes = torch.zeros(*analysis.upper.shape, slopes.shape[1], dtype=slopes.dtype, device=slopes.device)
    all_slopes[inputs, rival] = slopes
    passes = ExponentialPasses(inputs, rival, majorant.coefficients, upper_bound)
    return Head(
        torch.maximum(best, box_slack), box_slack, ExponentialResult(passes, ExponentialSlopes(all_slopes, ran))
    )


def _upper_bound(
    analysis: Analysis, inputs: Tensor, rival: Tensor, majorant: Chords, steps: int, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Upper bounds (R,) of coefficients . d, never above the box's, and the slopes (R, n) of the passes."""
    predicted = analysis.predicted[inputs]
    first = None if start is None else start[inputs, rival]
    if first is None and analysis.slopes is not None:
        first = analysis.slopes[inputs, rival]
    forms = majorant.on_logits(predicted)
    upper_bound, slopes = analysis.upper_bound(inputs, forms, majorant.goal(), first, Tuning(steps))
    return torch.minimum(upper_bound, majorant.box_upper_bound()), slopes

"""The exponential margin head on the native engine: which inputs a query certifies, and the judge's hints for them.

Per rival that the box form (3a) leaves open, one more backward pass with the chord's coefficients (docs/maths.md 3b),
its relu slopes tuned for just that row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.records.curves import Passes
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import Chords, box_margin, chords, own_class
from verifiers.crown.engine import Analysis
from verifiers.crown.slopes import Tuning


@dataclass(frozen=True, eq=False)
class Head:
    """What one analysis certifies at (alpha, T).

    slack: (N,) > 0 where the margin is proven to exceed the required one for every rival; in units of probability.
    box_slack: the same from the box form alone. second: (N, K, n) slopes of the exponential passes, and what these
    passes proved; None if none ran.
    """

    slack: Tensor
    box_slack: Tensor
    second: Tensor | None
    passes: Passes | None


def head(analysis: Analysis, alpha: float, temperature: float, steps: int, start: Tensor | None = None) -> Head:
    """Box form, then the exponential form where it may help. start: slopes (N, K, n) to start from, or None.

    Requires: alpha > 1/2. Ensures: slack >= box_slack.
    """
    required = required_margin(alpha)
    own = own_class(analysis.predicted, analysis.upper.shape[1])
    by_rival = box_margin(analysis.lower, analysis.upper, analysis.predicted, temperature) - required
    by_rival = by_rival.masked_fill(own, torch.inf)
    box_slack = by_rival.min(1).values
    hopeful = (analysis.upper <= 0).all(1) & (box_slack <= 0)
    inputs, rival = ((by_rival <= 0) & hopeful[:, None]).nonzero(as_tuple=True)
    if not len(inputs):
        return Head(box_slack, box_slack, None, None)
    mu = torch.full((len(inputs),), required, dtype=torch.float64, device=inputs.device)
    found = chords(analysis.lower[inputs], analysis.upper[inputs], analysis.predicted[inputs], rival, mu, temperature)
    reach, slopes = _reach(analysis, inputs, rival, found, steps, start)
    slack = torch.maximum(by_rival[inputs, rival], found.goal() - reach)
    best = by_rival.index_put((inputs, rival), slack).min(1).values
    second = torch.zeros(*analysis.upper.shape, slopes.shape[1], dtype=slopes.dtype, device=slopes.device)
    second[inputs, rival] = slopes
    passes = Passes(inputs, rival, found.coefficients, reach)
    return Head(torch.maximum(best, box_slack), box_slack, second, passes)


def _reach(
    analysis: Analysis, inputs: Tensor, rival: Tensor, found: Chords, steps: int, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Upper bounds (R,) of coefficients . d, never above the box's, and the slopes (R, n) of the passes."""
    predicted = analysis.predicted[inputs]
    first = None if start is None else start[inputs, rival]
    if first is None and analysis.slopes is not None:
        first = analysis.slopes[inputs, rival]
    reach, slopes = analysis.upper_bound(inputs, found.on_logits(predicted), found.goal(), first, Tuning(steps))
    return torch.minimum(reach, found.box_reach()), slopes

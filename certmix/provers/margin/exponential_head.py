"""The exponential margin head: which inputs an answer of an engine certifies, and the slopes that prove it.

Per rival that the box form (3a) leaves open, one more pass on the same balls with the chord's coefficients
(docs/maths.md 3b), its relu slopes tuned for just that row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.records.bound_archive import ExponentialPasses
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import Chords, box_margin, chords, own_class
from verifiers.engine import Answer


@dataclass(frozen=True, eq=False)
class ExponentialSlopes:
    """Slopes (N, K, n) that the exponential passes ended with. ran: (N, K) bool, the rivals that a pass was run for;
    slopes of the others are 0."""

    slopes: Tensor
    ran: Tensor

    def of_input(self, k: int, box: Tensor) -> Tensor:
        """(K, n) of input k: those of its passes, and where none was run those of the box form, `box` (K, n)."""
        return torch.where(self.ran[k][:, None].to(box.device), self.slopes[k], box)

    def filled(self, box: Tensor) -> Tensor:
        """(N, K, n): the same of all inputs."""
        return torch.where(self.ran[:, :, None].to(box.device), self.slopes, box)


@dataclass(frozen=True, eq=False)
class ExponentialResult:
    """What the exponential passes of one answer proved, and the slopes they ended with, None where none were tuned."""

    passes: ExponentialPasses
    slopes: ExponentialSlopes | None


@dataclass(frozen=True, eq=False)
class Head:
    """What one answer certifies at (alpha, T).

    slack: (N,) > 0 where the margin is proven to exceed the required one for every rival; in units of probability.
    box_slack: the same from the box form alone. by_rival: (N, K) slack of each rival, +inf for the class itself.
    exponential: None if no pass was run for any input.
    """

    slack: Tensor
    box_slack: Tensor
    by_rival: Tensor
    exponential: ExponentialResult | None

    @property
    def slopes(self) -> ExponentialSlopes | None:
        """Those of the exponential passes, if any were tuned."""
        return None if self.exponential is None else self.exponential.slopes


def head(
    answer: Answer, predicted: Tensor, alpha: float, temperature: float, steps: int, start: Tensor | None = None
) -> Head:
    """Box form, then the exponential form where it may help.

    answer: about d_j, y = predicted (N,). start: slopes (N, K, n) to start from; None: those of the answer.
    Requires: alpha > 1/2. Ensures: slack >= box_slack.
    """
    required = required_margin(alpha)
    lower, upper = answer.bounds.lower, answer.bounds.upper
    by_rival = box_margin(lower, upper, predicted, temperature) - required
    by_rival = by_rival.masked_fill(own_class(predicted, upper.shape[1]), torch.inf)
    box_slack = by_rival.min(1).values
    no_rival_wins = (upper <= 0).all(1) & (box_slack <= 0)
    ran = (by_rival <= 0) & no_rival_wins[:, None]
    inputs, rival = ran.nonzero(as_tuple=True)
    if not len(inputs):
        return Head(box_slack, box_slack, by_rival, None)
    mu = torch.full((len(inputs),), required, dtype=torch.float64)
    majorant = chords(lower[inputs], upper[inputs], predicted[inputs], rival, mu, temperature)
    upper_bound, slopes = _upper_bound(answer, predicted, inputs, rival, majorant, steps, start)
    slack = torch.maximum(by_rival[inputs, rival], majorant.goal() - upper_bound)
    by_rival = by_rival.index_put((inputs, rival), slack)
    passes = ExponentialPasses(inputs, rival, majorant.coefficients, upper_bound)
    tuned = None if slopes is None else ExponentialSlopes(_spread(slopes, inputs, rival, upper.shape), ran)
    best = torch.maximum(by_rival.min(1).values, box_slack)
    return Head(best, box_slack, by_rival, ExponentialResult(passes, tuned))


def _upper_bound(
    answer: Answer, predicted: Tensor, inputs: Tensor, rival: Tensor, majorant: Chords, steps: int, start: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Upper bounds (R,) of coefficients . d, never above the box's, and the slopes (R, n) of the passes."""
    start = answer.slopes() if start is None else start
    first = (None,) * len(inputs) if start is None else start[inputs, rival].unbind()
    forms = majorant.on_logits(predicted[inputs])
    upper_bound, slopes = answer.upper_bounds(inputs, forms, majorant.goal(), steps, first)
    pass_slopes = [one for one in slopes if one is not None]
    return torch.minimum(upper_bound, majorant.box_upper_bound()), torch.stack(pass_slopes) if pass_slopes else None


def _spread(slopes: Tensor, inputs: Tensor, rival: Tensor, shape: torch.Size) -> Tensor:
    """(N, K, n) slopes from those of the passes (R, n)."""
    rival_slopes = slopes.new_zeros(*shape, slopes.shape[1])
    rival_slopes[inputs, rival] = slopes
    return rival_slopes

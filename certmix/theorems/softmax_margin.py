"""From bounds of logit differences to bounds of a probability margin: the one place logits become probabilities.

Notation (docs/maths.md 3): y the certified class, d_j = z_j - z_y, T the temperature, t_j = T d_j, and
h_y - h_i = (1 - e^{t_i}) / (1 + sum_{j != y} e^{t_j}). Tensors are float64; lower, upper (N, K) bound d, column y 0.
These floats propose; the judge derives the same facts with every rounding counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_EXPONENT = 600.0  # beyond, e^t leaves the range in which float64 sums and products are finite
SUM_ROUNDING = 2.0**-46  # relative, of a sum of exponentials: where they are large, their differences cancel


def own_class(predicted: Tensor, classes: int) -> Tensor:
    """(N, K) bool: True at column y of each row."""
    return torch.nn.functional.one_hot(predicted, classes).bool()


# ---------------------------------------------------------------- (3a) box form


def box_margin(lower: Tensor, upper: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """Lower bounds (N, K) of h_y - h_i for every i over the box lower <= d <= upper; column y is 0.

    Requires: lower <= upper, temperature > 0. Exact over the box, up to float64 rounding.
    Source: docs/maths.md 3a, both branches: with t_i <= 0 the margin falls in
    every t_j; with t_i > 0 it rises in the others.
    """
    predicted_mask = own_class(predicted, upper.shape[1])
    t = (temperature * upper).masked_fill(predicted_mask, -torch.inf)
    low = (temperature * lower).masked_fill(predicted_mask, -torch.inf)
    zero = torch.zeros_like(t[:, :1])
    log_sum = torch.logsumexp(torch.cat([zero, t], 1), 1, keepdim=True)
    rival_below = -torch.expm1(t) * torch.exp(-log_sum)
    others = torch.logsumexp(_without_each(torch.cat([zero, low], 1)), 2)[:, 1:]
    log_least_sum = torch.logaddexp(others, t)
    rival_above = torch.exp(-log_least_sum) - torch.exp(t - log_least_sum)
    return torch.where(t <= 0, rival_below, rival_above).masked_fill(predicted_mask, 0.0)


def _without_each(values: Tensor) -> Tensor:
    """(N, M) -> (N, M, M): row m with entry m replaced by -inf."""
    m = values.shape[1]
    return values[:, None, :].masked_fill(torch.eye(m, dtype=torch.bool, device=values.device), -torch.inf)


# ---------------------------------------------------------------- (3b) exponential form


@dataclass(frozen=True, eq=False)
class Chords:
    """Per row: F(d) <= intercept + coefficients . d wherever F(d) > threshold could hold; lower: raised left ends.

    coefficients, lower, upper: (R, K), zero in column y. intercept, threshold: (R,). Where the exponentials overflow
    the intercept is +inf, so that nothing is proven.
    """

    coefficients: Tensor
    intercept: Tensor
    threshold: Tensor
    lower: Tensor
    upper: Tensor

    def on_logits(self, predicted: Tensor) -> Tensor:
        """(R, K) coefficients of z: c . d = sum_j c_j z_j - (sum_j c_j) z_y."""
        minus = -self.coefficients.sum(1, keepdim=True)
        return self.coefficients.scatter(1, predicted[:, None], minus)

    def goal(self) -> Tensor:
        """(R,) the margin is proven where an upper bound of coefficients . d is below this."""
        return self.threshold - self.intercept

    def box_upper_bound(self) -> Tensor:
        """(R,) the largest coefficients . d over the box: (3a) in this form."""
        ends = torch.where(self.coefficients > 0, self.upper, self.lower)
        return (self.coefficients * ends).sum(1)


def chords(
    lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor, required: Tensor, temperature: float
) -> Chords:
    """For each row, the least affine majorant of F(d) = e^{t_i} + mu sum_{j != y} e^{t_j} where F exceeds 1 - mu.

    lower, upper: (R, K). predicted, rival: (R,), y and i. required: (R,) mu in (-1, 1].
    Ensures: h_y - h_i >= mu on the box wherever coefficients . d <= threshold - intercept; with mu >= 0 a bound of
    coefficients . d no larger than `box_upper_bound` makes this never weaker than (3a).
    Source: docs/maths.md 3b: chords for positive weights, tangents for negative ones, both after the violation-region
    rule: a point that violates F <= 1 - mu has w_j e^{t_j} > (largest of it) - S, S = max F - (1 - mu).
    """
    weights = _weights(upper.shape[1], predicted, rival, required)
    low, high = _violation_region(temperature * lower, temperature * upper, weights, 1 - required)
    at_high, at_low = torch.exp(high.clamp(max=LARGEST_EXPONENT)), torch.exp(low.clamp(max=LARGEST_EXPONENT))
    width = high - low
    rise = torch.where(width > 0, -torch.expm1(-width) / torch.where(width > 0, width, 1.0), 1.0)
    chord = at_high * rise
    tangent = torch.exp(((low + high) / 2).clamp(max=LARGEST_EXPONENT))
    slope = weights * torch.where(weights >= 0, chord, tangent)
    above = torch.maximum(at_high - chord * high, at_low - chord * low)
    below = tangent * (1 - (low + high) / 2)
    intercept = (weights * torch.where(weights >= 0, above, below)).sum(1)
    broken = (high > LARGEST_EXPONENT).any(1)
    intercept = torch.where(broken, torch.inf, intercept)
    return Chords(slope * temperature, intercept, 1 - required, low / temperature, high / temperature)


def _weights(classes: int, predicted: Tensor, rival: Tensor, required: Tensor) -> Tensor:
    weights = required[:, None].expand(-1, classes).clone()
    weights = weights.scatter(1, rival[:, None], (1 + required)[:, None])
    return weights.masked_fill(own_class(predicted, classes), 0.0)


def _violation_region(low: Tensor, high: Tensor, weights: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """The box of t cut to where sum_j w_j e^{t_j} > threshold is possible, whatever the rounding of the sums."""
    at_high, at_low = torch.exp(high.clamp(max=LARGEST_EXPONENT)), torch.exp(low.clamp(max=LARGEST_EXPONENT))
    most = torch.where(weights >= 0, weights * at_high, weights * at_low)
    doubt = SUM_ROUNDING * (most.abs().sum(1) + threshold.abs())
    slack = (most.sum(1) - threshold + doubt).clamp(min=0)[:, None]  # 0: no point violates, any box will do
    end = torch.where(weights != 0, (most - slack) / torch.where(weights != 0, weights, 1.0), 0.0)
    usable = end > 0
    logarithm = torch.log(torch.where(usable, end, 1.0))
    raised = torch.where(usable & (weights > 0), torch.minimum(torch.maximum(low, logarithm), high), low)
    cut = torch.where(usable & (weights < 0), torch.maximum(torch.minimum(high, logarithm), low), high)
    return raised, cut


# ---------------------------------------------------------------- section 7: one pass, every (mu, T)


def knapsack(values: Tensor, costs: Tensor, budget: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Largest values . d over {lower <= d <= upper, costs . d <= budget}, (R,); -inf where that set is empty.

    values, costs >= 0, lower, upper: (R, K); budget (R,). The fractional knapsack: fill by value per cost.
    """
    size = upper - lower
    spare = budget - (costs * lower).sum(1)
    ratio = torch.where(costs > 0, values / torch.where(costs > 0, costs, 1.0), torch.inf)
    order = ratio.argsort(dim=1, descending=True)
    price = (costs * size).gather(1, order)
    gain = (values * size).gather(1, order)
    before = price.cumsum(1) - price
    share = torch.where(price > 0, ((spare[:, None] - before) / torch.where(price > 0, price, 1.0)).clamp(0, 1), 1.0)
    largest = (values * lower).sum(1) + (gain * share).sum(1)
    return torch.where(spare >= 0, largest, -torch.inf)


@dataclass(frozen=True, eq=False)
class PassBound:
    """What one backward pass proved: coefficients . d <= upper_bound on the ball; (R, K) >= 0 and (R,)."""

    coefficients: Tensor
    upper_bound: Tensor


def proves(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor, required: Tensor, temperature: float,
           stored: PassBound | None) -> Tensor:  # fmt: skip
    """(R,) bool: h_y - h_i > mu follows from the box and the stored pass, by (3a) or by (3b) with the knapsack.

    required: (R,) mu in [0, 1].
    """
    majorant = chords(lower, upper, predicted, rival, required, temperature)
    upper_bound = majorant.box_upper_bound()
    if stored is not None:
        cut = knapsack(majorant.coefficients, stored.coefficients, stored.upper_bound, majorant.lower, majorant.upper)
        upper_bound = torch.minimum(upper_bound, cut)
    below_class = temperature * upper.gather(1, rival[:, None])[:, 0] <= 0
    return below_class & (upper_bound < majorant.goal())


def margin_with_pass(lower: Tensor, upper: Tensor, predicted: Tensor, rival: Tensor, temperature: float,
                     stored: PassBound | None, steps: int = 40) -> Tensor:  # fmt: skip
    """(R,) the largest mu found with `proves`, by bisection between (3a) and 1; where (3a) is negative, (3a)."""
    low = box_margin(lower, upper, predicted, temperature).gather(1, rival[:, None])[:, 0]
    box = low.clone()
    low, high = low.clamp(min=0), torch.ones_like(low)
    for _ in range(steps):
        middle = (low + high) / 2
        good = proves(lower, upper, predicted, rival, middle, temperature, stored)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(box < 0, box, torch.maximum(low, box))

"""Theorem 3.5 and its stronger form through the logits, for four kinds of Lipschitz constants kept apart by type.

Global constants hold everywhere and give a radius. Anchored ones hold on an eps-ball and certify min(r, eps).
Relaxed ones bound only how far the values at x move within the eps-ball: they pass or fail the test r > eps.
Estimates are lower bounds of constants: what a theorem makes of them is an `EstimatedRadius`, which nothing here
or elsewhere accepts as a certificate. Floats that propose; the judge proves. Source: paper Thm 3.5, docs/maths.md 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from certmix.theorems.margin import certifies, required_margin
from certmix.theorems.radius_search import largest_passing
from certmix.theorems.softmax_margin import box_margin, own_class

LARGEST_GAIN = 2.0**20  # of the bisected radius over the closed form, beyond which nobody looks
SMALLEST_SHARE = 2.0**-30  # of the largest constant, below which a stated one costs nothing
SMALLEST_CONSTANT = 2.0**-500
SPARE_TOLERANCE = 1e-6  # relative, of what a theorem has to spare
KEPT_SHARE = 2.0**-4  # of that, for who applies the theorem; the rest goes to the constants
LARGEST_FACTOR = 2.0
JOINT_ROUNDS, JOINT_HALVINGS, JOINT_STEPS = 3, 30, 8  # for c, for v, of Newton's method: errors of v count squared
MARGIN_ROUNDS, MARGIN_PARTS = 3, 24  # how often the interval of a margin is cut, and into how many parts
JOINT_TOLERANCE = 1e-2  # relative, of what (4b) adds to the radius of (4a)
Quantity = Literal["probabilities", "differences"]


@dataclass(frozen=True, eq=False)
class _Constants:
    """values (N, K) or (1, K) >= 0: of the probabilities h_i, or of the logit differences z_j - z_y (column y 0)."""

    values: Tensor
    quantity: Quantity

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not bool((self.values >= 0).all()):
            raise ValueError(f"constants must be (N, K) and >= 0, got shape {tuple(self.values.shape)}")


@dataclass(frozen=True, eq=False)
class GlobalConstants(_Constants):
    """Lipschitz constants on the whole space."""


@dataclass(frozen=True, eq=False)
class AnchoredConstants(_Constants):
    """Lipschitz constants on the balls of `radius` (N,), or at least from their centres outward."""

    radius: Tensor


@dataclass(frozen=True, eq=False)
class RelaxedConstants(_Constants):
    """(largest fall of h_y, largest rise of h_i within the ball of `radius` (N,) > 0) / radius."""

    radius: Tensor


@dataclass(frozen=True, eq=False)
class EstimatedConstants(_Constants):
    """Lower bounds of the constants on the balls of `radius` (N,), found by an attack."""

    radius: Tensor


@dataclass(frozen=True, eq=False)
class EstimatedRadius:
    """What a theorem gives for estimated constants: no certificate. (N,), 0 where not even that."""

    value: Tensor


@dataclass(frozen=True, eq=False)
class LogitsAtInputs:
    """h at the inputs: logits (N, K) float64, y (N,); the mix's alpha and temperature."""

    logits: Tensor
    predicted: Tensor
    alpha: float
    temperature: float = 1.0

    @property
    def probabilities(self) -> Tensor:
        return torch.softmax(self.temperature * self.logits, dim=1)

    @property
    def differences(self) -> Tensor:
        """(N, K) d_j(x), column y 0."""
        return self.logits - self.logits.gather(1, self.predicted[:, None])

    @property
    def own(self) -> Tensor:
        return own_class(self.predicted, self.logits.shape[1])


# ---------------------------------------------------------------- Theorem 3.5


def paper_radius(point: LogitsAtInputs, values: Tensor) -> Tensor:
    """(N,) min_i [alpha (h_y - h_i) + alpha - 1] / [alpha (L_y + L_i)] for constants L of h; 0: no certificate.

    Requires: values (N or 1, K) >= 0. Zero constants give inf where the numerator is positive.
    """
    if point.alpha <= 0.5:
        return torch.zeros(len(point.logits), dtype=torch.float64)
    h, y = point.probabilities, point.predicted[:, None]
    values = values.expand_as(h)
    slack = h.gather(1, y) - h - required_margin(point.alpha)
    radii = torch.where(slack > 0, slack / (values.gather(1, y) + values), 0.0)
    return radii.masked_fill(point.own, torch.inf).amin(dim=1)


def difference_radius(point: LogitsAtInputs, values: Tensor) -> Tensor:
    """(N,) Theorem 3.5 with constants (N, K) of the margins h_y - h_i in place of sums; 0: no certificate."""
    if point.alpha <= 0.5:
        return torch.zeros(len(point.logits), dtype=torch.float64)
    h = point.probabilities
    slack = h.gather(1, point.predicted[:, None]) - h - required_margin(point.alpha)
    radii = torch.where(slack > 0, slack / values, 0.0)
    return radii.masked_fill(point.own, torch.inf).amin(dim=1)


def least_margin(point: LogitsAtInputs) -> Tensor:
    """(N,) min_i (h_y - h_i)(x)."""
    h = point.probabilities
    return (h.gather(1, point.predicted[:, None]) - h).masked_fill(point.own, torch.inf).amin(dim=1)


# ---------------------------------------------------------------- (4a)


def closed_form_radius(point: LogitsAtInputs, values: Tensor) -> Tensor:
    """(N,) [log((1 + m0) / (1 - m0)) + log(2 alpha - 1)] / (T max_j L_j), m0 the least margin; 0: no certificate.

    Source: docs/maths.md 4a: 2 artanh(m) is T L-Lipschitz.
    """
    if point.alpha <= 0.5:
        return torch.zeros(len(point.logits), dtype=torch.float64)
    m0 = least_margin(point)
    largest = point.temperature * values.expand_as(point.logits).amax(dim=1)
    # 2 artanh(m0), 1 - m0 as the others' mass plus the strongest rival's: no cancellation near m0 = 1
    others = point.probabilities.masked_fill(point.own, 0.0)
    one_minus_m0 = others.sum(dim=1) + others.amax(dim=1)
    gained = torch.log1p(m0) - torch.log(one_minus_m0.clamp(min=1e-300))
    spare = gained + torch.log(torch.tensor(2 * point.alpha - 1, dtype=torch.float64))
    return torch.where((spare > 0) & (m0 > 0), spare / largest, 0.0)


def reaches(point: LogitsAtInputs, values: Tensor, radius: Tensor) -> Tensor:
    """(N,) whether (4a) certifies `radius` (N,): the margin over d_j <= d_j(x) + L_j r exceeds the required one."""
    margins = _box_margins(point, values, radius).masked_fill(point.own, torch.inf)
    return certifies(margins.amin(dim=1), point.alpha)


def _box_margins(point: LogitsAtInputs, values: Tensor, radius: Tensor) -> Tensor:
    """(N, K) h_y - h_i over d_j <= d_j(x) + L_j r; column y 0."""
    upper = (point.differences + values * radius[:, None]).masked_fill(point.own, 0.0)
    lower = torch.full_like(upper, -torch.inf).masked_fill(point.own, 0.0)
    return box_margin(lower, upper, point.predicted, point.temperature)


def bisected_radius(point: LogitsAtInputs, values: Tensor, tolerance: float) -> Tensor:
    """(N,) the largest radius that `reaches` finds, looked for upward from the closed form; 0: no certificate."""
    values = values.expand_as(point.logits)
    start = closed_form_radius(point, values)

    def passes(index: Tensor, factors: Tensor) -> Tensor:
        part = LogitsAtInputs(point.logits[index], point.predicted[index], point.alpha, point.temperature)
        return reaches(part, values[index], start[index] * factors)

    positive = torch.nonzero((start > 0) & torch.isfinite(start)).flatten()
    radii = start.clone()
    if len(positive):
        radii[positive] *= largest_passing(lambda i, f: passes(positive[i], f), len(positive), LARGEST_GAIN, tolerance)
    return radii


# ---------------------------------------------------------------- (4b)


def joint_reaches(point: LogitsAtInputs, values: Tensor, joint: float, radius: Tensor) -> Tensor:
    """(N,) whether (4a) or, with an l2 constant of all logits less their mean, (4b) certifies `radius` (N,), rival by
    rival. Requires: values (N, K) of d_j."""
    if point.alpha <= 0.5:
        return torch.zeros(len(point.logits), dtype=torch.bool)
    by_box = certifies(_box_margins(point, values, radius), point.alpha) | point.own
    rows, rivals = torch.nonzero(~by_box, as_tuple=True)
    weights = torch.full((len(rows), point.logits.shape[1]), 1 - point.alpha, dtype=torch.float64)
    weights = weights.scatter(1, rivals[:, None], 1.0).masked_fill(point.own[rows], 0.0)
    terms = weights.log() + point.temperature * point.differences[rows]
    most = log_sum(terms, point.temperature * joint * radius[rows])
    by_box[rows, rivals] = most < math.log(2 * point.alpha - 1)
    return by_box.all(dim=1)


def margins_within(point: LogitsAtInputs, values: Tensor, joint: Tensor | None, radius: Tensor) -> Tensor:
    """(N, K) lower bounds of h_y - h_i, of either sign, at distances up to `radius` (N,); column y 0. values: (N, K)
    constants of d_j. joint: (N,) l2 constants of all logits less their mean, inf: none. Any alpha."""
    moved = values * radius[:, None]
    lower, upper = ((point.differences + move).masked_fill(point.own, 0.0) for move in (-moved, moved))
    box = box_margin(lower, upper, point.predicted, point.temperature)
    if joint is None:
        return box
    rows, rivals = torch.nonzero(~point.own & torch.isfinite(joint)[:, None], as_tuple=True)
    reach = point.temperature * joint[rows] * radius[rows]
    at_x, h = point.temperature * point.differences[rows], point.probabilities[rows]
    own = point.own[rows]
    low = box[rows, rivals]
    high = (h[own] - h.gather(1, rivals[:, None])[:, 0]).maximum(low)
    shares = torch.arange(MARGIN_PARTS + 1, dtype=torch.float64) / MARGIN_PARTS
    every = torch.arange(len(rows)).repeat_interleave(MARGIN_PARTS - 1)
    for _ in range(MARGIN_ROUNDS):  # all inner points at once: rows are few, and each step has the same price
        points = low[:, None] + (high - low)[:, None] * shares
        inner = points[:, 1:-1]
        proven = _margin_exceeds(at_x[every], own[every], rivals[every], inner.flatten(), reach[every])
        last = (proven.view_as(inner) * torch.arange(1, MARGIN_PARTS)).amax(dim=1, keepdim=True)  # 0: none
        low, high = points.gather(1, last)[:, 0], points.gather(1, last + 1)[:, 0]
    best = box.clone()
    best[rows, rivals] = low
    return best


def _margin_exceeds(at_x: Tensor, own: Tensor, rivals: Tensor, margin: Tensor, reach: Tensor) -> Tensor:
    """(R,) whether h_y - h_i > margin wherever the joint constant lets the logits be. at_x: (R, K) T d_j(x); own:
    column y; rivals: (R,) i. Source: docs/maths.md 4b, both signs."""
    m, rival = margin[:, None], torch.zeros_like(own).scatter(1, rivals[:, None], True)
    positive = torch.where(rival, 1 + m, m.clamp(min=0.0)).masked_fill(own, 0.0).log() + at_x
    above = log_sum(positive, reach) < torch.log1p(-margin)
    terms = torch.where(own, 1 - m, (-m).clamp(min=0.0)).masked_fill(rival, 0.0).log() + at_x
    logs = torch.zeros_like(terms)
    for _ in range(JOINT_HALVINGS):
        q = torch.softmax(logs, dim=1)
        logs = (logs + terms - reach[:, None] * q / (1 + q.square().sum(dim=1, keepdim=True)).sqrt()) / 2
    q = torch.softmax(logs, dim=1)
    mean = torch.where(q > 0, q * (terms - q.log()), 0.0).sum(dim=1)
    moved = reach * (1 + q.square().sum(dim=1)).sqrt()
    below = torch.log1p(margin) + at_x.gather(1, rivals[:, None])[:, 0] + moved < mean
    return torch.where(margin >= 0, above, below)


def joint_radius(point: LogitsAtInputs, values: Tensor, joint: float, tolerance: float) -> Tensor:
    """(N,) the largest radius that `joint_reaches` finds, upward from that of (4a); 0: no certificate."""
    start = bisected_radius(point, values, tolerance)
    values = values.expand_as(point.logits)

    def passes(index: Tensor, gains: Tensor) -> Tensor:
        part = LogitsAtInputs(point.logits[index], point.predicted[index], point.alpha, point.temperature)
        return joint_reaches(part, values[index], joint, start[index] * (1 + gains))

    positive = torch.nonzero((start > 0) & torch.isfinite(start)).flatten()
    if len(positive):
        start[positive] *= 1 + largest_passing(lambda i, g: passes(positive[i], g), len(positive), 1.0, JOINT_TOLERANCE)
    return start


def log_sum(terms: Tensor, reach: Tensor) -> Tensor:
    """(R,) upper bounds of log sum_j exp(a_j + T (d_j - d_j(x))) on the ball, the largest sum_j p_j (a_j - log p_j) +
    s sqrt(1 + |p|^2) over shares p. terms: (R, K) a_j, -inf: none; reach: (R,) s = T L r.

    Source: docs/maths.md 4b. s sqrt(1 + |p|^2) <= s^2 / (4 c) + c + c |p|^2; for any v the rest is at most v and the
    sum of the largest q(p) = p (a_j - v) - p log p + c p^2, which is concave up to 1 / (2 c) and convex beyond.
    """
    best, square = torch.full_like(reach, torch.inf), torch.ones_like(reach)
    for _ in range(JOINT_ROUNDS):
        c = (reach / (2 * (1 + square).sqrt())).clamp(min=1e-100)[:, None]
        top = terms.amax(dim=1, keepdim=True)
        low, high = top - 1, top + 2 * c + math.log(terms.shape[1]) + 1
        for _ in range(JOINT_HALVINGS):
            v = (low + high) / 2
            enough = _largest(terms - v, c)[0].sum(dim=1, keepdim=True) > 1
            low, high = torch.where(enough, v, low), torch.where(enough, high, v)
        shares, values = _largest(terms - high, c)
        bound = reach**2 / (4 * c[:, 0]) + c[:, 0] + high[:, 0] + values.sum(dim=1)
        best, square = torch.fmin(best, bound), shares.square().sum(dim=1).clamp(max=1.0)
    return best


def _largest(b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where q is largest on [0, 1], and its value: at the first zero of its slope b - log p - 1 + 2 c p, found by
    Newton's method on log p from below, or at 1."""
    most = -torch.log(2 * c)
    logs = torch.minimum(b - 1, most)
    for _ in range(JOINT_STEPS):
        bend = 2 * c * logs.exp()
        logs = torch.fmin(logs + (b - 1 - logs + bend).nan_to_num(0.0) / (1 - bend), most)
    p = logs.exp()
    rise = (b - logs - 1 + 2 * c * p).nan_to_num(0.0).clamp(min=0.0)
    inside, end = p - c * p * p + rise, b + c
    return torch.where(inside < end, 1.0, p), torch.maximum(inside, end)


def spacious_constants(point: LogitsAtInputs, values: Tensor, radius: Tensor) -> Tensor:
    """(N, K) constants to state for a claim of `radius` (N,) where `values` are known: larger by most of what (4a) has
    to spare there, as a factor, so that neither who derives them nor who applies the theorem need round as we do.

    Ensures: at least values, column y 0, the others > 0.
    """
    largest = values.amax(dim=1, keepdim=True)
    floored = values.maximum(SMALLEST_SHARE * largest).clamp(min=SMALLEST_CONSTANT).masked_fill(point.own, 0.0)
    bearable = bisected_radius(point, floored, SPARE_TOLERANCE) / radius.clamp(min=SMALLEST_CONSTANT)
    spare = bearable.clamp(1.0, LARGEST_FACTOR) - 1
    return floored * (1 + (1 - KEPT_SHARE) * spare)[:, None]


# ---------------------------------------------------------------- what each kind of constant may claim


def certified_radius(point: LogitsAtInputs, constants: GlobalConstants | AnchoredConstants, limit: float) -> Tensor:
    """(N,) radius certified by sound constants: the better of Theorem 3.5 and (4a); 0: no certificate.

    Ensures: at most the constants' own radius where they are local. limit: the largest radius looked for.
    """
    if not isinstance(constants, GlobalConstants | AnchoredConstants):
        raise TypeError(f"{type(constants).__name__} certify no radius")
    if constants.quantity == "probabilities":
        radius = paper_radius(point, constants.values)
    else:
        radius = bisected_radius(point, constants.values, 1e-4)
        radius = torch.maximum(radius, closed_form_radius(point, constants.values))
    radius = radius.clamp(max=limit)
    return torch.minimum(radius, constants.radius) if isinstance(constants, AnchoredConstants) else radius


def relaxed_holds(point: LogitsAtInputs, constants: RelaxedConstants) -> Tensor:
    """(N,) whether Theorem 3.5's r, computed with relaxed constants of the ball of radius eps, exceeds eps.

    Ensures: where True the mix is certified within eps; where False nothing is known, not even about less.
    """
    if not isinstance(constants, RelaxedConstants) or constants.quantity != "probabilities":
        raise TypeError(f"needs relaxed constants of probabilities, got {type(constants).__name__}")
    return paper_radius(point, constants.values) > constants.radius


def estimated_radius(point: LogitsAtInputs, constants: EstimatedConstants, limit: float) -> EstimatedRadius:
    """The radius the theorems would give if the estimates were the constants."""
    if not isinstance(constants, EstimatedConstants):
        raise TypeError(f"{type(constants).__name__} are no estimates: use certified_radius")
    if constants.quantity == "probabilities":
        return EstimatedRadius(paper_radius(point, constants.values).clamp(max=limit))
    return EstimatedRadius(bisected_radius(point, constants.values, 1e-4).clamp(max=limit))


# ---------------------------------------------------------------- from logits to probabilities


def probability_bounds(lower: Tensor, upper: Tensor, predicted: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(N, K) lower and upper bounds of every h_i over the box lower <= d <= upper (columns y zero)."""
    count, classes = upper.shape
    predicted_mask = own_class(predicted, classes)
    low, up = (temperature * b.masked_fill(predicted_mask, 0.0) for b in (lower, upper))
    eye = torch.eye(classes, dtype=torch.bool)
    # h_i is largest where d_i is and all others are least; d_y = 0 always
    others_low = low[:, None].expand(count, classes, classes).masked_fill(eye, -torch.inf).logsumexp(dim=2)
    others_up = up[:, None].expand(count, classes, classes).masked_fill(eye, -torch.inf).logsumexp(dim=2)
    return torch.sigmoid(low - others_up), torch.sigmoid(up - others_low)


def relaxed_constants(point: LogitsAtInputs, lower: Tensor, upper: Tensor, radius: Tensor) -> RelaxedConstants:
    """Relaxed constants of h from bounds of d_j on the balls of `radius` (N,) > 0.

    With these Theorem 3.5 says r >= eps exactly if inf h_y - sup h_i >= (1 - alpha) / alpha.
    """
    least, most = probability_bounds(lower, upper, point.predicted, point.temperature)
    h = point.probabilities
    moved = torch.where(point.own, h - least, most - h).clamp(min=0)
    return RelaxedConstants(moved / radius[:, None], "probabilities", radius)


def largest_variance(lower: Tensor, upper: Tensor) -> Tensor:
    """sup of p (1 - p) over lower <= p <= upper, a hair above: near 1 the float p has lost 1 - p."""
    nearest = torch.full_like(lower, 0.5).clamp(min=lower, max=upper)
    return (nearest * (1 - nearest) * (1 + 2.0**-40) + 2.0**-48).clamp(max=0.25)


def margin_constants(point: LogitsAtInputs, values: Tensor, least: Tensor | None, most: Tensor | None) -> Tensor:
    """(N, K) constants of m_i = h_y - h_i from constants L_j of z_j - z_y: T max_j L_j times a weight; column y 0.

    |dm_i/dd_i| + sum_j |dm_i/dd_j| = h_i (1 + m_i) + |m_i| (1 - h_y - h_i) <= 1/2, and <= h_i + 1 - h_y;
    least, most: bounds of h on the set where L_j holds, or None. (m >= 0: h_i <= (1 - m) / 2 gives (1 - m^2) / 2.)
    """
    largest = point.temperature * values.expand_as(point.logits).amax(dim=1, keepdim=True)
    if least is None or most is None:
        return (largest / 2).expand_as(point.logits).masked_fill(point.own, 0.0)
    weight = most + 1 - least.gather(1, point.predicted[:, None])
    weight = (weight * (1 + 2.0**-40) + 2.0**-48).clamp(max=0.5)
    return (largest * weight).masked_fill(point.own, 0.0)


def probability_constants(pairs: Tensor, variance: Tensor | None, temperature: float) -> Tensor:
    """(N, K) constants of h_i from constants of the pairs z_i - z_k, (N, K, K).

    Lip(h_i) <= sup h_i (1 - h_i) max_k Lip(z_i - z_k) on a convex set; variance (N, K) or None for 1/4.
    """
    largest = temperature * pairs.amax(dim=2)
    return largest / 4 if variance is None else largest * variance

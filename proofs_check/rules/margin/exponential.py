"""The exponential form of the margin (docs/maths.md 3b): a backward pass more per rival, never looser than the box.

With w_i = 1 and w_j = 1 - alpha, Lemma 3.2 for the rival i is sum_j w_j exp(T d_j) < 2 alpha - 1, j != y. That is the
worst case, g_y - g_i = -1: see `chord`.

Precondition: `Differences` of the claimed ball. Postcondition: every rival not returned has its margin proven.
Charged: a chord's slopes are any floats and exact, its intercept an Arb ball; what their sum rounds multiplies |z_y|
(`upper_of`), a backward pass carries its own rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flint import arb

from proofs_check.certificate import Claim, need
from proofs_check.kernel import bounds
from proofs_check.kernel.rounding import Array, arb_down, dot_up, sum_error, sum_up, up
from proofs_check.rules.margin.differences import Differences, exponentials, rivals
from proofs_check.witness import exponential_row

WORST = arb(-1)  # of g_y - g_j


@dataclass(frozen=True, eq=False)
class Chord:
    """sum_j w_j e_j <= intercept + coefficients . d wherever the sum could reach its threshold."""

    coefficients: Array
    intercept: arb
    threshold: arb


def chord(d_bounds: Differences, rival: int, claim: Claim, of_g: arb = WORST) -> Chord:
    """(3b), times alpha, where g_y - g_j >= of_g: prove w . e < t with c = (1 - alpha) of_g, w_i = alpha - c, w_j = -c,
    t = alpha + c. Rejects if out of float range.

    Violation region: a point with w . e >= t has w_j e_j >= w_j E_j - S, S = w . E - t, w_j E_j the largest on the box.
    """
    y, k = claim.predicted, len(d_bounds.upper)
    alpha, temperature = arb(claim.alpha), arb(claim.temperature)
    known = (1 - alpha) * of_g
    weights = [arb(0) if j == y else alpha - known if j == rival else -known for j in range(k)]
    top, bottom = (exponentials(end, claim.temperature, y) for end in (d_bounds.upper, d_bounds.lower))
    threshold = alpha + known
    most = [(w * e).max(w * f) for w, e, f in zip(weights, top, bottom, strict=True)]
    slack = sum(most, arb(0)) - threshold
    coefficients, intercept = np.zeros(k), arb(0)
    for j in rivals(claim, k):
        high = float(d_bounds.upper[j])
        low = _raised(float(d_bounds.lower[j]), weights[j], top[j], slack, temperature)
        convex, middle = bool(weights[j] >= 0), (low + high) / 2
        touching = (low, high) if convex else (middle, middle)
        slope = _secant(*touching, float(weights[j].mid()), claim.temperature)
        need(math.isfinite(slope), "margin", f"rival {rival}: its chord is out of the range of floats")
        if convex:
            ends = [weights[j] * (temperature * v).exp() - arb(slope) * v for v in (arb(low), arb(high))]
            intercept += ends[0].max(ends[1])  # convex minus affine: largest at an end
        else:
            intercept += _above_concave(weights[j], temperature, slope, arb(low), arb(high))
        coefficients[j] = slope
    return Chord(coefficients, intercept, threshold)


def _above_concave(weight: arb, temperature: arb, slope: float, low: arb, high: arb) -> arb:
    """Upper bound of weight exp(T v) - slope v on [low, high], weight < 0 or of unknown sign: by the tangent at the
    middle of what is concave, -|weight| exp(T v) - slope v, and the end of what is left."""
    certain, middle = -abs(weight), (low + high) / 2
    value = certain * (temperature * middle).exp()
    lean = (temperature * value - arb(slope)) * (high - middle)
    return value - arb(slope) * middle + abs(lean) + (weight - certain) * (temperature * high).exp()


def _raised(lower: float, weight: arb, top: arb, slack: arb, temperature: arb) -> float:
    """Left end of d_j inside the violation region, rounded down; never below `lower`."""
    if not weight > 0:
        return lower
    least_exponential = top - slack / weight
    if not least_exponential > 0:
        return lower
    return max(lower, arb_down(least_exponential.log() / temperature))


def _secant(low: float, high: float, weight: float, temperature: float) -> float:
    """Slope of weight exp(T v) between the ends: any value is sound, this one is the tightest."""
    width = temperature * (high - low)
    scale = weight * temperature * math.exp(min(temperature * high, 700.0))
    return scale * (-math.expm1(-width) / width if width > 0 else 1.0)


def upper_of(d_bounds: Differences, coefficients: Array, y: int, slope_rows: list[int]) -> Array:
    """coefficients (R, K), entry y of every network zero -> (R,) upper bounds of coefficients . d over the ball."""
    by_network = coefficients.reshape(len(coefficients), d_bounds.networks, -1).copy()
    by_network[:, :, y] = -by_network.sum(axis=2)  # what this sum rounds, at most G(K) sum |c|, multiplies z_y
    on_logits, k = by_network.reshape(coefficients.shape), by_network.shape[2]
    size_y = d_bounds.values.magnitude(-1).ravel()[y::k].repeat(k)
    error = up(d_bounds.error + sum_error(len(d_bounds.error)) * size_y)
    return sum_up(bounds.functionals(d_bounds.values, on_logits, slope_rows), dot_up(np.abs(coefficients), error))


def exponential_misses(d_bounds: Differences, unproven: list[int], claim: Claim) -> list[int]:
    """Those of `unproven` for which the exponential form does not prove the margin."""
    if not unproven:
        return []
    k = len(d_bounds.upper)
    chords = [chord(d_bounds, i, claim) for i in unproven]
    slope_rows = [d_bounds.values.slope_row(exponential_row(i, k)) for i in unproven]
    uppers = upper_of(d_bounds, np.stack([c.coefficients for c in chords]), claim.predicted, slope_rows)
    proven = [c.intercept + arb(float(u)) < c.threshold for c, u in zip(chords, uppers, strict=True)]
    return [i for i, fine in zip(unproven, proven, strict=True) if not fine]

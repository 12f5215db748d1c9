"""The exponential form of the margin (MATH.md 3b): one backward pass more per rival, never looser than the box form.

With w_i = 1 and w_j = 1 - alpha, Lemma 3.2 for the rival i is sum_j w_j exp(T d_j) < 2 alpha - 1, j != y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flint import arb

from proofs_check import bounds
from proofs_check.certificate import Claim, need
from proofs_check.rounding import arb_down, dot_up, up
from proofs_check.rules.differences import Differences, Vector, exponentials


@dataclass(frozen=True, eq=False)
class Chord:
    """sum_j w_j e_j <= intercept + coefficients . d wherever the sum could reach its threshold."""

    coefficients: Vector
    intercept: arb
    threshold: arb


def chord(found: Differences, rival: int, claim: Claim) -> Chord | None:
    """(3b), times alpha: prove w . e < t with w_i = 1, w_j = 1 - alpha, t = 2 alpha - 1; None: out of float range.

    Violation region: a point with w . e >= t has w_j e_j >= w_j E_j - S, S = w . E - t, E_j = exp(T u_j).
    """
    y, k = claim.predicted, len(found.upper)
    alpha, temperature = arb(claim.alpha), arb(claim.temperature)
    weights = [arb(0) if j == y else arb(1) if j == rival else 1 - alpha for j in range(k)]
    top = exponentials(found.upper, claim.temperature, y)
    threshold = 2 * alpha - 1
    slack = sum((w * e for w, e in zip(weights, top, strict=True)), arb(0)) - threshold
    left = [_raised(float(found.lower[j]), weights[j], top[j], slack, temperature) for j in range(k)]
    approx = [_secant(left[j], float(found.upper[j]), float(weights[j].mid()), claim.temperature) for j in range(k)]
    if not all(map(math.isfinite, approx)):
        return None
    coefficients = exact_sums(np.array(approx))
    intercept = arb(0)
    for j in range(k):
        if j != y:
            c = arb(float(coefficients[j]))
            ends = [arb(left[j]), arb(float(found.upper[j]))]
            values = [weights[j] * (temperature * v).exp() - c * v for v in ends]  # convex minus affine: max at an end
            intercept += values[0].max(values[1])
    return Chord(coefficients, intercept, threshold)


def _raised(lower: float, weight: arb, top: arb, slack: arb, temperature: arb) -> float:
    """Left end of d_j inside the violation region, rounded down; never below `lower`."""
    if not weight > 0:
        return lower
    rest = top - slack / weight
    if not rest > 0:
        return lower
    return max(lower, arb_down(rest.log() / temperature))


def _secant(left: float, right: float, weight: float, temperature: float) -> float:
    """Slope of weight exp(T v) between the ends: any value is sound, this one is the tightest."""
    width = temperature * (right - left)
    scale = weight * temperature * math.exp(min(temperature * right, 700.0))
    return scale * (-math.expm1(-width) / width if width > 0 else 1.0)


def exact_sums(values: Vector) -> Vector:
    """`values` rounded to a common grid on which sums of up to 2^12 of them are exact in float64."""
    largest = float(np.abs(values).max())
    if largest < 2.0**-900:
        return np.zeros_like(values)
    grid = 2.0 ** (math.frexp(largest)[1] - 40)
    return np.round(values / grid) * grid


def exponential_misses(found: Differences, open_rivals: list[int], claim: Claim) -> list[int]:
    """Those of `open_rivals` for which the exponential form does not prove the margin."""
    chords = {i: chord(found, i, claim) for i in open_rivals}
    usable = {i: c for i, c in chords.items() if c is not None}
    if not usable:
        return open_rivals
    need(len(found.upper) <= 2**12, "margin", "more than 4096 classes: coefficient sums are not exact")
    rows = np.stack([c.coefficients for c in usable.values()])
    rows[:, claim.predicted] = 0.0
    on_logits = rows.copy()
    on_logits[:, claim.predicted] = -rows.sum(axis=1)  # exact, by exact_sums
    hints, k = found.values.witness, len(found.upper)
    hint_rows = [0 if hints is None else hints.row(1 + k + i, k) for i in usable]
    reach = bounds.functionals(found.values, on_logits, hint_rows)
    reach = up(reach + dot_up(np.abs(rows), found.error))
    missed = set(open_rivals) - {
        i for i, r in zip(usable, reach, strict=True) if usable[i].intercept + arb(float(r)) < usable[i].threshold
    }
    return sorted(missed)

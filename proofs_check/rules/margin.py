"""Margin rules: Lemma 3.2 from logit-difference bounds (MATH.md 2, 3), and the pair form (MATH.md 6).

Notation: y the predicted class, d_j = z_j - z_y the logit differences of a network (d_y = 0), T the
temperature of h (1 for g), e_j = exp(T d_j). All comparisons are of Arb balls, hence proven or not made.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass

import numpy as np
from flint import arb
from numpy.typing import NDArray

from proofs_check import bounds, float32
from proofs_check.certificate import Assumption, Claim, RejectedError, need
from proofs_check.rounding import down, up
from proofs_check.rules.case import Case, need_unsmoothed

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class EngineMargin:
    """Bounds of d_j over the claimed ball, as an engine stated them; entry y of both is 0."""

    engine: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True)
class NetworkMargin:
    """Nothing but slopes: base64 of a zlib stream of uint8 (FORMAT.md), or None for the default slopes."""

    witness: str | None


@dataclass(frozen=True)
class PairMargin:
    """Slopes for h and for g, each as in NetworkMargin."""

    robust_witness: str | None
    standard_witness: str | None


@dataclass(frozen=True, eq=False)
class Differences:
    """lower <= d_j <= upper on the ball, both (K,), entry y zero, from a network's own backward bounds.

    values: of every node. error: (K,) what a float32 evaluation adds to every |d_j|; zero in real semantics.
    """

    lower: Vector
    upper: Vector
    values: bounds.Values
    error: Vector


def exponentials(bound: Vector, temperature: float, y: int) -> list[arb]:
    """exp(T b_j) for every class j; exactly 1 for y."""
    return [arb(1) if j == y else (arb(temperature) * arb(float(b))).exp() for j, b in enumerate(bound)]


def need_class(case: Case, claim: Claim, on_ball: Vector | None) -> None:
    """Definition 3.1: y is the strict argmax of h(x). on_ball: upper bounds of d over the ball, which holds x."""
    upper = on_ball
    if upper is None or not (np.delete(upper, claim.predicted) < 0).all():
        _, upper = bounds.difference_bounds(case.robust, case.point(claim), claim.predicted, None)
    strict = bool((np.delete(upper, claim.predicted) < 0).all())
    need(strict, "class", f"class {claim.predicted} is not proven to be the robust model's strict argmax")


def slopes(encoded: str | None, prepared: bounds.Prepared) -> bounds.Witness | None:
    if encoded is None:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectedError("witness", f"is not base64: {error}") from error
    return bounds.witness(data, prepared.network)


def differences(prepared: bounds.Prepared, encoded: str | None, case: Case, claim: Claim) -> Differences:
    """Rigorous bounds of d_j, widened by the float32 evaluation error where the claim speaks of float32."""
    y = claim.predicted
    values = bounds.value_bounds(prepared, case.ball(claim), slopes(encoded, prepared))
    lower, upper = bounds.differences(values, y)
    if claim.semantics == "real":
        return Differences(lower, upper, values, np.zeros_like(upper))
    single = float32.logit_error(values)
    error = up(single + single[y])
    error[y] = 0.0
    return Differences(down(lower - error), up(upper + error), values, error)


# ---------------------------------------------------------------- Lemma 3.2


def box_proves(upper: Vector, rival: int, claim: Claim) -> bool:
    """(3a), times alpha: alpha (1 - e_i) > (1 - alpha) (1 + sum_{j != y} e_j) at d = upper, with u_i <= 0."""
    if not upper[rival] <= 0:
        return False
    e = exponentials(upper, claim.temperature, claim.predicted)
    alpha = arb(claim.alpha)
    return bool(alpha * (1 - e[rival]) > (1 - alpha) * sum(e, arb(0)))


def engine_margin(claim: Claim, evidence: EngineMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2 from the engine's bounds: everything is re-derived but the bounds themselves."""
    need_unsmoothed(claim)
    need(claim.class_of == "robust", "class_of", "Lemma 3.2 certifies the robust model's class")
    need(claim.semantics == "real", "semantics", "an engine's bounds do not cover float32 evaluation")
    k = case.robust.network.classes
    need(len(evidence.lower) == len(evidence.upper) == k, "bounds", f"must have {k} entries each")
    lower, upper = np.array(evidence.lower), np.array(evidence.upper)
    need(lower[claim.predicted] == 0 == upper[claim.predicted], "bounds", "entry of the predicted class must be 0")
    need_class(case, claim, None)
    at_x = bounds.difference_bounds(case.robust, case.point(claim), claim.predicted, None)
    need((lower <= at_x[1]).all() and (at_x[0] <= upper).all(), "bounds", "exclude the input's own logit differences")
    for rival in rivals(claim, k):
        need(box_proves(upper, rival, claim), "margin", f"rival {rival}: bounds do not exceed the required margin")
    return frozenset({Assumption.ENGINE_TRUSTED})


def network_margin(claim: Claim, evidence: NetworkMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2 from bounds derived here: box form, else exponential form, for every rival."""
    need_unsmoothed(claim)
    need(claim.class_of == "robust", "class_of", "Lemma 3.2 certifies the robust model's class")
    found = differences(case.robust, evidence.witness, case, claim)
    need_class(case, claim, found.upper)
    open_rivals = [i for i in rivals(claim, case.robust.network.classes) if not box_proves(found.upper, i, claim)]
    missed = exponential_misses(found, open_rivals, claim)
    need(not missed, "margin", f"rivals {missed}: margin is not proven to exceed the required one")
    return frozenset()


def rivals(claim: Claim, classes: int) -> list[int]:
    return [i for i in range(classes) if i != claim.predicted]


# ---------------------------------------------------------------- exponential form (3b)


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
    return max(lower, bounds.arb_down(rest.log() / temperature))


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
    reach = up(reach + bounds.dot_up(np.abs(rows), found.error))
    missed = set(open_rivals) - {
        i for i, r in zip(usable, reach, strict=True) if usable[i].intercept + arb(float(r)) < usable[i].threshold
    }
    return sorted(missed)


# ---------------------------------------------------------------- using g too (MATH.md 6)


def margin_lower(found: Differences, rival: int, temperature: float, y: int) -> arb:
    """An Arb ball whose lower end bounds h_y - h_rival from below over the box of d (MATH.md 3a, both branches)."""
    upper = exponentials(found.upper, temperature, y)
    if found.upper[rival] <= 0:
        return (1 - upper[rival]) / sum(upper, arb(0))
    lower = exponentials(found.lower, temperature, y)
    others = sum((e for j, e in enumerate(lower) if j not in (y, rival)), arb(0))
    return (1 - upper[rival]) / (1 + upper[rival] + others)


def pair_margin(claim: Claim, evidence: PairMargin, case: Case) -> frozenset[Assumption]:
    """(1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0 for every rival i; or Lemma 3.2 where it is enough."""
    need_unsmoothed(claim)
    standard = case.standard
    if standard is None or claim.standard is None:
        raise RejectedError("standard", "this rule needs the standard model as a plain network")
    h = differences(case.robust, evidence.robust_witness, case, claim)
    g = differences(standard, evidence.standard_witness, case, claim)
    if claim.class_of == "robust":
        need_class(case, claim, h.upper)
    alpha = arb(claim.alpha)
    for i in rivals(claim, case.robust.network.classes):
        of_g = margin_lower(g, i, 1.0, claim.predicted)
        of_h = margin_lower(h, i, claim.temperature, claim.predicted)
        together = (1 - alpha) * of_g + alpha * of_h
        need(together > 0 or box_proves(h.upper, i, claim), "margin", f"rival {i}: the mix's margin is not proven")
    return frozenset()

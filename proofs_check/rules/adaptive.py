"""Mixes with an input-dependent alpha, or with logits through a nondecreasing nonlinearity (docs/maths.md 8).

Lemma 3.2 at a lower bound alpha of a(x') on the ball: with m = h_y - h_i, alpha (1 + m) > 1 gives a (1 + m) > 1 for
every a >= alpha. z: logits of h, d_j = z_j - z_y, M the transform, T the temperature, t_j = T (M(z_j) - M(z_y)).

Precondition: a claim about an adaptive mix. Postcondition: it holds, given the assumptions returned.
Charged: logits' bounds carry their own rounding (`kernel.bounds`); all that is built on them is of Arb balls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flint import arb

from proofs_check.certificate import Assumption, Claim, MixedNuts, RejectedError, Transform, need
from proofs_check.kernel import bounds
from proofs_check.kernel.rounding import Array
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import differences, rivals, slopes
from proofs_check.rules.margin.rule import NetworkMargin, network_margin
from proofs_check.rules.mixed_nuts import nuts_upper


@dataclass(frozen=True)
class AdaptiveMargin:
    """Slopes for h and for the network of alpha, each as in NetworkMargin."""

    witness: str | None
    alpha_witness: str | None


def adaptive_margin(claim: Claim, evidence: AdaptiveMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2 at claim.alpha, after a(x') >= claim.alpha on the ball."""
    adaptive = claim.adaptive
    if adaptive is None:
        raise RejectedError("adaptive", "this rule is for adaptive mixes")
    assumptions = _alpha_on_ball(claim, evidence.alpha_witness, case)
    if adaptive.transform is None:
        return assumptions | network_margin(claim, NetworkMargin(evidence.witness), case)
    if isinstance(adaptive.transform, MixedNuts):
        uppers = nuts_upper(claim, adaptive.transform, evidence.witness, case)
    else:
        uppers = transformed_upper(claim, adaptive.transform, evidence.witness, case)
    alpha, temperature = arb(claim.alpha), arb(claim.temperature)
    e = [arb(1) if j == claim.predicted else (temperature * t).exp() for j, t in enumerate(uppers)]
    total = sum(e, arb(0))
    for i in rivals(claim, len(e)):
        # (3a) times alpha. It implies t_i < 0 at x too: y is the strict argmax of M(h(x))
        proven = alpha * (1 - e[i]) > (1 - alpha) * total
        need(proven, "margin", f"rival {i}: transformed bounds do not exceed the required margin")
    return assumptions


def _alpha_on_ball(claim: Claim, encoded: str | None, case: Case) -> frozenset[Assumption]:
    """a(x') >= claim.alpha for every x' of the ball: derived from the network of alpha, or else declared."""
    declared = None if claim.adaptive is None else claim.adaptive.alpha
    if declared is None:
        return frozenset()
    low, high = arb(declared.low), arb(declared.high)
    if declared.network is None:
        need(low >= arb(claim.alpha), "alpha", f"the declared lower bound {declared.low} is below alpha {claim.alpha}")
        return frozenset({Assumption.ALPHA_BOUND_TRUSTED})
    prepared = case.alpha
    if prepared is None:
        raise RejectedError("alpha", "the network of the input-dependent alpha is not at hand")
    of_alpha = differences(prepared, encoded, case, replace(claim, predicted=0))
    share = 1 / (1 + (-arb(float(of_alpha.lower[1]))).exp())  # increasing in s_1 - s_0
    need(low + (high - low) * share >= arb(claim.alpha), "alpha", f"is not proven to be at least {claim.alpha} there")
    return frozenset()


# ---------------------------------------------------------------- logits through M


def transform(value: arb, how: Transform) -> arb:
    """An Arb ball that holds M(v) for every v of `value`'s ball. Requires: nothing; M is nondecreasing."""
    moved = value + arb(how.shift)
    ends = [_power(end, how) for end in (arb(moved.lower()), arb(moved.upper()))]
    return ends[0].union(ends[1])


def _power(exact: arb, how: Transform) -> arb:
    """M at an exact number, already shifted."""
    need(exact.is_exact(), "transform", "the end of an interval is not one number")
    if exact > 0:
        return (arb(how.power) * exact.log()).exp()
    if exact == 0 or (how.clamp and exact < 0):
        return arb(0)
    return -((arb(how.power) * (-exact).log()).exp())


def transformed_upper(claim: Claim, how: Transform, encoded: str | None, case: Case) -> list[arb]:
    """Balls whose upper ends bound M(z_j) - M(z_y) on the claimed ball; entry y is unused.

    M is nondecreasing: M(z_j) - M(z_y) <= M(ub z_j) - M(lb z_y). Bounds of differences do not push through M, but where
    M is convex (clamp, power >= 1) z_j <= min(ub z_j, z_y + ub d_j), and for ub d_j <= 0 the function
    M(min(ub z_j, z_y + ub d_j)) - M(z_y) falls in z_y: while the second term is the smaller its slope is
    M'(z_y + ub d_j) - M'(z_y) <= 0, beyond it is -M'(z_y) <= 0. So it is largest at z_y = lb z_y.
    """
    y, prepared = claim.predicted, case.robust
    values = bounds.value_bounds(prepared, case.ball(claim), slopes(encoded, prepared))
    of_differences = bounds.differences(values, y)[1]
    lower, upper = logit_bounds(values)
    lower_y = arb(float(lower[y]))
    at_lower_y = transform(lower_y, how)
    result: list[arb] = []
    for j, top in enumerate(upper):
        upper_j = arb(float(top))
        if how.clamp and how.power >= 1 and of_differences[j] <= 0:
            upper_j = upper_j.min(lower_y + arb(float(of_differences[j])))
        result.append(transform(upper_j, how) - at_lower_y)
    return result


def logit_bounds(values: bounds.Values) -> tuple[Array, Array]:
    """lower <= z <= upper over the ball, (K,) each."""
    forms = np.eye(values.prepared.network.classes)
    uppers = bounds.functionals(values, np.concatenate([forms, -forms]), None)
    return -uppers[len(forms) :], uppers[: len(forms)]

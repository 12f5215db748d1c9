"""Logit differences d_j = z_j - z_y over the claimed ball, derived here: what every margin rule starts from.

y is the predicted class (d_y = 0), T the temperature of h (1 for g).

Precondition: a prepared network, a claimed ball. Postcondition: lower <= d_j <= upper on it, in the claim's semantics.
Charged: the backward passes' rounding, in `kernel.bounds`; the float32 error of two logits, to both ends.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from dataclasses import dataclass

import numpy as np
from flint import arb

from proofs_check import witness
from proofs_check.certificate import Claim, RejectedError, need
from proofs_check.kernel import bounds, float32
from proofs_check.kernel.rounding import Array, down, up
from proofs_check.rules.case import Case


@dataclass(frozen=True, eq=False)
class Box:
    """lower <= d_j <= upper, both (K,), entry y zero."""

    lower: Array
    upper: Array


@dataclass(frozen=True, eq=False)
class Differences(Box):
    """On the ball, from a network's own backward bounds.

    values: of every node. error: (K,) what a float32 evaluation adds to every |d_j|; zero in real semantics.
    networks: how many networks' differences stand one behind the other.
    """

    values: bounds.Values
    error: Array
    networks: int = 1


def exponentials(bound: Array, temperature: float, y: int) -> list[arb]:
    """exp(T b_j) for every class j; exactly 1 for y."""
    return [arb(1) if j == y else (arb(temperature) * arb(float(b))).exp() for j, b in enumerate(bound)]


@dataclass(frozen=True)
class EngineBounds:
    """Bounds of d_j over the claimed ball, as an engine stated them; entry y of both is 0."""

    engine: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def engine_bounds(claim: Claim, stated: EngineBounds, case: Case) -> tuple[Array, Array]:
    """(lower, upper) as stated, after everything but the bounds themselves is derived here: y is the strict argmax of
    h(x), and the bounds hold its d_j."""
    y, classes = claim.predicted, case.robust.network.classes
    need(len(stated.lower) == len(stated.upper) == classes, "bounds", f"must have {classes} entries each")
    lower, upper = np.array(stated.lower), np.array(stated.upper)
    need(lower[y] == 0 == upper[y], "bounds", "entry of the predicted class must be 0")
    at_x = bounds.difference_bounds(case.robust, case.point(claim), y, None)
    need_class(case, claim, at_x[1])
    need((lower <= at_x[1]).all() and (at_x[0] <= upper).all(), "bounds", "exclude the input's own logit differences")
    return lower, upper


def need_class(case: Case, claim: Claim, upper: Array) -> None:
    """Definition 3.1: y is the strict argmax of h(x). upper: of d, at x or over a set that holds x."""
    if not (np.delete(upper, claim.predicted) < 0).all():
        upper = differences(case.robust, None, case, dataclasses.replace(claim, radius=0.0)).upper
    strict = bool((np.delete(upper, claim.predicted) < 0).all())
    need(strict, "class", f"class {claim.predicted} is not proven to be the robust model's strict argmax")


def decoded(encoded: str, step: str) -> bytes:
    """Bytes written as base64."""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectedError(step, f"not base64: {error}") from error


def slopes(encoded: str | None, prepared: bounds.Prepared) -> witness.Witness | None:
    return None if encoded is None else witness.decode(decoded(encoded, "witness"), prepared.network)


def differences(
    prepared: bounds.Prepared, encoded: str | None, case: Case, claim: Claim, networks: int = 1
) -> Differences:
    """Rigorous bounds of d_j, widened by the float32 evaluation error where the claim speaks of float32. networks: of
    how many networks, `prepared` as one, the claim being of real arithmetic if there are several."""
    y = claim.predicted
    values = bounds.value_bounds(prepared, case.ball(claim), slopes(encoded, prepared))
    lower, upper = bounds.differences(values, y, networks)
    if claim.semantics == "real":
        return Differences(lower, upper, values, np.zeros_like(upper), networks)
    single = float32.logit_error(values)
    error = up(single + single[y])
    error[y] = 0.0
    return Differences(down(lower - error), up(upper + error), values, error)


def rivals(claim: Claim, classes: int) -> list[int]:
    return [i for i in range(classes) if i != claim.predicted]

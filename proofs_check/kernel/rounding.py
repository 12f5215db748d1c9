"""Error bounds of float64 arithmetic, and elementary functions rounded outward.

Model: IEEE 754 double, round to nearest, any summation order, fused multiply-add or not; results that underflow may
be flushed to zero, but no number that is read (`need_arithmetic`). u = 2^-53. With numbers of at most LIMIT, a
product's underflow error times any number, summed over 2^26 products, stays below UNDERFLOW. Numbers
beyond LIMIT are rejected.

Precondition of every function: that model (`need_arithmetic`), numbers of at most LIMIT. Postcondition: its Ensures.
Charged by `up` and `down`: two roundings, an underflow; by `sum_error`: a sum, and 15 roundings of its size to spare.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

from proofs_check.certificate import RejectedError, need

Array = NDArray[np.float64]

LIMIT = 2.0**200
UNDERFLOW = 2.0**-500
PRECISION = 300  # bits; Arb's results are enclosures at any precision


def sum_error(terms: int) -> float:
    """G(n) = (n + 8) 2^-52. Ensures: G(n) >= gamma_(2n + 15) / (1 - gamma_(2n + 15)), gamma_n = n u / (1 - n u).

    So for a sum of n products computed as s, with the sum of their absolute values computed as m (each in
    any order): |s - exact| + UNDERFLOW <= G(n) m + UNDERFLOW, rounded, with n + 15 further roundings of m to spare.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
    """
    return (terms + 8) * 2.0**-52


def up(value: Array) -> Array:
    """Ensures: result >= every sum or difference of two doubles (or of two such products) rounding to `value`.

    value (1 + 2^-51) + UNDERFLOW evaluated in floats exceeds value by more than 2 u |value| + UNDERFLOW / 2.
    """
    return value + (np.abs(value) * 2.0**-51 + UNDERFLOW)


def down(value: Array) -> Array:
    """-up(-value)."""
    return value - (np.abs(value) * 2.0**-51 + UNDERFLOW)


def sum_up(first: Array, *terms: Array) -> Array:
    """Ensures: result >= first + terms in real arithmetic. Added from the left, each partial sum rounded up."""
    return functools.reduce(lambda total, term: up(total + term), terms, first)


def product_up(left: Array | float, right: Array | float) -> Array:
    """Ensures: result >= left * right in real arithmetic."""
    return up(np.multiply(left, right))


def float_up(value: float) -> float:
    """`up` of one number."""
    return float(up(np.array(value)))


def centred(lower: Array, upper: Array) -> tuple[Array, Array]:
    """(centre, radius). Ensures: centre - radius <= lower and upper <= centre + radius, whatever centre rounds to."""
    centre = (lower + upper) / 2
    return centre, up(np.maximum(upper - centre, centre - lower))


def dot_up(rows: Array, vector: Array) -> Array:
    """rows (R, n), vector (n,) -> (R,) >= rows @ vector in real arithmetic."""
    error = sum_error(len(vector)) * (np.abs(rows) @ np.abs(vector))
    return sum_up(rows @ vector, up(error))


def need_arithmetic() -> None:
    """Rejects everything in a process whose floating-point unit was switched to another mode than the model's: where
    subnormal operands count as zero, as after torch.set_flush_denormal(True), the float64 of a float32 is another
    number; where sums are not rounded to nearest, every error bound is too small."""
    least = np.array([1], dtype=np.uint32).view(np.float32).astype(np.float64)
    need(least[0] == 2.0**-149, "arithmetic", "this process reads subnormal numbers as zero: switch that off")
    sums = np.array([1.0, -1.0, 1.0]) + np.array([1.0, -1.0, 1.5]) * 2.0**-53
    nearest = bool((sums == [1.0, -1.0, 1.0 + 2.0**-52]).all())
    need(nearest, "arithmetic", "this process does not round to nearest: set its rounding mode back")


def need_bounded(value: Array, step: str) -> None:
    """Rejects NaN, infinities and numbers beyond LIMIT, which the error bounds do not cover."""
    need(bool(np.all(np.abs(value) <= LIMIT)), step, "a value is not a number or exceeds 2^200")


# ---------------------------------------------------------------- float32, in which a claim may speak of evaluations

OVERFLOW_LIMIT = 2.0**126  # no float32 overflow below this, whatever the order of summation
UNDERFLOW_ERROR = 2.0**-125  # more than any underflow error of one operation, flushed or not


def float32_sum_error(terms: int) -> float:
    """1.25 (n + 4) 2^-24 >= gamma_(n + 2) / (1 - gamma_(n + 2)) of float32, for n < 2^20."""
    need(terms < 2**20, "float32", f"sums of {terms} terms are not covered")
    return 1.25 * (terms + 4) * 2.0**-24


# ---------------------------------------------------------------- Arb: enclosures to outward floats


def arb_up(value: arb) -> float:
    """Ensures: result >= value, for every real the ball holds. Rejects a ball without bound."""
    result = math.nextafter(float(value.upper()), math.inf)
    if not result <= LIMIT:
        raise RejectedError("rounding", "a value is not a number or exceeds 2^200")
    return result


def arb_down(value: arb) -> float:
    """Ensures: result <= value, for every real the ball holds. Rejects a ball without bound."""
    return -arb_up(-value)


def normal_cdf(x: arb) -> arb:
    """Φ(x) = erfc(-x / √2) / 2: no cancellation in either tail."""
    with ctx.workprec(PRECISION):
        return (-x / arb(2).sqrt()).erfc() / 2


def normal_quantile(p: arb) -> arb:
    """Φ⁻¹(p) = -√2 erfc⁻¹(2p). Not finite (hence rejected when rounded) unless 0 < p < 1."""
    with ctx.workprec(PRECISION):
        return -arb(2).sqrt() * (2 * p).erfcinv()


def enclose(function: Callable[[arb], arb], values: Array) -> tuple[Array, Array]:
    """(down, up) of an Arb function at every entry, same shape."""
    balls = [function(arb(float(v))) for v in values.ravel()]
    lower = np.array([arb_down(b) for b in balls]).reshape(values.shape)
    return lower, np.array([arb_up(b) for b in balls]).reshape(values.shape)

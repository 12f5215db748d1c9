"""The arithmetic that the judge's error bounds assume (proofs_check/kernel/rounding.py), tried on this machine.

A test that passes proves nothing; one that fails says that certificates judged here are worth nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from flint import arb, ctx

from certmix.formatting import upper
from certmix.installation.finding import Finding, judged
from proofs_check.certificate import RejectedError
from proofs_check.kernel.rounding import need_arithmetic, sum_error

SIZES = (1, 7, 64, 333)  # of sums and products of matrices: below and beyond a processor's vectors and blocks
SWITCH = "another library of this process switches the floating-point unit: import and run certmix without it"
BLAS = "numpy multiplies matrices wrongly here: install another numpy, or its BLAS anew (numpy.show_config() names it)"
FLINT = "python-flint encloses wrongly here: install it anew, python-flint>=0.9"


def findings() -> list[Finding]:
    """One of each assumption: rounding, subnormal numbers, NaN, sums in any order, products of matrices, Arb."""
    return [_mode(), _nan(), _sums(), _integers(), _products(), _enclosures()]


def _mode() -> Finding:
    of = "floating-point unit"
    try:
        need_arithmetic()
    except RejectedError as error:
        return Finding(of, "wrong", error.reason, SWITCH)
    halves = np.full(3, 2.0**-1074) * 0.5 == 0  # a tie, to even
    kept = np.array([2.0**-1022]) * 0.5 == 2.0**-1023
    if not (halves.all() and kept.all()):  # covered: `UNDERFLOW` charges it
        words = "results that underflow are flushed to zero; the judge's error bounds allow that"
        return Finding(of, "note", words, "nothing has to be done")
    return Finding(of, "ok", "rounds to nearest, keeps subnormal numbers")


def _nan() -> Finding:
    values = np.array([math.nan, 1.0])
    compares = not bool((values <= 2.0).all()) and not bool((values > 2.0).any())
    carried = math.isnan(float(np.maximum(values, 0.0).max())) and math.isnan(float((values * 0.0).sum()))
    return judged("NaN", compares and carried, "is carried on, and never below a limit" if compares and carried
                  else "is lost by a maximum, a sum or a comparison", "install numpy anew, as released")  # fmt: skip


def _sums() -> Finding:
    """Thirds and a number so large that most of each is lost beside it, in either order, against the exact sum."""
    worst = 0.0
    for size in SIZES:
        terms = np.ones(size + 1) / 3
        terms[0] = 2.0**20 / 3
        for order in (terms, terms[::-1]):
            exact = sum(map(Fraction, order.tolist()))
            off = abs(Fraction(float(order.sum())) - exact) / (Fraction(sum_error(size + 1)) * exact)
            worst = max(worst, float(off))
    return judged("sums", worst <= 1, f"off by {upper(worst, 2)} of what the judge charges, at worst", BLAS)


def _integers() -> Finding:
    """Products of integers of 20 bits are exact in any order: 333 2^40 < 2^53."""
    for size in SIZES:
        seeds = np.arange(size * size, dtype=np.int64).reshape(size, size)
        left, right = (seeds * 2654435761) % 2**20, (seeds * 40503 + 7) % 2**20
        if not bool((left.astype(np.float64) @ right.astype(np.float64) == left @ right).all()):
            return Finding("products of integers", "wrong", f"matrices of {size} x {size} come out wrong", BLAS)
    return Finding("products of integers", "ok", f"exact, up to {SIZES[-1]} x {SIZES[-1]}")


def _products() -> Finding:
    """Rows times columns of very different sizes, against exact sums."""
    size = SIZES[-1]
    scales = 2.0 ** (np.arange(size) % 41 - 20)
    left = np.cos(np.arange(size) * 1.7) * scales
    matrix = np.sin(np.arange(4.0 * size)).reshape(size, 4) / scales[:, None]
    found, worst = left @ matrix, 0.0
    for column, value in zip(matrix.T, found, strict=True):
        terms = [Fraction(a) * Fraction(b) for a, b in zip(left.tolist(), column.tolist(), strict=True)]
        charged = Fraction(sum_error(size)) * sum(map(abs, terms))
        worst = max(worst, float(abs(Fraction(float(value)) - sum(terms)) / charged))
    return judged(
        "products of reals", worst <= 1, f"off by {upper(worst, 2)} of what the judge charges, at worst", BLAS
    )


def _enclosures() -> Finding:
    """Identities that enclosures must hold, and digits of e that stand in every table."""
    with ctx.workprec(100):
        holds = (
            (arb(1) / 3 * 3).contains(arb(1)),
            arb(1).exp().overlaps(arb("2.718281828459045235360287471352 +/- 1e-29")),
            (arb("0.3").exp().log() - arb("0.3")).contains(arb(0)),
            (arb("0.7").erf() + arb("0.7").erfc()).contains(arb(1)),
            arb(1).exp().rad() < 2.0**-90,
        )
    return judged("Arb (python-flint)", all(holds), "exp, log, erf enclose what they must" if all(holds)
                  else f"laws {[n for n, h in enumerate(holds) if not h]} of 0 to 4 fail", FLINT)  # fmt: skip

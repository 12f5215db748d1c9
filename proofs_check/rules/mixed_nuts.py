"""The map of MixedNUTS as released (docs/maths.md 8): M(z_j) - M(z_y) from bounds of the logits less their mean.

Notation: K logits z, n = z - mean z, which adds up to 0; v_j = n_j / sqrt(n·n / (K - 1) + 1e-8) + shift; w = GELU(v).

Precondition: slopes for h. Postcondition: the balls' upper ends bound M(z_j) - M(z_y) on the claimed ball. Charged:
bounds of z_j - z_y and of K n_j carry their own rounding (`kernel.bounds`), their forms being whole numbers; all else
is of Arb balls.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from flint import arb

from proofs_check.certificate import Claim, MixedNuts
from proofs_check.kernel import bounds
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import slopes

RISES_FROM, LEAST = arb(-3) / 4, arb(-17) / 100  # of GELU, whose minimum, above the second, is near -0.7518
PIECES = 64


def nuts_upper(claim: Claim, how: MixedNuts, encoded: str | None, case: Case) -> list[arb]:
    """Balls whose upper ends bound M(z_j) - M(z_y) on the claimed ball; entry y is unused."""
    values = bounds.value_bounds(case.robust, case.ball(claim), slopes(encoded, case.robust))
    of_differences = bounds.differences(values, claim.predicted)[1]
    classes = case.robust.network.classes
    forms = classes * np.eye(classes) - 1
    ends = bounds.functionals(values, np.concatenate([forms, -forms]), None)
    upper = [arb(float(u)) / classes for u in ends[:classes]]
    lower = [-arb(float(u)) / classes for u in ends[classes:]]
    return pushed(lower, upper, [arb(float(d)) for d in of_differences], claim.predicted, how)


def pushed(lower: list[arb], upper: list[arb], differences: list[arb], y: int, how: MixedNuts) -> list[arb]:
    """The same from bounds of n and upper bounds of d_j = z_j - z_y; the entries of `differences` are exact.

    All v_j - shift are n_j times one r > 0, so that where d_j <= b <= 0 and r >= r_0: v_j = v_y + r d_j <= v_y + r_0 b.
    v_y lies in one of `PIECES` intervals from t to t': there w_j is at most `gelu_up_to` min(ub v_j, t' + r_0 b), and
    w_y at least `gelu_from` t.
    """
    count, shift = len(upper) - 1, arb(how.shift)
    tops = [normed(lower, upper, j) + shift for j in range(len(upper))]
    start = arb((shift - normed([-u for u in upper], [-low for low in lower], y)).lower())
    stop = arb(tops[y].upper())
    largest = sum((v * v for v in ((-low).max(up) for low, up in zip(lower, upper, strict=True))), arb(0))
    root = 1 / (largest / count + arb(1) / 10**8).sqrt()
    cuts = [start + (stop - start) * k / PIECES for k in range(PIECES + 1)]
    below = [mapped(gelu_from(cut), how) for cut in cuts[:-1]]
    result: list[arb] = []
    for top, d in zip(tops, differences, strict=True):
        reached = (top.min(cut + root * d) if d <= 0 else top for cut in cuts[1:])
        result.append(reduce(arb.max, (mapped(gelu_up_to(v), how) - b for v, b in zip(reached, below, strict=True))))
    return result


def gelu_up_to(v: arb) -> arb:
    """A ball whose upper end bounds GELU up to that of v: it increases where v > 0, and is at most 0 elsewhere."""
    return gelu(v) if v > 0 else arb(0).max(gelu(arb(v.upper()).max(0)))


def gelu_from(v: arb) -> arb:
    """A ball whose lower end bounds GELU from that of v on from below."""
    return gelu(v) if v >= RISES_FROM else LEAST


def normed(lower: list[arb], upper: list[arb], j: int) -> arb:
    """A ball whose upper end bounds n_j / sqrt(n·n / (K - 1) + 1e-8), from bounds of n.

    With the sum R of the others' squares it is n_j / sqrt((n_j² + R) / (K - 1) + 1e-8). That increases in n_j; in R it
    falls where n_j > 0, and rises where n_j < 0. The others add up to -n_j, so that R >= n_j² / (K - 1) too.
    Squares are products: flint has no power of a ball around 0.
    """
    count, top = len(upper) - 1, upper[j]
    others = [(low, up) for k, (low, up) in enumerate(zip(lower, upper, strict=True)) if k != j]
    if top <= 0:
        rest = sum((v * v for v in ((-low).max(up) for low, up in others)), arb(0))
    else:
        least = sum((v * v for v in (arb(0).max(low).max(-up) for low, up in others)), arb(0))
        rest = least.max(top * top / count)
    return top / ((top * top + rest) / count + arb(1) / 10**8).sqrt()


def gelu(v: arb) -> arb:
    """v Φ(v)."""
    return v * (1 + (v / arb(2).sqrt()).erf()) / 2


def mapped(w: arb, how: MixedNuts) -> arb:
    """scale sign(w) |w|^power of the ends of a ball: it does not fall in w."""
    ends = [power(arb(end), how.power) for end in (w.lower(), w.upper())]
    return arb(how.scale) * ends[0].union(ends[1])


def power(exact: arb, exponent: float) -> arb:
    """sign(w) |w|^exponent of one number."""
    size = arb(0) if exact == 0 else (arb(exponent) * abs(exact).log()).exp()
    return -size if exact < 0 else size

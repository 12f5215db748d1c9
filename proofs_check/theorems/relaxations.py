"""Lines below and above the nodes of a network: docs/maths.md 9, and MaxMin written with one ReLU."""

from __future__ import annotations

from typing import Any

from proofs_check.theorems.theorem import Theorem, reals, z3

v, low, high, slope, leak, chord, a, b = reals("v low high slope leak chord a b")
f, f_low, f_high, f_touch, touch, share, tangent, line, lift, rise, fall = reals(
    "f f_low f_high f_touch touch share tangent line lift rise fall"
)
x1, x2, beyond, c1, c2 = reals("x1 x2 beyond c1 c2")
p1, p2 = z3.Ints("p1 p2")
relu = z3.If(v > 0, v, 0)
leaky = z3.If(v > 0, v, leak * v)


def leaky_at(end: Any) -> Any:
    return z3.If(end > 0, end, leak * end)


def cell(index: Any) -> Any:
    return z3.If(index == 1, x1, z3.If(index == 2, x2, beyond))


positive = z3.If(a - b > 0, a - b, 0)

THEOREMS = (
    Theorem(
        "line below a ReLU",
        {"slope >= 0": slope >= 0, "slope <= 1": slope <= 1},
        relu >= slope * v,
    ),
    Theorem(
        "line above a ReLU",
        {
            "v >= low": v >= low,
            "v <= high": v <= high,
            "low < 0": low < 0,
            "high > 0": high > 0,
            "chord": chord * (high - low) == high,
        },
        relu <= chord * (v - low),
    ),
    Theorem(
        "line below a leaky ReLU",
        {"slope >= leak": slope >= leak, "slope <= 1": slope <= 1},
        leaky >= slope * v,
    ),
    Theorem(
        "line above a leaky ReLU",
        {
            "v >= low": v >= low,
            "v <= high": v <= high,
            "leak <= 1": leak <= 1,
            "above at the lower end": lift >= leaky_at(low) - slope * low,
            "above at the upper end": lift >= leaky_at(high) - slope * high,
        },
        leaky <= slope * v + lift,
    ),
    Theorem(
        "line above where a curve is convex",
        {
            "between the ends": v == share * low + (1 - share) * high,
            "share >= 0": share >= 0,
            "share <= 1": share <= 1,
            "convex": f <= share * f_low + (1 - share) * f_high,
            "above at the lower end": f_low <= line * low + lift,
            "above at the upper end": f_high <= line * high + lift,
        },
        f <= line * v + lift,
    ),
    Theorem(
        "line above where a curve is concave",
        {
            "v >= low": v >= low,
            "v <= high": v <= high,
            "low <= touch": low <= touch,
            "touch <= high": touch <= high,
            "concave": f <= f_touch + tangent * (v - touch),
            "above at the touching point": lift
            >= f_touch - line * touch + rise * (high - touch) + fall * (touch - low),
            "rise": rise >= tangent - line,
            "fall": fall >= line - tangent,
            "rise >= 0": rise >= 0,
            "fall >= 0": fall >= 0,
        },
        f <= line * v + lift,
    ),
    Theorem(
        "slopes of a curve",
        {
            "monotone": z3.Or(z3.And(a <= slope, slope <= b), z3.And(b <= slope, slope <= a)),
            "lower bound of that at the lower end": low <= a,
            "lower bound of that at the upper end": low <= b,
            "upper bound of that at the lower end": a <= high,
            "upper bound of that at the upper end": b <= high,
        },
        z3.And(low <= slope, slope <= high),
    ),
    Theorem(
        "gather",
        {"first index in range": z3.Or(p1 == 1, p1 == 2), "second index in range": z3.Or(p2 == 1, p2 == 2)},
        c1 * cell(p1) + c2 * cell(p2)
        == (z3.If(p1 == 1, c1, 0) + z3.If(p2 == 1, c2, 0)) * x1 + (z3.If(p1 == 2, c1, 0) + z3.If(p2 == 2, c2, 0)) * x2,
    ),
    Theorem(
        "MaxMin with one ReLU",
        {},
        z3.And((b + positive) ** 2 + (a - positive) ** 2 == a * a + b * b, b + positive >= a, a - positive <= b),
    ),
)

"""Chords, splits and trees: docs/maths.md 3b and 10."""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

e1, e2, w1, w2, s1, s2, c1, c2, d1, d2, t, bound = reals("e1 e2 w1 w2 s1 s2 c1 c2 d1 d2 t bound")
top1, top2, f, v, at, weight = reals("top1 top2 f v at weight")
h_y, h_i, h_j, mu = reals("h_y h_i h_j mu")
claim, left, right = z3.Bools("claim left right")

THEOREMS = (
    Theorem(
        "chords",
        {
            "line above the first term": w1 * e1 <= s1 * d1 + c1,
            "line above the second": w2 * e2 <= s2 * d2 + c2,
            "bound of the lines' slopes": s1 * d1 + s2 * d2 <= bound,
            "threshold": bound + c1 + c2 < t,
        },
        w1 * e1 + w2 * e2 < t,
    ),
    Theorem(
        "violation region",
        {"it violates": w1 * e1 + w2 * e2 >= t, "top of the other": e2 <= top2, "its weight": w2 >= 0},
        w1 * e1 >= w1 * top1 - (w1 * top1 + w2 * top2 - t),
    ),
    Theorem(
        "multipliers",
        {"side": v >= at, "weight": weight >= 0, "bound": f + weight * (v - at) <= bound},
        f <= bound,
    ),
    Theorem(
        "multipliers, other side",
        {"side": v <= at, "weight": weight >= 0, "bound": f + weight * (at - v) <= bound},
        f <= bound,
    ),
    Theorem(
        "splits",
        {"where v >= at": z3.Implies(v >= at, claim), "where v <= at": z3.Implies(v <= at, claim)},
        claim,
    ),
    Theorem(
        "the strongest rival",
        {
            "i where it is the strongest": z3.Implies(h_j <= h_i, h_y - h_i > mu),
            "j where it is the strongest": z3.Implies(h_i <= h_j, h_y - h_j > mu),
        },
        z3.And(h_y - h_i > mu, h_y - h_j > mu),
    ),
    Theorem(
        "trees",
        {
            "the children cover the node": z3.Or(left, right),
            "left child": z3.Implies(left, claim),
            "right child": z3.Implies(right, claim),
        },
        claim,
    ),
)

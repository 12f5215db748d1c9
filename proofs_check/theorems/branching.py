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
        "Lines above the terms and a bound of their sum prove the exponential form (docs/maths.md 3b).",
        {
            "line above the first term": w1 * e1 <= s1 * d1 + c1,
            "line above the second": w2 * e2 <= s2 * d2 + c2,
            "bound of the lines' slopes": s1 * d1 + s2 * d2 <= bound,
            "threshold": bound + c1 + c2 < t,
        },
        w1 * e1 + w2 * e2 < t,
        ("network_margin", "branched_margin", "adaptive_margin"),
    ),
    Theorem(
        "violation region",
        "A point that violates the form has w_1 e_1 >= w_1 E_1 - S, S = w . E - t (docs/maths.md 3b).",
        {"it violates": w1 * e1 + w2 * e2 >= t, "top of the other": e2 <= top2, "its weight": w2 >= 0},
        w1 * e1 >= w1 * top1 - (w1 * top1 + w2 * top2 - t),
        ("network_margin", "branched_margin", "adaptive_margin"),
    ),
    Theorem(
        "multipliers",
        "Where v >= at, a weight >= 0 of v - at may be added to what is bounded from above (docs/maths.md 10).",
        {"side": v >= at, "weight": weight >= 0, "bound": f + weight * (v - at) <= bound},
        f <= bound,
        ("branched_margin",),
    ),
    Theorem(
        "multipliers, other side",
        "The same where v <= at, with at - v (docs/maths.md 10).",
        {"side": v <= at, "weight": weight >= 0, "bound": f + weight * (at - v) <= bound},
        f <= bound,
        ("branched_margin",),
    ),
    Theorem(
        "splits",
        "What holds on both sides of a split holds: a tree of them covers the ball (docs/maths.md 10).",
        {"where v >= at": z3.Implies(v >= at, claim), "where v <= at": z3.Implies(v <= at, claim)},
        claim,
        ("branched_margin",),
    ),
    Theorem(
        "the strongest rival",
        "A rival's tree need only speak of points where it is the strongest, if all have trees (docs/maths.md 10).",
        {
            "i where it is the strongest": z3.Implies(h_j <= h_i, h_y - h_i > mu),
            "j where it is the strongest": z3.Implies(h_i <= h_j, h_y - h_j > mu),
        },
        z3.And(h_y - h_i > mu, h_y - h_j > mu),
        ("branched_margin",),
    ),
    Theorem(
        "trees",
        "A node whose two children are proven is proven, hence, from the leaves up, the root (docs/maths.md 10).",
        {
            "the children cover the node": z3.Or(left, right),
            "left child": z3.Implies(left, claim),
            "right child": z3.Implies(right, claim),
        },
        claim,
        ("branched_margin",),
    ),
)

"""Randomised smoothing: docs/maths.md 5. Phi stands for the normal distribution function, q for Phi^-1 of a mean."""

from __future__ import annotations

from typing import Any

from proofs_check.theorems.theorem import Theorem, reals, z3

alpha, g_y, g_i, h_y, h_i = reals("alpha g_y g_i h_y h_i")
q_y, q_i, q_y0, q_i0, s = reals("q_y q_i q_y0 q_i0 s")
value, t1, t2, one1, one2, p1, p2, l1, l2, m = reals("value t1 t2 one1 one2 p1 p2 l1 l2 m")
bet, null, goal, p, r1, r2, c1, c2, capital = reals("bet null goal p r1 r2 c1 c2 capital")
b1, b2, x, x_other, grid, near, off = reals("b1 b2 x x_other grid near off")
Phi = z3.Function("Phi", z3.RealSort(), z3.RealSort())

mix = (1 - alpha) * (g_y - g_i) + alpha * (h_y - h_i)
probabilities = {"alpha <= 1": alpha <= 1, "g_y is a probability": g_y >= 0, "g_i is a probability": g_i <= 1}
moved = {
    "Phi^-1 of h_y is 1/sigma-Lipschitz": q_y >= q_y0 - s,
    "Phi^-1 of h_i is 1/sigma-Lipschitz": q_i <= q_i0 + s,
    "h_y": h_y == Phi(q_y),
    "h_i": h_i == Phi(q_i),
}


def increasing(low: Any, high: Any) -> Any:
    return z3.Implies(low <= high, Phi(low) <= Phi(high))


def size(number: Any) -> Any:
    return z3.If(number > 0, number, -number)


THEOREMS = (
    Theorem(
        "direct margin bound",
        {
            **moved,
            "Phi is increasing, at h_y": increasing(q_y0 - s, q_y),
            "Phi is increasing, at h_i": increasing(q_i, q_i0 + s),
        },
        h_y - h_i >= Phi(q_y0 - s) - Phi(q_i0 + s),
    ),
    Theorem(
        "theorem 3.7",
        {
            **probabilities,
            "alpha h_y moves little": q_y >= q_y0 - s,
            "alpha h_i + 1 - alpha moves little": q_i <= q_i0 + s,
            "of alpha h_y": alpha * h_y == Phi(q_y),
            "of alpha h_i + 1 - alpha": alpha * h_i + 1 - alpha == Phi(q_i),
            "radius": 2 * s < q_y0 - q_i0,
            "Phi is strictly increasing": z3.Implies(q_i < q_y, Phi(q_i) < Phi(q_y)),
        },
        mix > 0,
    ),
    Theorem(
        "layers of a value",
        {
            "value >= -1": value >= -1,
            "first indicator": one1 == z3.If(value >= t1, 1.0, 0.0),
            "second indicator": one2 == z3.If(value >= t2, 1.0, 0.0),
        },
        value >= -1 + (t1 + 1) * one1 + (t2 - t1) * one2,
    ),
    Theorem(
        "distributional bound",
        {
            "mean of the layers": m >= -1 + (t1 + 1) * p1 + (t2 - t1) * p2,
            "thresholds, first": t1 >= -1,
            "thresholds, second": t2 >= t1,
            "tail at the first": p1 >= l1,
            "tail at the second": p2 >= l2,
        },
        m >= -1 + (t1 + 1) * l1 + (t2 - t1) * l2,
    ),
    Theorem(
        "a bet on a mean that is too large",
        {"bets are on large values": bet >= 0, "the mean is no larger than what is bet against": m <= null},
        z3.And(1 + bet * (m - null) <= 1, 1 + bet * (value - null) <= 1 + bet * (value - m)),
    ),
    Theorem(
        "several bets at once",
        {"the first is fair": p * c1 + (1 - p) * c2 <= r1, "the second is fair": p * b1 + (1 - p) * b2 <= r2},
        p * (c1 + b1) / 2 + (1 - p) * (c2 + b2) / 2 <= (r1 + r2) / 2,
    ),
    Theorem(
        "a value, rounded down",
        {
            "value >= 0": value >= 0,
            "first indicator": one1 == z3.If(value >= t1, 1.0, 0.0),
            "second indicator": one2 == z3.If(value >= t2, 1.0, 0.0),
        },
        value >= t1 * one1 + (t2 - t1) * one2,
    ),
    Theorem("rivals bounded by what is left", {"sum": h_y + h_i <= 1, "lower bound of h_y": h_y >= l1}, 1 - h_i >= l1),
    Theorem(
        "around the grid point",
        {"ball around x": size(x_other - x) <= near, "distance to the grid": size(x - grid) <= off},
        size(x_other - grid) <= near + off,
    ),
    Theorem(
        "Ville's inequality, one draw",
        {
            "the bet is fair": p * c1 + (1 - p) * c2 <= capital,
            "p >= 0": p >= 0,
            "p <= 1": p <= 1,
            "reaching it after one outcome": r1 * goal <= c1,
            "reaching it after the other": r2 * goal <= c2,
        },
        (p * r1 + (1 - p) * r2) * goal <= capital,
    ),
)

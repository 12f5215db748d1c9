"""Theorem 3.5, its local form, and constants of networks: docs/maths.md 4."""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

alpha, g_y, g_i, h_y, h_i, at_y, at_i = reals("alpha g_y g_i h_y h_i at_y at_i")
L, L_y, L_i, r, t, d, d_x, up_i, low_y = reals("L L_y L_i r t d d_x up_i low_y")
rho, x, y, lost, c, square, factor, rest = reals("rho x y lost c square factor rest")
change, slope, w, v, theta, u, inner, delta = reals("change slope w v theta u inner delta")

mix = (1 - alpha) * (g_y - g_i) + alpha * (h_y - h_i)
probabilities = {"alpha <= 1": alpha <= 1, "g_y is a probability": g_y >= 0, "g_i is a probability": g_i <= 1}
local = ("lipschitz_local", "lipschitz_global", "lipschitz_layers")

THEOREMS = (
    Theorem(
        "theorem 3.5",
        "From constants of h_y and h_i, at distances t < r of the paper's radius; at_y, at_i: at x (docs/maths.md 4).",
        {
            **probabilities,
            "alpha > 0": alpha > 0,
            "constant of h_y": at_y - h_y <= L_y * t,
            "constant of h_i": h_i - at_i <= L_i * t,
            "L >= 0": z3.And(L_y >= 0, L_i >= 0),
            "distance": t <= r,
            "radius": r * (alpha * (L_y + L_i)) < alpha * (at_y - at_i) + alpha - 1,
        },
        mix > 0,
        beside=True,
    ),
    Theorem(
        "theorem 3.5, of the difference",
        "The same from one constant of h_y - h_i, as the judge uses it (docs/maths.md 4).",
        {
            **probabilities,
            "alpha >= 0": alpha >= 0,
            "constant": (at_y - at_i) - (h_y - h_i) <= L * t,
            "L >= 0": L >= 0,
            "distance": t <= r,
            "radius": alpha * (at_y - at_i) > 1 - alpha + alpha * r * L,
        },
        mix > 0,
        local,
    ),
    Theorem(
        "relaxed constants",
        "From bounds of h_y and h_i on the ball: their fixed point (docs/maths.md 4).",
        {
            **probabilities,
            "alpha >= 0": alpha >= 0,
            "lower bound of h_y": h_y >= low_y,
            "upper bound of h_i": h_i <= up_i,
            "test": alpha * (low_y - up_i) > 1 - alpha,
        },
        mix > 0,
        ("lipschitz_relaxed", "engine_lipschitz_relaxed"),
    ),
    Theorem(
        "logit differences from constants",
        "d at distance t <= r is at most d(x) + L r: the box form's upper end (docs/maths.md 4a).",
        {"constant": d - d_x <= L * t, "L >= 0": L >= 0, "distance": t <= r},
        d <= d_x + L * r,
        local,
    ),
    Theorem(
        "constants of a composition",
        "The product of the constants is one of the composition (docs/maths.md 4).",
        {"outer": change <= L_y * inner, "inner": inner <= L_i * t, "outer >= 0": L_y >= 0},
        change <= L_y * L_i * t,
        ("lipschitz_layers",),
    ),
    Theorem(
        "constants of a sum",
        "The sum of the constants is one of the sum (docs/maths.md 4).",
        {"first": u <= L_y * t, "second": v <= L_i * t},
        u + v <= (L_y + L_i) * t,
        ("lipschitz_layers",),
    ),
    Theorem(
        "increments of a node",
        "w = slope v with a slope in [0, 1] obeys w (v - w) >= 0 (docs/maths.md 4, LipSDP).",
        {"slope >= 0": slope >= 0, "slope <= 1": slope <= 1, "increment": w == slope * v},
        w * (v - w) >= 0,
        ("lipschitz_global",),
    ),
    Theorem(
        "LipSDP's last step",
        "L is a constant if L^2 |delta|^2 - change^2 - 2 theta w (v - w) >= 0 (docs/maths.md 4, LipSDP).",
        {
            "matrix": L * L * delta * delta - change * change - 2 * theta * w * (v - w) >= 0,
            "increments": w * (v - w) >= 0,
            "multiplier": theta >= 0,
        },
        change * change <= L * L * delta * delta,
        ("lipschitz_global",),
    ),
    Theorem(
        "gain of a block",
        "y^2 <= (rho + e (1 + c^2)) x^2 where the block's matrix is >= -e and |w| <= c |x| (docs/maths.md 11).",
        {
            "matrix": rho * x * x - y * y - 2 * theta * w * (v - w) >= -lost * (x * x + w * w),
            "increments": w * (v - w) >= 0,
            "multiplier": theta >= 0,
            "what rounding lost": lost >= 0,
            "size of w": w * w <= c * c * x * x,
        },
        y * y <= (rho + lost * (1 + c * c)) * x * x,
        ("lipschitz_layers",),
    ),
    Theorem(
        "a matrix below a multiple of one",
        "A A' = rho - F F' - R gives |A|^2 <= rho + |R|: here a' stands for |A' u|^2, |u| = 1 (docs/maths.md 11).",
        {"identity": square == rho - factor * factor - rest, "size of R": -rest <= lost},
        square <= rho + lost,
        ("lipschitz_layers",),
    ),
)

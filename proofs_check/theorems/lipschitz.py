"""Theorem 3.5, its local form, and constants of networks: docs/maths.md 4."""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

alpha, g_y, g_i, h_y, h_i, at_y, at_i = reals("alpha g_y g_i h_y h_i at_y at_i")
L, L_y, L_i, r, t, d, d_x, up_i, low_y = reals("L L_y L_i r t d d_x up_i low_y")
rho, x, y, lost, c, square, factor, rest = reals("rho x y lost c square factor rest")
p, a_1, a_2, b_1, b_2, log_1, log_2, total, s, size, c_1, q = reals("p a_1 a_2 b_1 b_2 log_1 log_2 total s size c_1 q")
change, slope, w, v, theta, u, inner, delta = reals("change slope w v theta u inner delta")

mix = (1 - alpha) * (g_y - g_i) + alpha * (h_y - h_i)
probabilities = {"alpha <= 1": alpha <= 1, "g_y is a probability": g_y >= 0, "g_i is a probability": g_i <= 1}

THEOREMS = (
    Theorem(
        "theorem 3.5",
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
    ),
    Theorem(
        "theorem 3.5, of the difference",
        {
            **probabilities,
            "alpha >= 0": alpha >= 0,
            "constant": (at_y - at_i) - (h_y - h_i) <= L * t,
            "L >= 0": L >= 0,
            "distance": t <= r,
            "radius": alpha * (at_y - at_i) > 1 - alpha + alpha * r * L,
        },
        mix > 0,
    ),
    Theorem(
        "relaxed constants",
        {
            **probabilities,
            "alpha >= 0": alpha >= 0,
            "lower bound of h_y": h_y >= low_y,
            "upper bound of h_i": h_i <= up_i,
            "test": alpha * (low_y - up_i) > 1 - alpha,
        },
        mix > 0,
    ),
    Theorem(
        "logit differences from constants",
        {"constant": d - d_x <= L * t, "L >= 0": L >= 0, "distance": t <= r},
        d <= d_x + L * r,
    ),
    Theorem(
        "slope of a margin that is not negative",
        {
            "h_i >= 0": h_i >= 0,
            "h_y + h_i <= 1": h_y + h_i <= 1,
            "margin": h_y - h_i >= 0,
            "constant of d_i": L_i <= 2 * L,
            "constants of the others": L_y <= 4 * L,
            "L >= 0": L >= 0,
        },
        h_i * (1 + h_y - h_i) * L_i + (h_y - h_i) * (1 - h_y - h_i) * L_y <= L,
    ),
    Theorem(
        "a sum of exponentials by its shares",
        {
            "log of the first share": b_1 - total == log_1,
            "log of the second": b_2 - total == log_2,
            "they move together": p * b_1 + (1 - p) * b_2 <= p * a_1 + (1 - p) * a_2 + s * size,
        },
        total <= p * (a_1 - log_1) + (1 - p) * (a_2 - log_2) + s * size,
    ),
    Theorem(
        "a margin below 0",
        {
            "e_i >= 0": p >= 0,
            "others >= 0": q >= 0,
            "test": p * (1 + total) < (1 - total) - total * q,
            "margin": s * (1 + p + q) == 1 - p,
        },
        s > total,
    ),
    Theorem(
        "a product below a parabola",
        {"c > 0": c_1 > 0, "quotient": q * 4 * c_1 == s * s},
        s * size <= q + c_1 * size * size,
    ),
    Theorem(
        "constants of a composition",
        {"outer": change <= L_y * inner, "inner": inner <= L_i * t, "outer >= 0": L_y >= 0},
        change <= L_y * L_i * t,
    ),
    Theorem(
        "constants of a sum",
        {"first": u <= L_y * t, "second": v <= L_i * t},
        u + v <= (L_y + L_i) * t,
    ),
    Theorem(
        "increments of a node",
        {"slope >= 0": slope >= 0, "slope <= 1": slope <= 1, "increment": w == slope * v},
        w * (v - w) >= 0,
    ),
    Theorem(
        "LipSDP's last step",
        {
            "matrix": L * L * delta * delta - change * change - 2 * theta * w * (v - w) >= 0,
            "increments": w * (v - w) >= 0,
            "multiplier": theta >= 0,
        },
        change * change <= L * L * delta * delta,
    ),
    Theorem(
        "gain of a block",
        {
            "matrix": rho * x * x - y * y - 2 * theta * w * (v - w) >= -lost * (x * x + w * w),
            "increments": w * (v - w) >= 0,
            "multiplier": theta >= 0,
            "what rounding lost": lost >= 0,
            "size of w": w * w <= c * c * x * x,
        },
        y * y <= (rho + lost * (1 + c * c)) * x * x,
    ),
    Theorem(
        "a matrix below a multiple of one",
        {"identity": square == rho - factor * factor - rest, "size of R": -rest <= lost},
        square <= rho + lost,
    ),
)

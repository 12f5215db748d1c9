"""Lemma 3.2 and what leads to its margin: docs/maths.md 2, 3, 6 and 8.

Pairs of classes are enough: y is the strict argmax iff it beats every rival. Of the exponentials e_j = exp(T d_j) of
logit differences, e is the rival's and `others` the sum of the rest, so the number of classes is free.
"""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

alpha, g_y, g_i, h_y, h_i, m_g, m_h = reals("alpha g_y g_i h_y h_i m_g m_h")
e, others, top, most, least, mu, a = reals("e others top most least mu a")
mix = (1 - alpha) * (g_y - g_i) + alpha * (h_y - h_i)

M_u, M_l, M_zj, M_zy = reals("M_u M_l M_zj M_zy")
n, n_1, n_2, rest, r = reals("n n_1 n_2 rest r")
v_j, v_y, d, b, r_0 = reals("v_j v_y d b r_0")

THEOREMS = (
    Theorem(
        "lemma 3.2",
        {
            "alpha <= 1": alpha <= 1,
            "g_y is a probability": g_y >= 0,
            "g_i is a probability": g_i <= 1,
            "margin": alpha * (h_y - h_i) > 1 - alpha,
        },
        mix > 0,
    ),
    Theorem(
        "lemma 3.2, without strictness",
        {
            "alpha <= 1": alpha <= 1,
            "g_y is a probability": g_y >= 0,
            "g_i is a probability": g_i <= 1,
            "margin": alpha * (h_y - h_i) >= 1 - alpha,
        },
        mix >= 0,
    ),
    Theorem(
        "lemma 3.2 is tight",
        {"margin": alpha * (h_y - h_i) <= 1 - alpha},
        z3.Exists([g_y, g_i], z3.And(g_y >= 0, g_i >= 0, g_y + g_i <= 1, mix <= 0)),
    ),
    Theorem(
        "alpha of one half certifies nothing",
        {"alpha": alpha <= 0.5, "alpha >= 0": alpha >= 0, "h_y is a probability": h_y <= 1, "h_i is one": h_i >= 0},
        z3.Not(alpha * (h_y - h_i) > 1 - alpha),
    ),
    Theorem(
        "box form, rival below",
        {
            "upper bound of e": e <= top,
            "upper bound of others": others <= most,
            "the rival stays below": top <= 1,
            "others >= 0": others >= 0,
        },
        (1 - e) * (1 + top + most) >= (1 - top) * (1 + e + others),
    ),
    Theorem(
        "box form, rival perhaps above",
        {
            "upper bound of e": e <= top,
            "lower bound of others": others >= least,
            "the rival may win": top >= 1,
            "least >= 0": least >= 0,
        },
        (1 - e) * (1 + top + least) >= (1 - top) * (1 + e + others),
    ),
    Theorem(
        "exponential form",
        {"exponentials": z3.And(e > 0, others >= 0)},
        ((1 - e) / (1 + e + others) > mu) == ((1 + mu) * e + mu * others < 1 - mu),
    ),
    Theorem(
        "exponential form, times alpha",
        {},
        (alpha * (1 - e) > (1 - alpha) * (1 + e + others)) == (e + (1 - alpha) * others < 2 * alpha - 1),
    ),
    Theorem(
        "pair form",
        {
            "alpha >= 0": alpha >= 0,
            "alpha <= 1": alpha <= 1,
            "bound of g's margin": g_y - g_i >= m_g,
            "bound of h's margin": h_y - h_i >= m_h,
            "their sum": (1 - alpha) * m_g + alpha * m_h > 0,
        },
        mix > 0,
    ),
    Theorem(
        "exponential form beside g",
        {},
        (alpha * (1 - e) + m_g * (1 + e + others) > 0) == ((alpha - m_g) * e - m_g * others < alpha + m_g),
    ),
    Theorem(
        "g's least margin beside h's strongest rival",
        {
            "alpha >= 0": alpha >= 0,
            "alpha <= 1": alpha <= 1,
            "bound of g's margin": g_y - g_i >= m_g,
            "a stronger rival of h": h_i <= most,
            "margin over it": (1 - alpha) * m_g + alpha * (h_y - most) > 0,
        },
        mix > 0,
    ),
    Theorem(
        "input-dependent alpha",
        {
            "alpha <= a": alpha <= a,
            "a <= 1": a <= 1,
            "alpha >= 0": alpha >= 0,
            "g_y is a probability": g_y >= 0,
            "g_i is a probability": g_i <= 1,
            "margin": alpha * (h_y - h_i) > 1 - alpha,
        },
        (1 - a) * (g_y - g_i) + a * (h_y - h_i) > 0,
    ),
    Theorem(
        "transformed logits",
        {"M is nondecreasing, above": M_zj <= M_u, "M is nondecreasing, below": M_l <= M_zy},
        M_zj - M_zy <= M_u - M_l,
    ),
    Theorem(
        "normed logit, above",
        {"n >= 0": n >= 0, "upper bound of n": n <= top, "rest, from below": r <= rest, "r >= 0": r >= 0},
        n * n * (top * top + r) <= top * top * (n * n + rest),
    ),
    Theorem(
        "normed logit, below zero",
        {"upper bound of n": n <= top, "top <= 0": top <= 0, "rest, from above": rest <= r, "rest >= 0": rest >= 0},
        n * n * (top * top + r) >= top * top * (n * n + rest),
    ),
    Theorem(
        "squares of what adds up to the opposite",
        {"they add up": n + n_1 + n_2 == 0},
        2 * (n_1 * n_1 + n_2 * n_2) >= n * n,
    ),
    Theorem(
        "differences of one scale",
        {
            "one scale": v_j == v_y + r * d,
            "upper bound of the difference": d <= b,
            "it is not positive": b <= 0,
            "lower bound of the scale": r >= r_0,
            "which is not negative": r_0 >= 0,
        },
        v_j <= v_y + r_0 * b,
    ),
)

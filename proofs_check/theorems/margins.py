"""Lemma 3.2 and what leads to its margin: docs/maths.md 2, 3, 6 and 8.

Pairs of classes are enough: y is the strict argmax iff it beats every rival. Of the exponentials e_j = exp(T d_j) of
logit differences, e is the rival's and `others` the sum of the rest, so the number of classes is free.
"""

from __future__ import annotations

from proofs_check.theorems.theorem import Theorem, reals, z3

alpha, g_y, g_i, h_y, h_i, m_g, m_h = reals("alpha g_y g_i h_y h_i m_g m_h")
e, others, top, most, least, mu, a = reals("e others top most least mu a")
mix = (1 - alpha) * (g_y - g_i) + alpha * (h_y - h_i)
margin_rules = ("engine_margin", "network_margin", "branched_margin", "adaptive_margin", "pair_margin")
on_lemma = (*margin_rules, "lipschitz_global", "lipschitz_layers", "lipschitz_local", "lipschitz_relaxed",
            "engine_lipschitz_relaxed", "smoothed_distribution", "smoothed_means",
            "stopped_means")  # fmt: skip

M_u, M_l, M_zj, M_zy = reals("M_u M_l M_zj M_zy")
n, n_1, n_2, rest, r = reals("n n_1 n_2 rest r")

THEOREMS = (
    Theorem(
        "lemma 3.2",
        "If h_y - h_i > (1 - alpha)/alpha then the mix prefers y to i, whatever probabilities g has (docs/maths.md 2).",
        {
            "alpha <= 1": alpha <= 1,
            "g_y is a probability": g_y >= 0,
            "g_i is a probability": g_i <= 1,
            "margin": alpha * (h_y - h_i) > 1 - alpha,
        },
        mix > 0,
        on_lemma,
    ),
    Theorem(
        "lemma 3.2 is tight",
        "At any smaller margin some probabilities g make the mix not prefer y (docs/maths.md 2).",
        {"margin": alpha * (h_y - h_i) <= 1 - alpha},
        z3.Exists([g_y, g_i], z3.And(g_y >= 0, g_i >= 0, g_y + g_i <= 1, mix <= 0)),
        beside=True,
    ),
    Theorem(
        "alpha of one half certifies nothing",
        "At alpha <= 1/2 no probabilities h exceed the required margin (docs/maths.md 2).",
        {"alpha": alpha <= 0.5, "alpha >= 0": alpha >= 0, "h_y is a probability": h_y <= 1, "h_i is one": h_i >= 0},
        z3.Not(alpha * (h_y - h_i) > 1 - alpha),
        beside=True,
    ),
    Theorem(
        "box form, rival below",
        "(1 - e)/(1 + e + others) falls in e and in others as long as e <= 1 (docs/maths.md 3a).",
        {
            "upper bound of e": e <= top,
            "upper bound of others": others <= most,
            "the rival stays below": top <= 1,
            "others >= 0": others >= 0,
        },
        (1 - e) * (1 + top + most) >= (1 - top) * (1 + e + others),
        margin_rules,
    ),
    Theorem(
        "box form, rival perhaps above",
        "Where the rival may win, the margin is least at the least others (docs/maths.md 3a).",
        {
            "upper bound of e": e <= top,
            "lower bound of others": others >= least,
            "the rival may win": top >= 1,
            "least >= 0": least >= 0,
        },
        (1 - e) * (1 + top + least) >= (1 - top) * (1 + e + others),
        ("pair_margin",),
    ),
    Theorem(
        "exponential form",
        "The margin exceeds mu iff (1 + mu) e + mu others < 1 - mu (docs/maths.md 3b).",
        {"exponentials": z3.And(e > 0, others >= 0)},
        ((1 - e) / (1 + e + others) > mu) == ((1 + mu) * e + mu * others < 1 - mu),
        beside=True,
    ),
    Theorem(
        "exponential form, times alpha",
        "As the judge writes it: e + (1 - alpha) others < 2 alpha - 1 is the required margin (docs/maths.md 3b).",
        {},
        (alpha * (1 - e) > (1 - alpha) * (1 + e + others)) == (e + (1 - alpha) * others < 2 * alpha - 1),
        ("network_margin", "branched_margin", "adaptive_margin"),
    ),
    Theorem(
        "pair form",
        "Lower bounds of both margins, weighted, prove the mix's (docs/maths.md 6).",
        {
            "alpha >= 0": alpha >= 0,
            "alpha <= 1": alpha <= 1,
            "bound of g's margin": g_y - g_i >= m_g,
            "bound of h's margin": h_y - h_i >= m_h,
            "their sum": (1 - alpha) * m_g + alpha * m_h > 0,
        },
        mix > 0,
        ("pair_margin",),
    ),
    Theorem(
        "input-dependent alpha",
        "A lower bound alpha of a(x') takes its place in Lemma 3.2 (docs/maths.md 8).",
        {
            "alpha <= a": alpha <= a,
            "a <= 1": a <= 1,
            "alpha >= 0": alpha >= 0,
            "g_y is a probability": g_y >= 0,
            "g_i is a probability": g_i <= 1,
            "margin": alpha * (h_y - h_i) > 1 - alpha,
        },
        (1 - a) * (g_y - g_i) + a * (h_y - h_i) > 0,
        ("adaptive_margin",),
    ),
    Theorem(
        "transformed logits",
        "A nondecreasing M takes bounds of single logits to one of the difference (docs/maths.md 8).",
        {"M is nondecreasing, above": M_zj <= M_u, "M is nondecreasing, below": M_l <= M_zy},
        M_zj - M_zy <= M_u - M_l,
        ("adaptive_margin",),
    ),
    Theorem(
        "normed logit, above",
        "n / sqrt(n² + rest) is largest at the largest n and, for n >= 0, at the least rest (docs/maths.md 8).",
        {"n >= 0": n >= 0, "upper bound of n": n <= top, "rest, from below": r <= rest, "r >= 0": r >= 0},
        n * n * (top * top + r) <= top * top * (n * n + rest),
        ("adaptive_margin",),
    ),
    Theorem(
        "squares of what adds up to the opposite",
        "Two numbers that add up to -n have squares of at least n²/2 together (docs/maths.md 8).",
        {"they add up": n + n_1 + n_2 == 0},
        2 * (n_1 * n_1 + n_2 * n_2) >= n * n,
        ("adaptive_margin",),
    ),
)

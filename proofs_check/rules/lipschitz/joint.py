"""Weighted sums of exponentials bounded from one l2 constant of all logits together (docs/maths.md 4b).

Where the logits, less their mean, are L-Lipschitz, with s = T L r and a_j = log k_j + T d_j(x), on the ball of radius r
log sum_j k_j exp(T d_j) is at most the largest sum_j p_j (a_j - log p_j) + s sqrt(1 + |p|^2) over shares p >= 0 that
add up to 1 (Gibbs). There s sqrt(1 + |p|^2) <= s^2 / (4 c) + c + c |p|^2 for any c > 0. What is left is, for any v, v
plus the sum of q(p_j) = p_j (a_j - v) - p_j log p_j + c p_j^2, each of which is bounded by itself on [0, 1].

Precondition: numbers of at most LIMIT. Postcondition: `log_sum` is at least that. Charged: nothing, all is of Arb
balls; c, v and the points where q's tangents touch are any floats.
"""

from __future__ import annotations

import math

import numpy as np
from flint import arb

from proofs_check.certificate import Claim
from proofs_check.kernel.rounding import Array
from proofs_check.rules.margin.differences import Box, rivals

LEAST = 2.0**-600  # of c, and of where a tangent touches
HALVINGS, STEPS = 40, 8  # of v's interval, and of Newton's method


def joint_proves(at_x: Array, rival: int, claim: Claim, constant: float) -> bool:
    """(3b) times alpha wherever a joint constant lets the logits be: w . e < 2 alpha - 1, w_i = 1, w_j = 1 - alpha."""
    alpha, temperature = arb(claim.alpha), arb(claim.temperature)
    weights = {j: arb(1) if j == rival else 1 - alpha for j in rivals(claim, len(at_x))}
    reach = temperature * arb(constant) * arb(claim.radius)
    return bool(log_sum(_terms(weights, at_x, temperature), reach) < (2 * alpha - 1).log())


def joint_margin(at_x: Box, y: int, rival: int, margin: float, temperature: float, reach: arb) -> bool:
    """p_y - p_i > margin wherever a joint constant lets the logits be, for p = softmax(T z); reach: s.

    From 0 on that is (1 + m) e_i + m sum_j e_j < 1 - m; below 0, (1 + m) e_i < 1 - m + |m| sum_j e_j, and the logarithm
    of the right side is, by any shares q, at least sum_l q_l (b_l - log q_l), b_l the logarithms of its terms.
    """
    m, t, others = arb(margin), arb(temperature), [j for j in range(len(at_x.upper)) if j not in (y, rival)]
    if margin >= 0:
        terms = _terms({rival: 1 + m, **dict.fromkeys(others, m)}, at_x.upper, t)
        return bool(log_sum(terms, reach) < (1 - m).log())
    terms = _terms({y: 1 - m, **dict.fromkeys(others, -m)}, at_x.lower, t)
    weights = [arb(share) for share in _shares(terms, float(reach.mid())).tolist()]
    shares = [w / sum(weights, arb(0)) for w in weights]
    mean = sum((q * (b - q.log()) for q, b in zip(shares, terms, strict=True)), arb(0))
    moved = reach * (1 + sum((q * q for q in shares), arb(0))).sqrt()
    return bool((1 + m).log() + t * arb(float(at_x.upper[rival])) + moved < mean)


def _terms(weights: dict[int, arb], at_x: Array, temperature: arb) -> list[arb]:
    """The logarithms of w_j exp(T d_j(x)), of those with w_j > 0."""
    return [w.log() + temperature * arb(float(at_x[j])) for j, w in weights.items() if not w.is_zero()]


def _shares(terms: list[arb], reach: float) -> Array:
    """Where sum_l q_l (b_l - log q_l) - s sqrt(1 + |q|^2) is largest, about: a damped fixed point. It only proposes."""
    b, logs = np.array([float(v.mid()) for v in terms]), np.zeros(len(terms))
    with np.errstate(all="ignore"):
        for _ in range(HALVINGS):
            q = np.exp(logs - logs.max())
            q = q / q.sum()
            logs = (logs + b - reach * q / np.sqrt(1 + q @ q)) / 2
        return np.maximum(np.exp(logs - logs.max()), LEAST)


def log_sum(terms: list[arb], reach: arb) -> arb:
    """A ball whose upper end is a bound. terms: a_j; reach: s.

    The best c is s / (2 sqrt(1 + |p|^2)) at the shares p that the largest value has: looked for from |p| = 1.
    """
    a, best, square = np.array([float(v.mid()) for v in terms]), arb("inf"), 1.0
    for _ in range(3):
        c = max(float(reach.mid()) / (2 * math.sqrt(1 + square)), LEAST)
        v, touching, square = _level(a, c)
        best = best.min(_bound(terms, reach, c, v, touching))
    return best


def _bound(terms: list[arb], reach: arb, bend: float, level: float, touching: Array) -> arb:
    """q is concave up to 1 / (2 c), where its tangents bound it, and convex beyond, where its ends do.

    The tangent at p is p - c p^2 at 0 and rises by a_j - v - log p - 1 + 2 c p up to 1; q(1) = a_j - v + c.
    """
    c, v = arb(bend), arb(level)
    total = reach * reach / (4 * c) + c + v
    for a, point in zip(terms, touching.tolist(), strict=True):
        p = arb(point).min(1 / (2 * c))
        rise = a - v - p.log() - 1 + 2 * c * p
        total += (p - c * p * p + rise.max(arb(0))).max(a - v + c)
    return total


def _level(a: Array, c: float) -> tuple[float, Array, float]:
    """v, at which the shares where the q are largest add up to 1; where their tangents touch; the sum of their squares.
    Floats, which only propose."""
    low, high = float(a.max()) - 1, float(a.max()) + 2 * c + math.log(len(a)) + 1
    for _ in range(HALVINGS):
        v = (low + high) / 2
        shares = _largest(a - v, c)[1]
        low, high = (v, high) if shares.sum() > 1 else (low, v)
    touching, shares = _largest(a - high, c)
    return high, touching, min(float(shares @ shares), 1.0)


def _largest(b: Array, c: float) -> tuple[Array, Array]:
    """Where q's slope b - log p - 1 + 2 c p vanishes first, by Newton's method on log p from below; where q is
    largest."""
    with np.errstate(all="ignore"):
        most = -math.log(2 * c)
        logs = np.minimum(b - 1, most)
        for _ in range(STEPS):
            bend = 2 * c * np.exp(logs)
            logs = np.fmin(logs + (b - 1 - logs + bend) / (1 - bend), most)
        touching = np.maximum(np.exp(logs), LEAST)
        return touching, np.where(touching - c * touching * touching < b + c, 1.0, touching)

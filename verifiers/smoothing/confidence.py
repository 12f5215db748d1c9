"""Confidence bounds of proportions and of bounded means, from counts. One-sided: the truth is at least `lower`
except with probability `share`.

All lower bounds are rounded down to nine decimals: short in a certificate, and clear of the last digits of scipy,
so that the judge's exact arithmetic agrees. An upper bound of a quantity is 1 − the lower bound of 1 − it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

Array = NDArray[np.float64]
DECIMALS = 1e9
BETS = 4  # against one null: what draws are like is known from a sample only
SAFETY = 1e-9  # relative; float error of betaincinv and of the capital is far below


def _floored(lower: ArrayLike) -> Array:
    """`lower`, in [0, 1], reduced by SAFETY and rounded down to nine decimals."""
    value = np.floor(np.asarray(lower, dtype=np.float64) * (1 - SAFETY) * DECIMALS) / DECIMALS
    return np.maximum(value, 0.0)


def clopper_pearson_lower(counts: ArrayLike, draws: int, share: float) -> Array:
    """Lower bounds p of probabilities: P[Bin(draws, p) >= count] <= share. counts: (k,) in [0, draws]."""
    counts = np.asarray(counts, dtype=np.float64)
    positive = np.maximum(counts, 1.0)
    return np.where(counts > 0, _floored(betaincinv(positive, draws - positive + 1, share)), 0.0)


def bernstein_lower(values: ArrayLike, cells: ArrayLike, share: float) -> float:
    """Empirical Bernstein: mean − sqrt(2 V log(2/share)/n) − 7 log(2/share)/(3(n − 1)), V the sample variance.

    values: (k,) in [0, 1]; cells: (k,) how many draws took each. Source: Maurer & Pontil 2009, Theorem 4.
    """
    x, weight = np.asarray(values, dtype=np.float64), np.asarray(cells, dtype=np.float64)
    n = float(weight.sum())
    if n < 2:
        return 0.0
    mean = float(weight @ x) / n
    variance = float(weight @ (x - mean) ** 2) / (n - 1)
    log = math.log(2 / share)
    return float(_floored(max(0.0, mean - math.sqrt(2 * variance * log / n) - 7 * log / (3 * (n - 1)))))


def log_capital(values: ArrayLike, cells: ArrayLike, bets: Sequence[float], null: float) -> float:
    """log of the mean over λ in `bets` of Π (1 + λ(value − null)); requires λ null < 1."""
    x, weight = np.asarray(values, dtype=np.float64), np.asarray(cells, dtype=np.float64)
    logs = [float(weight @ np.log1p(bet * (x - null))) for bet in bets]
    top = max(logs)
    return top + math.log(sum(math.exp(v - top) for v in logs) / len(bets))


def betting_lower(values: ArrayLike, cells: ArrayLike, bets: Sequence[float], share: float) -> float:
    """The largest m whose null hypothesis "mean <= m" the capital refutes: capital(m) >= 1/share. 0 if none.

    Requires: `bets` > 0 chosen before these draws. If the mean is <= m every factor 1 + λ(value − m) has mean
    <= 1, so the capital exceeds 1/share with probability <= share (Markov). Order of draws and stopping do not
    matter. Source: Waudby-Smith & Ramdas 2024, with constant stakes.
    """
    goal = math.log(1 / share)
    low, high = 0.0, min(1.0, 1 / max(bets)) * (1 - 1e-12)
    if log_capital(values, cells, bets, low) < goal:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if log_capital(values, cells, bets, middle) >= goal else (low, middle)
    return float(_floored(low))


def choose_bets(sample: ArrayLike, draws: int, share: float) -> tuple[float, ...]:
    """Three stakes around the best constant one, sqrt(2 log(1/share) / (draws variance)), for values like `sample`.

    sample: (n,) values in [0, 1] of *other* draws. None risks ruin at nulls below the sample's mean.
    """
    x = np.asarray(sample, dtype=np.float64)
    mean, variance = float(x.mean()), float(x.var()) + 1 / (4 * len(x) ** 2)
    best = math.sqrt(2 * math.log(1 / share) / (draws * variance))
    most = 0.95 / max(mean, 0.05)
    stakes = {float(f"{min(best * factor, most):.4g}") for factor in (0.6, 1.0, 1.7)}
    return tuple(sorted(stakes))


def bets_against(sample: ArrayLike, null: float, draws: int, share: float) -> tuple[tuple[float, ...], float]:
    """Stakes that refute "mean <= null" soon where draws are like `sample`; expected growth of the log capital per draw
    of the best, <= 0 where the sample is no evidence against it: stakes are then those of `choose_bets`.

    sample: (n,) values in [0, 1] of *other* draws; one of 0 is added, for what the sample may not have shown.
    """
    x = np.append(np.asarray(sample, dtype=np.float64), 0.0)
    most = 0.95 / null
    stakes = np.geomspace(1e-3 * most, most, 120)
    growth = np.log1p(stakes[:, None] * (x - null)).mean(axis=1)
    best = int(growth.argmax())
    if growth[best] <= 0:
        return choose_bets(sample, draws, share), float(growth[best])
    least = math.sqrt(2 * math.log(1 / share) / (draws * float(x.var())))  # best for what all draws can just prove
    chosen = np.geomspace(min(least, stakes[best]), stakes[best], BETS)
    return tuple(sorted({float(f"{stake:.4g}") for stake in chosen})), float(growth[best])


def split(total: float, parts: int) -> float:
    """total / parts, rounded so that `parts` copies add up to at most `total` exactly."""
    return total / parts * (1 - 2**-40)


def samples_needed(alpha: float, share: float) -> int:
    """The fewest draws with which votes without exception certify a positive radius of the mix with every g:
    share^(1/n) > 1/(2 alpha). Requires alpha > 1/2."""
    if alpha >= 1:
        return math.floor(math.log(1 / share) / math.log(2)) + 1
    return math.floor(math.log(1 / share) / math.log(2 * alpha)) + 1

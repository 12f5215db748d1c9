"""Randomised smoothing in floats: Theorems 3.5 and 3.7, and the stronger bounds (5a), (5b) (docs/maths.md 5, 6).

h is the mean of h̄(x + ξ), ξ ~ N(0, σ²I), h̄ in [0, 1]^K. Radii are L2, in the units of the raw input; `shift` is
radius / σ. Every function takes bounds of the truth (lower of h_y, upper of the rivals, lower of tails) and
broadcasts. A radius <= 0 means that nothing is certified. Nothing here is rounded safely: the judge decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
Constant = Literal["paper", "tight"]

# ℓ2 Lipschitz constant of a smoothed [0, 1]-valued function, times σ: the paper's, and half of it, which is attained
GAUSSIAN_LIPSCHITZ: dict[Constant, float] = {"paper": math.sqrt(2 / math.pi), "tight": 1 / math.sqrt(2 * math.pi)}
LARGEST_SHIFT = 40.0  # Φ⁻¹ of every double in (0, 1) lies well inside (−40, 40)


def required_margin(alpha: float) -> float:
    """(1 − α)/α, the margin Lemma 3.2 asks of h; infinite at α = 0."""
    return (1 - alpha) / alpha if alpha > 0 else math.inf


def sunk(p: ArrayLike, shift: ArrayLike) -> Array:
    """ψ(p) = Φ(Φ⁻¹(p) − shift): the least F(x + δ) over ‖δ‖ <= shift σ of a smoothed F with F(x) >= p."""
    return ndtr(ndtri(np.asarray(p, dtype=np.float64)) - shift)


def theorem_3_5_radius(
    h_y: ArrayLike, h_rival: ArrayLike, alpha: float, noise_std: float, constant: Constant = "tight"
) -> Array:
    """[α(h_y − h_i) + α − 1] / (2αL), L = constant / σ. Source: Theorem 3.5 with a Gaussian smoothing's constant."""
    lipschitz = GAUSSIAN_LIPSCHITZ[constant] / noise_std
    gap = np.asarray(h_y, dtype=np.float64) - np.asarray(h_rival, dtype=np.float64)
    return (alpha * gap + alpha - 1) / (2 * alpha * lipschitz)


def theorem_3_7_radius(h_y: ArrayLike, h_rival: ArrayLike, alpha: float, noise_std: float) -> Array:
    """(σ/2) [Φ⁻¹(α h_y) − Φ⁻¹(α h_y' + 1 − α)]. Source: Theorem 3.7. Never above σΦ⁻¹(α)."""
    lower = ndtri(alpha * np.asarray(h_y, dtype=np.float64))
    upper = ndtri(alpha * np.asarray(h_rival, dtype=np.float64) + (1 - alpha))
    return noise_std / 2 * (lower - upper)


def direct_margin(h_y: ArrayLike, complement: ArrayLike, shift: ArrayLike) -> Array:
    """(5a): a lower bound of h_y − h_i on the ball, ψ(h_y) + ψ(1 − h_i) − 1.

    complement: lower bound of 1 − h_i. Attained by two opposite half-spaces when h_y + h_i <= 1.
    """
    return sunk(h_y, shift) + sunk(complement, shift) - 1


def direct_radius(h_y: float, complement: float, required: float, noise_std: float) -> float:
    """(5a): the radius at which direct_margin falls to `required`. Source: docs/maths.md 5a. -inf if none does."""
    return noise_std * largest_shift(lambda s: float(direct_margin(h_y, complement, s)), required)


def direct_price(alpha: float, noise_std: float) -> float:
    """σ Φ⁻¹(1/(2α)): what mixing costs. Where every rival is bounded by 1 − h_y, (5a) in closed form is Cohen's radius
    σ Φ⁻¹(h_y) less this price. inf for α <= 1/2, where no margin suffices. Source: docs/maths.md 5a."""
    return noise_std * float(ndtri(1 / (2 * alpha))) if alpha > 0.5 else math.inf


def distributional_margin(
    thresholds: Sequence[Sequence[float] | Array], tails: Sequence[Array]
) -> Callable[[float], float]:
    """(5b): by shift, a lower bound of E φ(x + δ + ξ) on the ball, −1 + Σ (s_k − s_{k−1}) ψ(T_k), s_0 = −1.

    One group of rivals each, the result is the least of theirs. thresholds: (k,) increasing in (−1, 1]. tails: (k,)
    lower bounds of T_k = P[φ(x + ξ) >= s_k]. Source: docs/maths.md 5b, after Kumar et al. 2020; Neyman–Pearson for
    each threshold.
    """
    steps = np.concatenate([np.diff(s, prepend=-1.0) for s in thresholds])
    quantiles = ndtri(np.concatenate(tails))
    starts = np.cumsum([0, *(len(s) for s in thresholds[:-1])])
    return lambda shift: float(np.add.reduceat(steps * ndtr(quantiles - shift), starts).min()) - 1


def largest_shift(margin: Callable[[float], float], required: float) -> float:
    """The largest s with margin(s) > required, to about 1e-12 from below, for a decreasing margin; -inf if none."""
    low, high = -LARGEST_SHIFT, LARGEST_SHIFT
    if not margin(low) > required:
        return -math.inf
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if margin(middle) > required else (low, middle)
    return low

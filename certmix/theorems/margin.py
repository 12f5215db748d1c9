"""Lemma 3.2 and what docs/maths.md 6 and 7 add to it: which margins of h (and g) certify the mix, from which alpha on.

Floats that propose: the judge derives the same facts with every rounding counted (proofs_check/rules/margin/rule.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def required_margin(alpha: float) -> float:
    """(1 - alpha) / alpha, the margin h must exceed. Requires: 0 < alpha <= 1. Source: Lemma 3.2."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1] for a required margin to exist, got {alpha}")
    return (1 - alpha) / alpha


def critical_alpha(margin: float) -> float:
    """1 / (1 + margin): every alpha in (this, 1] is certified by `margin`. Requires: margin > -1."""
    if not margin > -1:
        raise ValueError(f"margin must be > -1, got {margin}")
    return 1 / (1 + margin)


def certifies(margin_down: Tensor, alpha: float) -> Tensor:
    """Whether a lower bound of the margin certifies the mix.

    Requires: margin_down <= min_i (h_y - h_i) on the ball, y the strict argmax of h(x).
    Ensures: where True, argmax h^alpha = y on the ball, for every g. Strict: the required margin is rounded up.
    Source: Lemma 3.2; alpha <= 1/2 requires a margin of at least 1, never strictly exceeded.
    """
    if alpha <= 0.5:
        return torch.zeros_like(margin_down, dtype=torch.bool)
    return margin_down > math.nextafter(math.nextafter(required_margin(alpha), 2.0), 2.0)


def pair_slack(standard_margin: Tensor, robust_margin: Tensor, alpha: float) -> Tensor:
    """Lower bound of (h^alpha)_y - (h^alpha)_i per rival: the better of Lemma 3.2 and of both margins together.

    Requires: both are lower bounds on the same ball, of g_y - g_i and h_y - h_i, of one shape.
    Ensures: where > 0 for every i, the mix's class is y on the ball; any alpha in [0, 1]. Source: docs/maths.md 6.
    """
    of_both = (1 - alpha) * standard_margin + alpha * robust_margin
    return torch.maximum(of_both, alpha * robust_margin - (1 - alpha))

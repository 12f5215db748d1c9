"""Lemma 3.2 and what MATH.md 6 and 7 add to it: which margins of h (and g) certify the mix, and from which alpha on.

Floats that propose: the judge derives the same facts with every rounding counted (proofs_check/rules/margin.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    Ensures: where > 0 for every i, the mix's class is y on the ball; any alpha in [0, 1]. Source: MATH.md 6.
    """
    together = (1 - alpha) * standard_margin + alpha * robust_margin
    return torch.maximum(together, alpha * robust_margin - (1 - alpha))


def sufficient_temperature(alpha: float, classes: int, largest_difference: float) -> float:
    """A temperature from which on d_j <= U < 0 for every j certifies at alpha. Source: MATH.md 7.

    Requires: 1/2 < alpha <= 1, U = largest_difference < 0. Ensures: certified at every T above the result.
    """
    if not 0.5 < alpha <= 1:
        raise ValueError(f"alpha must be in (1/2, 1], got {alpha}")
    if not largest_difference < 0:
        raise ValueError(f"the largest logit difference must be < 0, got {largest_difference}")
    return math.log((alpha + (classes - 1) * (1 - alpha)) / (2 * alpha - 1)) / -largest_difference


@dataclass(frozen=True)
class MarginCurve:
    """Lower bounds of one input's margin at several radii: points (radius, margin), radii strictly increasing.

    Requires: margins[k] <= min over the ball of radii[k] of the margin. A bound on a larger ball holds on a smaller
    one, so the best bound at r is the largest at any radius >= r. Source: MATH.md 7.
    """

    radii: tuple[float, ...]
    margins: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.radii) != len(self.margins):
            raise ValueError(f"one margin per radius, got {len(self.margins)} for {len(self.radii)}")
        if any(a >= b for a, b in zip(self.radii, self.radii[1:], strict=False)) or any(r < 0 for r in self.radii):
            raise ValueError(f"radii must be >= 0 and strictly increasing, got {self.radii}")

    @classmethod
    def of(cls, points: dict[float, float]) -> MarginCurve:
        """The curve through {radius: margin}."""
        radii = tuple(sorted(points))
        return cls(radii, tuple(points[r] for r in radii))

    def margin(self, radius: float) -> float:
        """The best bound known on the ball of this radius; -1, true of any margin, beyond the last point."""
        return max((m for r, m in zip(self.radii, self.margins, strict=True) if r >= radius), default=-1.0)

    def radius(self, alpha: float) -> float | None:
        """The largest visited radius whose margin certifies at alpha; None if no visited one does."""
        good = certifies(torch.tensor(self.margins, dtype=torch.float64), alpha).tolist()
        return max((r for r, g in zip(self.radii, good, strict=True) if g), default=None)

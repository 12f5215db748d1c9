"""`sigmoid` and `tanh`: increasing curves, convex below 0 and concave above.

Relaxation: chords where the curve bends the other way, tangents where it bends away. Source: Zhang et al. 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.layer import Interval, NodeT
from verifiers.layers.nonlinear import Elementwise
from verifiers.linear_forms.relaxation import LinearRelaxation

BISECTION_STEPS = 40  # of the interval in which a tangent touches


@dataclass(frozen=True, eq=False)
class Curve(Elementwise[NodeT]):
    """An increasing function that torch computes to a few units."""

    def rounding(self, x: Tensor) -> Tensor:
        return 2.0**-48 * self.value(x).abs() + 2.0**-900


@dataclass(frozen=True, eq=False)
class Tanh(Curve[c.Tanh]):
    """tanh(x)."""

    def value(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(inputs[0])

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Activation(at, "tanh"), self.shape)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> LinearRelaxation:
        return tanh_relaxation(lower, upper)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        near, far = _distances_from_zero(lower, upper)
        # 1 - tanh² = 4 s (1 - s) at twice the argument: no cancellation
        return _bell(2 * far, -1) * 4, (_bell(2 * near, 1) * 4).clamp(max=1.0)


@dataclass(frozen=True, eq=False)
class Sigmoid(Curve[c.Sigmoid]):
    """1 / (1 + exp(-x))."""

    steepest: ClassVar[float] = 0.25

    def value(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs[0])

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Activation(at, "sigmoid"), self.shape)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> LinearRelaxation:
        return sigmoid_relaxation(lower, upper)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        near, far = _distances_from_zero(lower, upper)
        return _bell(far, -1), _bell(near, 1).clamp(max=0.25)


def _distances_from_zero(lower: Tensor, upper: Tensor) -> Interval:
    """(least, most) of |x| on [lower, upper]."""
    far = torch.maximum(lower.abs(), upper.abs())
    return torch.where((lower <= 0) & (upper >= 0), 0.0, torch.minimum(lower.abs(), upper.abs())), far


def _bell(x: Tensor, direction: int) -> Tensor:
    """Derivative of the sigmoid, rounded in `direction`; decreasing in |x|."""
    return torch.sigmoid(x) * torch.sigmoid(-x) * (1 + direction * 2.0**-46) + max(direction, 0) * 2.0**-1000


def tanh_relaxation(lower: Tensor, upper: Tensor) -> LinearRelaxation:
    """Of tanh; below by its symmetry."""
    slope, intercept = _above_tanh(lower, upper)
    down_slope, down = _above_tanh(-upper, -lower)
    return LinearRelaxation(slope, intercept, down_slope, -down)


def sigmoid_relaxation(lower: Tensor, upper: Tensor) -> LinearRelaxation:
    """Of the sigmoid: 1/2 + tanh(x / 2) / 2."""
    relaxation = tanh_relaxation(lower / 2, upper / 2)
    below = None if relaxation.lower_intercept is None else (1 + relaxation.lower_intercept) / 2
    return LinearRelaxation(
        relaxation.upper_slope / 4, (1 + relaxation.upper_intercept) / 2, relaxation.lower_slope / 4, below
    )


def _above_tanh(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(slope, intercept) of a line above tanh on [lower, upper].

    The chord, where tanh is steeper at the upper end; else the tangent at the middle of the interval or, where that
    holds 0, the one that passes through the curve at the lower end. A tangent at t >= 0 that is above the curve at
    `lower` is so on the whole interval: to the right of 0 tanh is concave, to the left of it convex.
    """
    ends = torch.tanh(lower), torch.tanh(upper)
    width = upper - lower
    narrow = torch.finfo(lower.dtype).eps ** 0.5  # too narrow for a difference quotient
    flat = width < narrow * (1 + lower.abs())
    steepest = torch.where(lower.sign() * upper.sign() < 0, 1.0, 1 - torch.minimum(ends[0].abs(), ends[1].abs()) ** 2)
    chord = torch.where(flat, steepest, (ends[1] - ends[0]) / torch.where(flat, 1.0, width))
    point = _tangent_point(lower, upper)
    height = torch.tanh(point)
    tangent = 1 - height**2
    bent = (upper > 0) & (chord > 1 - ends[1] ** 2) & ~flat
    slope = torch.where(bent, tangent, chord)
    by_ends = torch.maximum(ends[0] - slope * lower, ends[1] - slope * upper)
    return slope, torch.where(bent, torch.maximum(height - tangent * point, by_ends), by_ends)


@torch.no_grad()
def _tangent_point(lower: Tensor, upper: Tensor) -> Tensor:
    """The middle, or where the interval holds 0 the point whose tangent passes through the curve at the lower end, not
    left of it. Meaningful where upper > 0."""
    start = torch.tanh(lower)
    left, right = torch.zeros_like(upper), upper.clamp(min=0)
    for _ in range(BISECTION_STEPS):
        middle = (left + right) / 2
        height = torch.tanh(middle)
        above = height - (1 - height**2) * (middle - lower) >= start
        right = torch.where(above, middle, right)
        left = torch.where(above, left, middle)
    return torch.where(lower < 0, right, (lower + upper) / 2)

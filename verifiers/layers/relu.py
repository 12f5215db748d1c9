"""`relu` and `leaky_relu`: what is negative becomes 0, or is multiplied by a slope.

Relaxation: the chord above, below any line through the origin whose slope lies between the two slopes. Source: Zhang
et al. 2018.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.layer import Interval, NodeT
from verifiers.layers.nonlinear import Elementwise
from verifiers.linear_forms.relaxation import LinearRelaxation


@dataclass(frozen=True, eq=False)
class ReluLike(Elementwise[NodeT]):
    """max(x, leak x), 0 <= leak <= 1: linear where the sign of x is known."""

    @property
    @abc.abstractmethod
    def leak(self) -> float:
        """The slope of what is negative."""

    @property
    def slope_range(self) -> tuple[float, float]:
        return self.leak, 1.0

    def default_slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        """1 where the upper end is the larger, else 0: the smaller triangle."""
        return (upper > -lower).to(lower.dtype)

    def neurons(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The unstable ones."""
        return (lower < 0) & (upper > 0)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> LinearRelaxation:
        return relu_relaxation(lower, upper, self.default_slopes(lower, upper) if slopes is None else slopes, self.leak)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        least = torch.where(lower > 0, 1.0, torch.full_like(lower, self.leak))
        return least, torch.where(upper < 0, self.leak, torch.ones_like(lower))


@dataclass(frozen=True, eq=False)
class Relu(ReluLike[c.Relu]):
    """max(x, 0)."""

    @property
    def leak(self) -> float:
        return 0.0

    def value(self, *inputs: Tensor) -> Tensor:
        return F.relu(inputs[0])

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Activation(at, F.relu, "BoundRelu"), self.shape)

    def rounding(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class LeakyRelu(ReluLike[c.LeakyRelu]):
    """x if x >= 0 else slope * x."""

    @property
    def leak(self) -> float:
        return self.node.slope

    def value(self, *inputs: Tensor) -> Tensor:
        return F.leaky_relu(inputs[0], self.node.slope)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        leaky = functools.partial(F.leaky_relu, negative_slope=self.node.slope)
        return builder.push(low.Activation(at, leaky, "BoundLeakyRelu"), self.shape)

    def rounding(self, x: Tensor) -> Tensor:
        """The product with the slope is rounded."""
        return torch.where(x >= 0, 0.0, 2.0**-50 * x.abs())


def relu_relaxation(lower: Tensor, upper: Tensor, slopes: Tensor, leak: float) -> LinearRelaxation:
    """Of max(y, leak y): the chord above, below a line of slope in [leak, 1]; exact where the sign is known."""
    active, stable = lower >= 0, (lower >= 0) | (upper <= 0)
    width = torch.where(stable, torch.ones_like(lower), upper - lower)
    exact = torch.where(active, torch.ones_like(lower), torch.full_like(lower, leak))
    above = torch.where(stable, exact, (upper - leak * lower) / width)
    intercept = torch.where(stable, torch.zeros_like(lower), (leak - 1) * lower * upper / width)
    return LinearRelaxation(above, intercept, torch.where(stable, exact, slopes.clamp(leak, 1) if leak else slopes))


KINDS: dict[type[c.Node], type[Elementwise[Any]]] = {c.Relu: Relu, c.LeakyRelu: LeakyRelu}

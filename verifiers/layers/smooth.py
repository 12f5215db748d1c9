"""`sigmoid`, `tanh`, `erf`, `softplus`, `exp`, `square`, `cube`, `gelu` and `swish`: curves with one formula.

Where they bend which way is proven in proofs_check/kernel/layers/smooth.py.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.curve import Curve


@dataclass(frozen=True, eq=False)
class Sigmoid(Curve[c.Sigmoid]):
    """1 / (1 + exp(-x))."""

    bends, limits = (1, -1), (0.0, 0.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return torch.sigmoid(x)

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.sigmoid(x) * torch.sigmoid(-x)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Activation(at, torch.sigmoid, "BoundSigmoid"), self.shape)


@dataclass(frozen=True, eq=False)
class Tanh(Curve[c.Tanh]):
    """tanh(x)."""

    bends, limits = (1, -1), (0.0, 0.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return torch.tanh(x)

    def slope(self, x: Tensor, piece: int) -> Tensor:
        """1 - tanh^2, without cancellation."""
        return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        return builder.push(low.Activation(at, torch.tanh, "BoundTanh"), self.shape)


@dataclass(frozen=True, eq=False)
class Softplus(Curve[c.Softplus]):
    """log(1 + exp(x))."""

    bends, limits = (1,), (0.0, 1.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return ()

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.sigmoid(x)


@dataclass(frozen=True, eq=False)
class Exp(Curve[c.Exp]):
    """exp(x)."""

    bends, limits = (1,), (0.0, math.inf)

    @property
    def borders(self) -> tuple[float, ...]:
        return ()

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return torch.exp(x)

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.exp(x)


@dataclass(frozen=True, eq=False)
class Square(Curve[c.Square]):
    """x * x."""

    bends, limits = (1,), (-math.inf, math.inf)

    @property
    def borders(self) -> tuple[float, ...]:
        return ()

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x * x

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return 2 * x


@dataclass(frozen=True, eq=False)
class Cube(Curve[c.Cube]):
    """x * x * x."""

    bends, limits = (-1, 1), (math.inf, math.inf)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x * x * x

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return 3 * x * x


@dataclass(frozen=True, eq=False)
class Erf(Curve[c.Erf]):
    """erf(x)."""

    bends, limits = (1, -1), (0.0, 0.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return torch.erf(x)

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.exp(-x * x) * (2 / math.sqrt(math.pi))


@dataclass(frozen=True, eq=False)
class Gelu(Curve[c.Gelu]):
    """x (1 + erf(x / divisor)) / 2."""

    bends, limits = (-1, 1, -1), (0.0, 1.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return -self.node.divisor, self.node.divisor

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x * torch.erfc(-x / self.node.divisor) / 2

    def slope(self, x: Tensor, piece: int) -> Tensor:
        v = x / self.node.divisor
        return torch.erfc(-v) / 2 + v * torch.exp(-v * v) / math.sqrt(math.pi)

    def rounding(self, x: Tensor) -> Tensor:
        return Curve.rounding(self, x) * (1 + (x / self.node.divisor).square())


@dataclass(frozen=True, eq=False)
class Swish(Curve[c.Swish]):
    """x / (1 + exp(-(linear x + cubic x^3)))."""

    bends, limits = (-1, 1, -1), (0.0, 1.0)

    @functools.cached_property
    def _border(self) -> float:
        """Where the bend changes, by bisection."""
        start, stop = 0.0, 1.0
        while self._bend(stop) > 0:
            stop *= 2
        for _ in range(60):
            middle = (start + stop) / 2
            start, stop = (middle, stop) if self._bend(middle) > 0 else (start, middle)
        return start

    def _bend(self, x: float) -> float:
        """Positive where the curve is convex, for x > 0."""
        grown, gate = 3 * self.node.cubic * x * x, x * (self.node.linear + self.node.cubic * x * x)
        return (2 * self.node.linear + 4 * grown) / (self.node.linear + grown) ** 2 - x * math.tanh(gate / 2)

    @property
    def borders(self) -> tuple[float, ...]:
        return -self._border, self._border

    def _gate(self, x: Tensor) -> Tensor:
        return x * (self.node.linear + self.node.cubic * x * x)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x * torch.sigmoid(self._gate(x))

    def slope(self, x: Tensor, piece: int) -> Tensor:
        u, growth = self._gate(x), self.node.linear + 3 * self.node.cubic * x * x
        return torch.sigmoid(u) * (1 + x * growth * torch.sigmoid(-u))

    def rounding(self, x: Tensor) -> Tensor:
        return Curve.rounding(self, x) * (1 + self._gate(x).abs())


KINDS: dict[type[c.Node], type[Curve[Any]]] = {
    c.Sigmoid: Sigmoid,
    c.Tanh: Tanh,
    c.Softplus: Softplus,
    c.Exp: Exp,
    c.Square: Square,
    c.Cube: Cube,
    c.Erf: Erf,
    c.Gelu: Gelu,
    c.Swish: Swish,
}

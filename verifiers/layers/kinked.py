"""`abs`, `elu` and `hard_swish`: curves with a formula for every piece, all of them convex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.curve import Curve


@dataclass(frozen=True, eq=False)
class Abs(Curve[c.Abs]):
    """|x|."""

    piecewise_linear = True
    bends, kinked, limits = (1, 1), True, (-1.0, 1.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x if piece else -x

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.full_like(x, 1.0 if piece else -1.0)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        """2 relu(x) - x."""
        relu = builder.push(low.Activation(at, F.relu, "BoundRelu"), self.shape)
        factors = (torch.full((1,) * len(self.shape), s, dtype=torch.float64) for s in (2.0, -1.0))
        parts = [
            builder.affine(low.diagonal(source, self.shape, factor, 0 * factor), False, self.shape)
            for source, factor in zip(((relu,), at), factors, strict=True)
        ]
        return builder.push(low.Sum((parts[0], parts[1])), self.shape)


@dataclass(frozen=True, eq=False)
class Elu(Curve[c.Elu]):
    """alpha (exp(x) - 1) below 0, then x."""

    bends, kinked, limits = (1, 1), True, (0.0, 1.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return (0.0,)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x if piece else self.node.alpha * torch.expm1(x.clamp(max=0))

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return torch.ones_like(x) if piece else self.node.alpha * torch.exp(x.clamp(max=0))


@dataclass(frozen=True, eq=False)
class HardSwish(Curve[c.HardSwish]):
    """x min(max(x + 3, 0), 6) / 6."""

    bends, kinked, limits = (1, 1, 1), True, (0.0, 1.0)

    @property
    def borders(self) -> tuple[float, ...]:
        return -3.0, 3.0

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return (0 * x, x * (x + 3) / 6, x)[piece]

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return (torch.zeros_like(x), (2 * x + 3) / 6, torch.ones_like(x))[piece]


KINDS: dict[type[c.Node], type[Curve[Any]]] = {c.Abs: Abs, c.HardSwish: HardSwish, c.Elu: Elu}

"""`inverse_power` and `square_root`: curves of numbers from 0 on, with one formula.

Which way they bend is proven in proofs_check/kernel/layers/powers.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers.curve import Curve
from verifiers.layers.layer import Interval, NodeT
from verifiers.linear_forms.relaxation import LinearRelaxation

LEAST = 1e-12  # what may be less counts as this for bounds; the judge proves nothing where 0 may be met


@dataclass(frozen=True, eq=False)
class Above(Curve[NodeT]):
    """Of numbers from 0 on."""

    partial = True

    @property
    def borders(self) -> tuple[float, ...]:
        return ()

    def interval(self, *inputs: Interval) -> Interval:
        ((lower, upper),) = inputs
        return Curve.interval(self, (lower.clamp(min=LEAST), upper.clamp(min=LEAST)))

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> LinearRelaxation:
        return Curve.relaxation(self, lower.clamp(min=LEAST), upper.clamp(min=LEAST), slopes)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        if not bool(torch.isfinite(lower + upper).all()):
            self.refuse("range of derivatives on the whole space", "bound them on a ball")
        return Curve.derivative_range(self, lower.clamp(min=LEAST), upper.clamp(min=LEAST))


@dataclass(frozen=True, eq=False)
class InversePower(Above[c.InversePower]):
    """1 / x^exponent, of x > 0."""

    bends, limits = (1,), (-math.inf, 0.0)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x**-self.node.exponent

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return -self.node.exponent * x**-self.node.exponent / x

    def rounding(self, x: Tensor) -> Tensor:
        return Curve.rounding(self, x) * (1 + self.node.exponent)


@dataclass(frozen=True, eq=False)
class SquareRoot(Above[c.SquareRoot]):
    """sqrt(x), of x >= 0."""

    bends, limits = (-1,), (math.inf, 0.0)

    def formula(self, x: Tensor, piece: int) -> Tensor:
        return x**0.5

    def slope(self, x: Tensor, piece: int) -> Tensor:
        return 0.5 / x**0.5


KINDS: dict[type[c.Node], type[Curve[Any]]] = {c.InversePower: InversePower, c.SquareRoot: SquareRoot}

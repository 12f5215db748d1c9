"""What affine layer kinds answer alike: they have adjoints, and need no relaxation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from verifiers.layers.layer import Interval, Layer, NodeT
from verifiers.linear_forms.forms import LinearForms
from verifiers.linear_forms.relaxation import Relaxation

WAY_OUT = "it is affine, ask for its adjoint"


@dataclass(frozen=True, eq=False)
class Affine(Layer[NodeT]):
    """An affine function of its inputs."""

    affine: ClassVar[bool] = True

    def offset(self, forms: LinearForms) -> Tensor | None:
        return None

    def gain(self) -> Tensor | None:
        return None

    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        return None

    @property
    def slope_range(self) -> None:
        return None

    def default_slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        self.refuse("slopes", WAY_OUT)

    def neurons(self, lower: Tensor, upper: Tensor) -> Tensor:
        """None: the value is exactly as tight as its inputs."""
        return torch.zeros_like(lower, dtype=torch.bool)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> Relaxation:
        self.refuse("relaxation", WAY_OUT)

    def forms_below(self, forms: LinearForms) -> LinearForms:
        self.refuse("relaxation", WAY_OUT)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        self.refuse("range of derivatives", WAY_OUT)


@dataclass(frozen=True, eq=False)
class Monotone(Affine[NodeT]):
    """An affine function whose weights are not negative: what only moves, adds or averages."""

    def interval(self, *inputs: Interval) -> Interval:
        return self.value(*(lower for lower, _ in inputs)), self.value(*(upper for _, upper in inputs))


def interval_by_centre(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor], weight: Tensor, bias: Tensor, values: Interval
) -> Interval:
    """Of apply(x, weight, bias), linear in weight and in x: its value at the centre, plus and minus its spread."""
    lower, upper = values
    middle, half_width = (upper + lower) / 2, (upper - lower) / 2
    value, width = apply(middle, weight, bias), apply(half_width, weight.abs(), None)
    return value - width, value + width

"""What nonlinear layer kinds answer alike: they have relaxations, and no adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from verifiers.layers.layer import Interval, Layer, NodeT
from verifiers.linear_forms.forms import LinearForms, Summand

WAY_OUT = "it is not affine, ask for a relaxation"


@dataclass(frozen=True, eq=False)
class Nonlinear(Layer[NodeT]):
    """A nondecreasing function of one input."""

    affine: ClassVar[bool] = False

    def interval(self, *inputs: Interval) -> Interval:
        ((lower, upper),) = inputs
        return self.value(lower), self.value(upper)

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        self.refuse("adjoint", WAY_OUT)

    def offset(self, forms: LinearForms) -> Tensor | None:
        self.refuse("offset", WAY_OUT)

    def gain(self) -> Tensor | None:
        return None

    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        return None

    @property
    def slope_range(self) -> tuple[float, float] | None:
        return None

    def default_slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        self.refuse("slopes", "lines below it follow from the interval alone")

    def neurons(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower < upper


@dataclass(frozen=True, eq=False)
class Elementwise(Nonlinear[NodeT]):
    """A function of each element by itself."""

    def forms_below(self, forms: LinearForms) -> LinearForms:
        return forms

"""What nonlinear layer kinds answer alike: they have relaxations, and no adjoint."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers.layer import Interval, Layer, NodeT
from verifiers.linear_forms.forms import LinearForms, Summand

WAY_OUT = "it is not affine, ask for a relaxation"


@dataclass(frozen=True, eq=False)
class Nonlinear(Layer[NodeT]):
    """A function of one input; nondecreasing, or with an `interval` of its own.

    Derivatives lie in memory as `derivative_range` says: one per tap, a pair of an input and a neuron that depends on
    it. taps: of each neuron.
    """

    affine: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def taps(self) -> int: ...

    @abc.abstractmethod
    def rounding(self, x: Tensor) -> Tensor:
        """How far the value at x, computed in float64, may be from the real one."""

    @abc.abstractmethod
    def at_taps(self, x: Tensor) -> Tensor:
        """The input at every tap, 0 where a window hangs over the border."""

    @abc.abstractmethod
    def from_taps(self, x: Tensor) -> Tensor:
        """The adjoint of `at_taps`: a number per tap, summed over the taps of each input, (N, *shapes[0])."""

    @abc.abstractmethod
    def over_taps(self, value: Tensor) -> Tensor:
        """(N, *shape), to be broadcast against derivatives: of every tap, that of its neuron."""

    @abc.abstractmethod
    def sum_of_taps(self, x: Tensor) -> Tensor:
        """A number per tap, summed over the taps of each neuron, (N, *shape)."""

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
    """A function of each element by itself: one tap. steepest: its largest derivative."""

    steepest: ClassVar[float] = 1.0

    @property
    def taps(self) -> int:
        return 1

    def at_taps(self, x: Tensor) -> Tensor:
        return x

    def from_taps(self, x: Tensor) -> Tensor:
        return x

    def over_taps(self, value: Tensor) -> Tensor:
        return value

    def sum_of_taps(self, x: Tensor) -> Tensor:
        return x

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0] * self.steepest

    def forms_below(self, forms: LinearForms) -> LinearForms:
        return forms

"""What the judge asks of every layer kind, and of every nonlinear one. `affine` has the questions to affine ones.

One class per kind, one method per question. A question that a kind has no answer to is a rejection with a reason, never
a default. To add a kind: a type in `certificate`, its class in a file here, a line in `KINDS`, a row in FORMAT.md 5.

Precondition: the node fits its inputs (`shape` accepted them). Postcondition and charge: in each question.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proofs_check.certificate import Norm, RejectedError
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import Array, float_up
from proofs_check.kernel.slopes import Slopes


class Layer(abc.ABC):
    """One node, prepared for inputs of these shapes, as images."""

    def __init__(self, node: Any, shapes: Sequence[Shape]) -> None:
        self.shapes = tuple(shapes)

    @staticmethod
    @abc.abstractmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        """Of the value, given its inputs'. Raises MalformedError where they, or the node's fields, do not fit."""

    @abc.abstractmethod
    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        """How far the value computed in float32 can be from the real one, for inputs of at most `sizes` that are
        `errors` off; any order of summation, flushed or not. Rejects what may overflow, and kinds not covered."""

    @abc.abstractmethod
    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        """A Lipschitz constant of the value as a function of the network's input, from those of the node's inputs."""


class Nonlinear(Layer):
    """A function of one input.

    both_ends: its relaxation gains from both bounds of a neuron, whatever their signs.
    """

    both_ends: bool = True

    def neurons(self, lower: Array, upper: Array) -> NDArray[np.bool_]:
        """Those whose bounds are worth a backward pass."""
        return lower < upper

    @abc.abstractmethod
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Bounds of the value."""

    @abc.abstractmethod
    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        """A line above and one below on [lower, upper]. witness: lower slopes, of use to kinds that take them."""

    def lower_slopes(self, lower: Array, upper: Array, witness: Array) -> Array:
        """Slopes of lines below from a witness's, whatever bounds the relaxation was made from."""
        raise RejectedError("witness", f"{type(self).__name__} takes no slopes")

    @abc.abstractmethod
    def slopes(self, lower: Array, upper: Array) -> Slopes:
        """Clarke's generalised derivative on the box."""

    @abc.abstractmethod
    def slopes_anywhere(self) -> Slopes:
        """The same on the whole space."""

    def derivative(self) -> tuple[float, float]:
        """(least, most) anywhere, of an elementwise kind."""
        raise RejectedError("jacobian", f"{type(self).__name__} has no multipliers")


class Elementwise(Nonlinear):
    """A nonlinear function of each cell by itself."""

    @staticmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        return inputs[0]

    @abc.abstractmethod
    def derivative_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """least <= derivative <= most wherever lower <= input <= upper."""

    def slopes(self, lower: Array, upper: Array) -> Slopes:
        return Slopes.within(*self.derivative_range(lower, upper), None, self.shapes[0])

    def slopes_anywhere(self) -> Slopes:
        least, most = (np.full(self.shapes[0], s) for s in self.derivative())
        return Slopes.within(least, most, None, self.shapes[0])

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        least, most = self.derivative()
        return float_up(before[0] * max(-least, most))

"""`inverse_power` and `square_root`: curves of numbers from 0 on, with one formula.

Precondition, postcondition and charge: `curve`. What proves the bends, the sign of the second derivative, is said of
each. Where an input may lie outside the domain nothing is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from proofs_check import certificate as c
from proofs_check.certificate import need, wellformed
from proofs_check.kernel.arithmetic import Arithmetic
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.rounding import Array


class Above(Curve):
    """Of numbers from 0 on, 0 itself included or not."""

    with_zero: bool = False

    def upper_intercept(self, sign: int, lower: Array, upper: Array, k: Array) -> Array:
        self._need_inside(lower)
        return super().upper_intercept(sign, lower, upper, k)

    def derivative_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        self._need_inside(lower)
        return super().derivative_range(lower, upper)

    def _need_inside(self, lower: Array) -> None:
        inside = lower >= 0 if self.with_zero else lower > 0
        need(bool(inside.all()), "bounds", f"{type(self).__name__} of what may lie outside its domain")


class InversePower(Above):
    """With e its exponent, the second derivative is e (e + 1) / x^(e + 2)."""

    bends, limits = (1,), (-math.inf, 0.0)

    def __init__(self, node: c.InversePower, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.exponent = node.exponent

    @staticmethod
    def shape(node: c.InversePower, inputs: Sequence[Shape], place: str) -> Shape:
        fits = 1e-6 <= node.exponent <= 1e6
        wellformed(fits, place, f"exponent must lie in [1e-6, 1e6], got {node.exponent}")
        return inputs[0]

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x**-self.exponent

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return -self.exponent * x**-self.exponent / x


class SquareRoot(Above):
    """Its second derivative is -1 / (4 x^(3/2))."""

    bends, limits, with_zero = (-1,), (math.inf, 0.0), True

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x**0.5

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 0.5 / x**0.5


KINDS: dict[type[c.Node], type[Curve]] = {c.InversePower: InversePower, c.SquareRoot: SquareRoot}

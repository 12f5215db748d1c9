"""`gelu` and `swish`: x times a share of it that grows with x from 0 to 1; concave, convex, and concave again.

Precondition, postcondition and charge: `curve`. What proves the bends, the sign of the second derivative, is said of
each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flint import arb

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.arithmetic import Arithmetic
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.linear_forms import Shape


class Gelu(Curve):
    """With v = x / divisor: f'' is exp(-v^2) (1 - v^2) times a positive number."""

    bends, limits = (-1, 1, -1), (0.0, 1.0)

    def __init__(self, node: c.Gelu, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.divisor = node.divisor
        self.borders = (arb(-node.divisor), arb(node.divisor))

    @staticmethod
    def shape(node: c.Gelu, inputs: Sequence[Shape], place: str) -> Shape:
        wellformed(1e-6 <= node.divisor <= 1e6, place, f"divisor must lie in [1e-6, 1e6], got {node.divisor}")
        return inputs[0]

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x * f.erfc(-x / self.divisor) / 2

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        v = x / self.divisor
        return f.erfc(-v) / 2 + v * f.exp(-(v * v)) / f.pi**0.5


class Swish(Curve):
    """x s(u), u = l x + q x^3, s the sigmoid. f'' is even, and s'(u) (2 u' + x u'' - x u'^2 tanh(u / 2)). Divided by
    u'^2 this is (2 l + 4 t) / (l + t)^2 - x tanh(u / 2), t = 3 q x^2; as x > 0 grows, the first falls, the second too.
    """

    bends, limits = (-1, 1, -1), (0.0, 1.0)

    def __init__(self, node: c.Swish, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.linear, self.cubic = node.linear, node.cubic
        border = root(self._bend)
        self.borders = (-border, border)

    @staticmethod
    def shape(node: c.Swish, inputs: Sequence[Shape], place: str) -> Shape:
        fits = 1e-6 <= node.linear <= 1e6 and 0 <= node.cubic <= 1e6
        wellformed(fits, place, f"needs linear in [1e-6, 1e6] and cubic in [0, 1e6], got {node.linear}, {node.cubic}")
        return inputs[0]

    def _bend(self, x: arb) -> arb:
        grown = 3 * self.cubic * x * x
        return (2 * self.linear + 4 * grown) / (self.linear + grown) ** 2 - x * (self._gate(x) / 2).tanh()

    def _gate(self, x: Any) -> Any:
        return x * (self.linear + self.cubic * x * x)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x * f.logistic(self._gate(x))

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        u = self._gate(x)
        return f.logistic(u) * (1 + x * (self.linear + 3 * self.cubic * x * x) * f.logistic(-u))


def root(falling: Callable[[arb], arb]) -> arb:
    """A ball that holds the root of a function that falls on x > 0, from a positive value to a negative one."""
    low, high = 0.0, 1.0
    while not falling(arb(high)) < 0:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle if falling(arb(middle)) > 0 else low), (middle if falling(arb(middle)) < 0 else high)
    return arb(low).union(arb(high))


KINDS: dict[type[c.Node], type[Curve]] = {c.Gelu: Gelu, c.Swish: Swish}

"""`sigmoid`, `tanh`, `erf`, `softplus`, `exp`, `square` and `cube`: curves with one formula, none of them with a field.

Precondition, postcondition and charge: `curve`. What proves the bends, the sign of the second derivative, is said of
each.
"""

from __future__ import annotations

import math
from typing import Any

from flint import arb

from proofs_check import certificate as c
from proofs_check.kernel.arithmetic import Arithmetic
from proofs_check.kernel.layers.curve import Curve


class Sigmoid(Curve):
    """s'' = s (1 - s) (1 - 2 s)."""

    borders, bends, limits = (arb(0),), (1, -1), (0.0, 0.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.logistic(x)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.logistic(x) * f.logistic(-x)


class Tanh(Curve):
    """tanh'' = -2 tanh (1 - tanh^2)."""

    borders, bends, limits = (arb(0),), (1, -1), (0.0, 0.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.tanh(x)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 4 * f.logistic(2 * x) * f.logistic(-2 * x)


class Softplus(Curve):
    """Its slope is the sigmoid, which grows."""

    bends, limits = (1,), (0.0, 1.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.softplus(x)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.logistic(x)


class Exp(Curve):
    """Its own second derivative."""

    bends, limits = (1,), (0.0, math.inf)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.exp(x)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return f.exp(x)


class Square(Curve):
    """Its second derivative is 2."""

    bends, limits = (1,), (-math.inf, math.inf)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x * x

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 2 * x


class Cube(Curve):
    """Its second derivative is 6 x."""

    borders, bends, limits = (arb(0),), (-1, 1), (math.inf, math.inf)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return x * x * x

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 3 * x * x


class Erf(Curve):
    """Its second derivative is -4 x exp(-x^2) / sqrt(pi)."""

    borders, bends, limits = (arb(0),), (1, -1), (0.0, 0.0)

    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 1 - f.erfc(x)

    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        return 2 * f.exp(-(x * x)) / f.pi**0.5


KINDS: dict[type[c.Node], type[Curve]] = {
    c.Sigmoid: Sigmoid,
    c.Tanh: Tanh,
    c.Softplus: Softplus,
    c.Exp: Exp,
    c.Square: Square,
    c.Cube: Cube,
    c.Erf: Erf,
}

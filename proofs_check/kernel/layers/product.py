"""`product`: two factors, one behind the other along the channels, multiplied cell by cell.

For any p and q, x y = q x + p y - p q + (x - p)(y - q), and on a box the last product is largest and least at corners:
so every plane of slopes (q, p) has an intercept (McCormick 1976, for p and q at corners).

Precondition: proven bounds of both factors. Postcondition: `layer`. Charged: what differences and products round, to
the intercepts and the bounds; p and q count as exact, whatever they round to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from proofs_check.certificate import Norm, RejectedError, wellformed
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import Array, down, product_up, sum_up, up
from proofs_check.kernel.slopes import Slopes

Ends = tuple[Array, Array]


class Product(Nonlinear):
    """x y of the halves x and y of the input."""

    @staticmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        channels, *rest = inputs[0]
        wellformed(channels % 2 == 0, place, f"needs two factors of equal shape, got {channels} channels")
        return (channels // 2, *rest)

    def interval(self, lower: Array, upper: Array) -> Ends:
        products = _corners(*_factors(lower, upper))
        return down(products.min(axis=0)), up(products.max(axis=0))

    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        x, y = _factors(lower, upper)
        (above, top), (below, bottom) = _line(1, x, y), _line(-1, x, y)
        return LinearRelaxation(above, top, below, -bottom)

    def slopes(self, lower: Array, upper: Array) -> Slopes:
        """Of each factor the other one."""
        least, most = (np.concatenate(_halves(v)[::-1]) for v in (lower, upper))
        return Slopes.within(least, most, None, self.shapes[0], factors=2)

    def slopes_anywhere(self) -> Slopes:
        raise RejectedError("jacobian", "slopes of Product have no bound")

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        raise RejectedError("jacobian", "slopes of Product have no bound")

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        raise RejectedError("float32", "products of two values are not covered")


def _halves(value: Array) -> tuple[Array, Array]:
    first, second = np.split(value, 2)
    return first, second


def _factors(lower: Array, upper: Array) -> tuple[Ends, Ends]:
    """Lower and upper bounds of each."""
    low, high = _halves(lower), _halves(upper)
    return (low[0], high[0]), (low[1], high[1])


def _corners(x: Ends, y: Ends) -> Array:
    """(4, C, H, W): products of ends, each rounded once."""
    return np.stack([a * b for a in x for b in y])


def _line(sign: int, x: Ends, y: Ends) -> tuple[Array, Array]:
    """Slopes (q, p), one behind the other, and t: sign x y <= sign (q x + p y) + t on the box. Of three planes alike in
    the middle, two at corners and one between them, the one that reaches least far: in floats, that only propose."""
    middles, halves = [(low + high) / 2 for low, high in (x, y)], [(high - low) / 2 for low, high in (x, y)]
    turned = y[::-1] if sign > 0 else y
    points = [(x[0], turned[0]), (x[1], turned[1]), (middles[0], middles[1])]
    reaches: list[Array] = []
    for p, q in points:
        ends = np.abs(q) * halves[0] + np.abs(p) * halves[1]
        reaches.append(sign * (q * middles[0] + p * middles[1]) + ends + _intercept(sign, x, y, p, q))
    best = np.argmin(reaches, axis=0)
    p, q = (np.choose(best, [point[k] for point in points]) for k in (0, 1))
    return np.concatenate([q, p]), _intercept(sign, x, y, p, q)


def _intercept(sign: int, x: Ends, y: Ends, p: Array, q: Array) -> Array:
    """t >= sign ((x - p)(y - q) - p q) on the box, for any p and q."""
    gaps = [(down(low - at), up(high - at)) for (low, high), at in ((x, p), (y, q))]
    return sum_up(up((sign * _corners(*gaps)).max(axis=0)), product_up(-sign * p, q))

"""`sigmoid` and `tanh`: increasing curves, convex below 0 and concave above.

Precondition: proven bounds of the input. Postcondition: `layer`.
Charged: values and slopes of a curve are Arb balls, rounded outward; what slopes and touching points round to changes
nothing, since `upper_intercept` proves any of them.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from flint import arb

from proofs_check.certificate import RejectedError
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import Array, down, enclose, product_up, sum_up, up


class Curve(Elementwise):
    """f with f(-y) = total - f(y); its slope is even, and falls with |y| from `steepest` to 0."""

    total: float
    steepest: float

    @abc.abstractmethod
    def exact(self, x: arb) -> arb:
        """f."""

    @abc.abstractmethod
    def approximate(self, y: Array) -> Array:
        """f, in floats: only suggests slopes."""

    @abc.abstractmethod
    def slope(self, value: Any) -> Any:
        """f' where f = value, an Arb ball or an array."""

    def exact_slope(self, x: arb) -> arb:
        return self.slope(self.exact(x))

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return enclose(self.exact, lower)[0], enclose(self.exact, upper)[1]

    def derivative(self) -> tuple[float, float]:
        return 0.0, self.steepest

    def derivative_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        farthest = np.maximum(np.abs(lower), np.abs(upper))
        nearest = np.where((lower <= 0) & (upper >= 0), 0.0, np.minimum(np.abs(lower), np.abs(upper)))
        return np.maximum(enclose(self.exact_slope, farthest)[0], 0.0), enclose(self.exact_slope, nearest)[1]

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        raise RejectedError("float32", "sigmoid and tanh are not covered")

    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        """Upper line as below; the lower one is its mirror image, f(-y) = total - f(y)."""
        k, t = self._upper_line(lower, upper)
        w, s = self._upper_line(-upper, -lower)
        return LinearRelaxation(k, t, w, down(self.total - s))

    def _upper_line(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Chord where the curve is convex or the tangent from the lower end would touch beyond `upper`; else a
        tangent."""
        touch = self.touching_point(lower, upper)
        width = np.maximum(upper - lower, 1e-300)
        chord = (self.approximate(upper) - self.approximate(lower)) / width
        convex = (upper <= 0) | (touch >= upper)
        k = np.where(convex & (width > 1e-6), chord, self.slope(self.approximate(touch)))
        return k, self.upper_intercept(lower, upper, k, np.clip(touch, np.maximum(lower, 0), np.maximum(upper, 0)))

    def touching_point(self, lower: Array, upper: Array) -> Array:
        """Middle of the interval; where that holds 0, the point whose tangent passes the lower end, by bisection."""
        left, right = np.zeros_like(lower), np.maximum(upper, 0.0)
        for _ in range(60):
            middle = (left + right) / 2
            rise = self.approximate(middle) - self.approximate(lower)
            above = self.slope(self.approximate(middle)) * (middle - lower) > rise
            left, right = np.where(above, middle, left), np.where(above, right, middle)
        mixed = (lower < 0) & (upper > 0)
        return np.where(mixed, np.where(right >= np.maximum(upper, 0), upper, left), (lower + upper) / 2)

    def upper_intercept(self, lower: Array, upper: Array, k: Array, touch: Array) -> Array:
        """t >= f(y) - k y on [lower, upper], for any k and any touch in [max(lower, 0), upper] (where upper > 0).

        Left of 0 f(y) - k y is convex: the larger end. Right of 0 it is concave: below its tangent at `touch`.
        """
        end, start = np.minimum(upper, 0.0), np.maximum(lower, 0.0)
        ends = np.maximum(*(self._above_line(y, k) for y in (np.minimum(lower, 0.0), end)))
        least, most = enclose(self.exact_slope, touch)
        rise = product_up(np.maximum(up(most - k), 0.0), up(upper - touch))
        fall = product_up(np.maximum(up(k - least), 0.0), up(touch - start))
        tangent = sum_up(rise, fall, self._above_line(touch, k))
        return np.where(lower >= 0, tangent, np.where(upper <= 0, ends, np.maximum(ends, tangent)))

    def _above_line(self, y: Array, k: Array) -> Array:
        """f(y) - k y, rounded up."""
        return sum_up(enclose(self.exact, y)[1], product_up(-k, y))


class Sigmoid(Curve):
    """s' = s (1 - s) <= 1 / 4."""

    total = 1.0
    steepest = 0.25

    def exact(self, x: arb) -> arb:
        return 1 / (1 + (-x).exp())

    def approximate(self, y: Array) -> Array:
        return 0.5 + 0.5 * np.tanh(0.5 * y)

    def slope(self, value: Any) -> Any:
        return value * (1 - value)


class Tanh(Curve):
    """tanh' = 1 - tanh^2 <= 1."""

    total = 0.0
    steepest = 1.0

    def exact(self, x: arb) -> arb:
        return x.tanh()

    def approximate(self, y: Array) -> Array:
        return np.tanh(y)

    def slope(self, value: Any) -> Any:
        return 1 - value * value

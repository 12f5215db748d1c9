"""What the judge knows of curves: bounds, and lines above and below.

Precondition: proven bounds of the input; `pieces`. Postcondition: `layer`.
Charged: what proposed slopes and touching points round to changes nothing, since `upper_intercept` proves any of them;
values and slopes are enclosed by `pieces`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from proofs_check.kernel.arithmetic import EXACT, FLOATS
from proofs_check.kernel.layers.pieces import Pieces
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import Array, enclose, product_up, sum_up, up

GRID = 8  # points on each half of an interval, between which lines are tried
ROUNDS = 2  # each on a grid four times as fine
NARROW = 1e-6  # too narrow for difference quotients
BISECTIONS = 60


class Curve(Pieces):
    """A function in pieces, bounded."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        flat = np.zeros_like(lower)
        return -self.upper_intercept(-1, lower, upper, flat), self.upper_intercept(1, lower, upper, flat)

    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        """A line above f, and below it one above -f, turned around."""
        slopes = [self.upper_slope(sign, lower, upper) for sign in (1, -1)]
        above, under = (self.upper_intercept(sign, lower, upper, k) for sign, k in zip((1, -1), slopes, strict=True))
        return LinearRelaxation(slopes[0], above, -slopes[1], -under)

    def upper_slope(self, sign: int, lower: Array, upper: Array) -> Array:
        """Of the line above sign f that is lowest at the middle: the chord that is highest there, of points looked for
        on finer and finer grids, or the tangent if no chord passes above."""
        middle, shares = (lower + upper) / 2, np.linspace(0.0, 1.0, GRID + 1).reshape(-1, *(1 for _ in lower.shape))
        y, z, sides = lower, upper, ((middle, lower), (middle, upper))
        for _ in range(ROUNDS):
            left, right = (near + shares * (far - near) for near, far in sides)
            low, high = (sign * self.approximate(self.value, points[1:]) for points in (left, right))
            chords = (high[None] - low[:, None]) / np.maximum(right[None, 1:] - left[1:, None], NARROW**2)
            heights = low[:, None] + chords * (middle - left[1:, None])
            i, j = np.divmod(heights.reshape(-1, *middle.shape).argmax(axis=0), GRID)
            y, z = _at(left, i + 1), _at(right, j + 1)
            sides = (_at(left, i), _at(left, i + 2)), (_at(right, j), _at(right, j + 2))
        at_y, at_m, at_z = (self.approximate(self.value, x) for x in (y, middle, z))
        chord = (at_z - at_y) / np.maximum(z - y, NARROW**2)
        highest = (sign * (at_y + chord * (middle - y) - at_m) <= 0) & (sign * self.bend(middle) < 0)
        narrow = upper - lower < NARROW * (1 + np.abs(middle))
        return sign * np.where(highest | narrow, self.approximate(self.slope, middle), chord)

    def upper_intercept(self, sign: int, lower: Array, upper: Array, k: Array) -> Array:
        """t >= sign f(y) - k y on [lower, upper], for any k.

        On a piece where sign f is convex, the larger end; where it is concave, below its tangent at any point, best
        where that has slope k. What lies around a border is enclosed whole.
        """
        t = np.maximum(*(self._above(sign, self.enclosed(self.value, y), (y, y), k) for y in (lower, upper)))
        borders = self.at_borders(self.value)
        for start, stop, low, high in borders:
            at = self._above(sign, (np.array(low), np.array(high)), (np.array(start), np.array(stop)), k)
            t = np.where((lower <= stop) & (upper >= start), np.maximum(t, at), t)
        starts, stops = [-math.inf, *(b[1] for b in borders)], [*(b[0] for b in borders), math.inf]
        for j, bend in enumerate(self.bends):
            left, right = np.maximum(lower, starts[j]), np.minimum(upper, stops[j])
            met = left <= right
            if sign * bend < 0 and met.any():
                t[met] = np.maximum(t[met], self._tangent(sign, j, left[met], right[met], k[met]))
        return t

    def _above(self, sign: int, values: tuple[Array, Array], ends: tuple[Array, Array], k: Array) -> Array:
        """sign f(y) - k y, rounded up, where f lies in `values` and y between the ends."""
        line = np.maximum(*(product_up(-k, y) for y in ends))
        return sum_up(values[1] if sign > 0 else -values[0], line)

    def _tangent(self, sign: int, j: int, left: Array, right: Array, k: Array) -> Array:
        """t >= sign f(y) - k y on [left, right], inside a piece where sign f is concave."""
        start, stop = left, right
        for _ in range(BISECTIONS):
            touch = (start + stop) / 2
            steeper = sign * self.slope(touch, FLOATS, j) > k
            start, stop = np.where(steeper, touch, start), np.where(steeper, stop, touch)
        touch = np.where(stop == right, right, start)
        value, slope = (enclose(lambda x, g=g: g(x, EXACT, j), touch) for g in (self.value, self.slope))
        least, most = slope if sign > 0 else (-slope[1], -slope[0])
        rise = product_up(np.maximum(up(most - k), 0.0), up(right - touch))
        fall = product_up(np.maximum(up(k - least), 0.0), up(touch - left))
        return sum_up(self._above(sign, value, (touch, touch), k), rise, fall)


def _at(points: Array, index: NDArray[np.int64]) -> Array:
    """Of each cell one of its points (GRID + 1, ...), or the nearest there is."""
    return np.take_along_axis(points, np.clip(index, 0, GRID)[None], axis=0)[0]

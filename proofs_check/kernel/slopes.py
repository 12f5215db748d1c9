"""Forms with interval coefficients, and a nonlinear node's slopes as the factor they are multiplied by.

Precondition: least <= most hold every derivative of the node on the set (of max pooling: every cell's share of its
window). Postcondition: `times` holds every form times every such slope.
Charged: what a product, or a sum over windows, rounds, to the radius of the result, which is itself rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proofs_check.kernel.linear_forms import IntArray, LinearForms, Shape, repeated, take
from proofs_check.kernel.rounding import Array, centred, down, product_up, sum_error, sum_up, up
from proofs_check.kernel.windows import Sliding


@dataclass(frozen=True, eq=False)
class Interval:
    """Forms of one node (R, h, w, C), each coefficient in centre ± radius; corner: their windows, see `LinearForms`."""

    centre: Array
    radius: Array
    corner: IntArray | None = None

    @staticmethod
    def between(lower: Array, upper: Array) -> Interval:
        return Interval(*centred(lower, upper))

    def magnitude(self) -> Array:
        return up(np.abs(self.centre) + self.radius)


def scaled(forms: Interval, least: Array, most: Array) -> Interval:
    """Forms times slopes in [least, most], broadcast: extreme where both are at an end."""
    low, high = down(forms.centre - forms.radius), up(forms.centre + forms.radius)
    bottom = np.minimum(*(np.where(s >= 0, low, high) * s for s in (least, most)))
    top = np.maximum(*(np.where(s >= 0, high, low) * s for s in (least, most)))
    return Interval.between(down(bottom), up(top))


@dataclass(frozen=True, eq=False)
class Slopes:
    """A nonlinear node as a factor: least <= slope <= most, images. Max pooling (`sliding`): the share of each cell of
    each window, (oh, ow, kh, kw, C). A product (`factors` 2): slopes of its factors, one behind the other. middle +-
    radius holds the same slopes; radius 0: the slope is known."""

    least: Array
    most: Array
    middle: Array
    radius: Array
    sliding: Sliding | None
    shape: Shape
    factors: int

    @staticmethod
    def within(least: Array, most: Array, sliding: Sliding | None, shape: Shape, factors: int = 1) -> Slopes:
        middle, radius = centred(least, most)
        return Slopes(least, most, middle, np.where(least == most, 0.0, radius), sliding, shape, factors)

    def times(self, forms: Interval, least: Array, most: Array) -> Interval:
        """Forms of the node's input: each coefficient times a slope in [least, most]."""
        if self.sliding is None:
            low, high = (take(s, LinearForms(forms.centre, forms.corner)) for s in (least, most))
            each = Interval(repeated(forms.centre, len(least)), repeated(forms.radius, len(least)))
            product = scaled(each, low, high)
            return Interval(product.centre, product.radius, forms.corner)
        taps = scaled(Interval(forms.centre[:, :, :, None, None], forms.radius[:, :, :, None, None]), least, most)
        error = sum_error(taps.centre.shape[3] * taps.centre.shape[4])
        frame = LinearForms(forms.centre, None)
        charged = sum_up(taps.radius, product_up(2 * error, np.abs(taps.centre)))
        centre = self.sliding.spread(frame, lambda i, j: taps.centre[:, :, :, i, j], self.shape).values
        radius = self.sliding.spread(frame, lambda i, j: charged[:, :, :, i, j], self.shape).values
        return Interval(centre, product_up(radius, 1 + 2 * error))

    def slope_errors(self, forms: Interval) -> Array:
        """(R, h, w, C): how much of each cell of the node's input its forms times slopes may lie beside forms times
        `middle`; 0 where the slope is known."""
        exact = Interval(forms.magnitude(), np.zeros_like(forms.radius))
        return np.where(self.uncertain(), self.times(exact, self.radius, self.radius).magnitude(), 0.0)

    def uncertain(self) -> NDArray[np.bool_]:
        """(h, w, C): the cells of the node's input with a slope that is not known."""
        if self.sliding is None:
            return np.moveaxis(self.radius, 0, -1) > 0
        taps = (self.radius > 0).astype(np.float64)[None]
        frame = LinearForms(taps[:, :, :, 0, 0], None)
        return self.sliding.spread(frame, lambda i, j: taps[:, :, :, i, j], self.shape).values[0] > 0

    def forward(self, value: Interval) -> Interval:
        """The middle slopes applied to an image (C, H, W)."""
        if self.sliding is None:
            parts = np.split(value.centre * self.middle, self.factors)
            radii = np.split(product_up(value.radius, np.abs(self.middle)), self.factors)
            size = sum_up(*map(np.abs, parts))
            return Interval(np.add.reduce(parts), sum_up(*radii, product_up(sum_error(2), size)))
        sliding, shares = self.sliding, np.transpose(self.middle, (4, 2, 3, 0, 1))
        parts = (value.centre, np.abs(value.centre), value.radius)
        centre, size, radius = ((sliding.windows(v, 0.0) * shares).sum(axis=(1, 2)) for v in parts)
        error = 2 * sum_error(math.prod(sliding.kernel))
        return Interval(centre, sum_up(product_up(radius, 1 + error), product_up(error, size)))

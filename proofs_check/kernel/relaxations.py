"""Linear relaxations of the nonlinear nodes: slopes by heuristics or from a witness, intercepts proven.

Every function takes proven bounds lower <= y <= upper of the node's input and Ensures, for the node's value f:
lower_slope y + lower_intercept <= f(y) <= upper_slope y + upper_intercept on [lower, upper], for any slopes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb

from proofs_check import certificate as c
from proofs_check.kernel.layers import Rows, Shape, Sliding, take
from proofs_check.kernel.rounding import Array, down, enclose, sum_error, up


@dataclass(frozen=True, eq=False)
class Selection:
    """The input cell, by its tap in the window, that stands for each max-pooled one."""

    sliding: Sliding
    tap: Array

    def spread(self, rows: Rows, shape: Shape) -> Rows:
        """Coefficients of pooled cells -> of the selected cells of the input, an image of `shape`."""
        selected = take(self.tap, rows)
        return self.sliding.spread(rows, lambda i, j: rows.values * (selected == i * self.sliding.kernel[1] + j), shape)


@dataclass(frozen=True, eq=False)
class Lines:
    """Slopes and intercepts, images; max pooling applies them to the selected input cells."""

    upper_slope: Array
    upper_intercept: Array
    lower_slope: Array
    lower_intercept: Array
    selection: Selection | None = None

    def charged(self, magnitude: Array, terms: int) -> Lines:
        """The lines moved outward by what a backward pass rounds when it applies them.

        magnitude: of the selected input, images. terms: cells summed when the intercepts are added up, and
        coefficients summed when windows overlap. Stays right for any other lower slope in [-1, 1].
        """
        slope = np.maximum(np.abs(self.lower_slope), 1.0)
        error = sum_error(terms)
        top = self.upper_intercept + error * (np.abs(self.upper_intercept) + np.abs(self.upper_slope) * magnitude)
        bottom = self.lower_intercept - error * (np.abs(self.lower_intercept) + slope * magnitude)
        return Lines(self.upper_slope, up(top), self.lower_slope, down(bottom), self.selection)


def relu_lines(lower: Array, upper: Array, slope: float, hint: Array | None) -> Lines:
    """max(y, slope y), 0 <= slope <= 1 (ReLU: 0), convex: its chord's intercept is the larger one at the two ends.

    hint: lower slopes for unstable cells, clipped to [slope, 1], where the line through 0 is a lower bound.
    """
    active, inactive = lower >= 0, upper <= 0
    with np.errstate(all="ignore"):
        chord = (upper - slope * lower) / (upper - lower)
    k = np.where(active, 1.0, np.where(inactive, slope, chord))
    at_lower = up(up(slope * lower) + up(-k * lower))
    at_upper = up(upper + up(-k * upper))
    t = np.where(active | inactive, 0.0, np.maximum(at_lower, at_upper))
    w = hinted_slopes(lower, upper, slope, np.where(upper > -lower, 1.0, 0.0) if hint is None else hint)
    return Lines(k, t, w, np.zeros((1, 1, 1)))


def hinted_slopes(lower: Array, upper: Array, slope: float, hint: Array) -> Array:
    """Lower slopes (..., C, H, W) from hints of that shape: exact where the cell is stable."""
    return np.where(lower >= 0, 1.0, np.where(upper <= 0, slope, np.clip(hint, slope, 1.0)))


def relu_slope(node: Any) -> float | None:
    """Slope of the negative side; None for a node that is no ReLU."""
    return node.slope if isinstance(node, c.LeakyRelu) else 0.0 if isinstance(node, c.Relu) else None


# ---------------------------------------------------------------- sigmoid and tanh


def sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp())


@dataclass(frozen=True)
class Curve:
    """An increasing function, convex below 0 and concave above, with f(-y) = total - f(y)."""

    name: str
    total: float

    def exact(self, x: arb) -> arb:
        return x.tanh() if self.name == "tanh" else sigmoid(x)

    def exact_slope(self, x: arb) -> arb:
        value = self.exact(x)
        return 1 - value * value if self.name == "tanh" else value * (1 - value)

    def near(self, y: Array) -> Array:
        return np.tanh(y) if self.name == "tanh" else 0.5 + 0.5 * np.tanh(0.5 * y)

    def near_slope(self, y: Array) -> Array:
        value = self.near(y)
        return 1 - value * value if self.name == "tanh" else value * (1 - value)


SIGMOID = Curve("sigmoid", 1.0)
TANH = Curve("tanh", 0.0)


def curve_of(node: Any) -> Curve | None:
    return SIGMOID if isinstance(node, c.Sigmoid) else TANH if isinstance(node, c.Tanh) else None


def curve_lines(lower: Array, upper: Array, curve: Curve) -> Lines:
    """Upper line as below; the lower one is its mirror image, f(-y) = total - f(y)."""
    k, t = _upper_line(lower, upper, curve)
    w, s = _upper_line(-upper, -lower, curve)
    return Lines(k, t, w, down(curve.total - s))


def _upper_line(lower: Array, upper: Array, curve: Curve) -> tuple[Array, Array]:
    """Chord where the curve is convex or the tangent from the lower end would touch beyond `upper`; else a tangent."""
    touch = _touching_point(lower, upper, curve)
    width = np.maximum(upper - lower, 1e-300)
    chord = (curve.near(upper) - curve.near(lower)) / width
    convex = (upper <= 0) | (touch >= upper)
    k = np.where(convex & (width > 1e-6), chord, curve.near_slope(touch))
    return k, upper_intercept(lower, upper, k, np.clip(touch, np.maximum(lower, 0), np.maximum(upper, 0)), curve)


def _touching_point(lower: Array, upper: Array, curve: Curve) -> Array:
    """Middle of the interval; where that holds 0, the point whose tangent passes the lower end, by bisection."""
    left, right = np.zeros_like(lower), np.maximum(upper, 0.0)
    for _ in range(60):
        middle = (left + right) / 2
        above = curve.near_slope(middle) * (middle - lower) > curve.near(middle) - curve.near(lower)
        left, right = np.where(above, middle, left), np.where(above, right, middle)
    mixed = (lower < 0) & (upper > 0)
    return np.where(mixed, np.where(right >= np.maximum(upper, 0), upper, left), (lower + upper) / 2)


def upper_intercept(lower: Array, upper: Array, k: Array, touch: Array, curve: Curve) -> Array:
    """t >= f(y) - k y on [lower, upper], for any k and any touch in [max(lower, 0), upper] (where upper > 0).

    Left of 0 f(y) - k y is convex: the larger end. Right of 0 it is concave: below its tangent at `touch`.
    """
    end, start = np.minimum(upper, 0.0), np.maximum(lower, 0.0)
    ends = np.maximum(*(up(enclose(curve.exact, y)[1] + up(-k * y)) for y in (np.minimum(lower, 0.0), end)))
    least, most = enclose(curve.exact_slope, touch)
    rise = np.maximum(up(most - k), 0.0) * up(upper - touch)
    fall = np.maximum(up(k - least), 0.0) * up(touch - start)
    tangent = up(up(enclose(curve.exact, touch)[1] + up(-k * touch)) + up(up(rise) + up(fall)))
    return np.where(lower >= 0, tangent, np.where(upper <= 0, ends, np.maximum(ends, tangent)))


# ---------------------------------------------------------------- max pooling


def pool_sliding(node: c.MaxPool2d) -> Sliding:
    return Sliding(node.kernel, node.stride, node.padding)


def pool_lines(lower: Array, upper: Array, node: c.MaxPool2d) -> Lines:
    """Below: the tap with the largest lower bound. Above: that tap where it dominates the others, else a constant."""
    sliding = pool_sliding(node)
    windows = (sliding.windows(bound, -np.inf) for bound in (lower, upper))
    low, high = (w.reshape(len(w), -1, *w.shape[3:]) for w in windows)  # (C, kh kw, oh, ow)
    select = low.argmax(axis=1)
    chosen = np.equal(np.arange(low.shape[1], dtype=np.int64)[:, None, None], select[:, None])
    rival = np.where(chosen, -np.inf, high).max(axis=1)
    wins = low.max(axis=1) >= rival
    constant, selection = np.where(wins, 0.0, high.max(axis=1)), Selection(sliding, select.astype(np.float64))
    return Lines(wins.astype(np.float64), constant, np.ones_like(rival), np.zeros_like(rival), selection)


# ---------------------------------------------------------------- any nonlinear node


def lines_of(node: Any, lower: Array, upper: Array, hint: Array | None) -> Lines:
    """hint: as in `relu_lines`; of no use to other nodes."""
    slope, curve = relu_slope(node), curve_of(node)
    if slope is not None:
        return relu_lines(lower, upper, slope, hint)
    return pool_lines(lower, upper, node) if curve is None else curve_lines(lower, upper, curve)


def monotone(node: Any, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Interval bounds of a nonlinear node's value: all are nondecreasing."""
    slope, curve = relu_slope(node), curve_of(node)
    if slope is not None:
        return np.maximum(lower, down(slope * lower)), np.maximum(upper, up(slope * upper))
    if curve is not None:
        return enclose(curve.exact, lower)[0], enclose(curve.exact, upper)[1]
    low, high = (pool_sliding(node).windows(end, -np.inf).max(axis=(1, 2)) for end in (lower, upper))
    return low, high

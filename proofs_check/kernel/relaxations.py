"""Linear relaxations of the nonlinear nodes: slopes by heuristics or from a witness, intercepts proven.

Precondition: proven bounds lower <= y <= upper of the node's input. Postcondition, for the node's value f:
lower_slope y + lower_intercept <= f(y) <= upper_slope y + upper_intercept on [lower, upper], for any slopes.
Charged: slopes count as exact, whatever they round to; what evaluating f and slope y at the ends rounds goes outward
into the intercepts, and what a backward pass rounds when it applies them (`charged`) too. Defaults: FORMAT.md 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb

from proofs_check import certificate as c
from proofs_check.kernel.layers import LinearForms, Shape, Sliding, take
from proofs_check.kernel.rounding import Array, down, enclose, sum_error, up


@dataclass(frozen=True, eq=False)
class MaxPoolSelection:
    """The input cell, by its tap in the window, that stands for each max-pooled one."""

    sliding: Sliding
    tap: Array

    def spread(self, forms: LinearForms, shape: Shape) -> LinearForms:
        """Coefficients of pooled cells -> of the selected cells of the input, an image of `shape`."""
        taps, width = take(self.tap, forms), self.sliding.kernel[1]
        return self.sliding.spread(forms, lambda i, j: forms.values * (taps == i * width + j), shape)


@dataclass(frozen=True, eq=False)
class LinearRelaxation:
    """Slopes and intercepts, images; max pooling applies them to the selected input cells."""

    upper_slope: Array
    upper_intercept: Array
    lower_slope: Array
    lower_intercept: Array
    selection: MaxPoolSelection | None = None

    def charged(self, magnitude: Array, terms: int) -> LinearRelaxation:
        """The relaxation moved outward by what a backward pass rounds when it applies them.

        magnitude: of the selected input, images. terms: cells summed when the intercepts are added up, and
        coefficients summed when windows overlap. Stays right for any other lower slope in [-1, 1].
        """
        slope = np.maximum(np.abs(self.lower_slope), 1.0)
        error = sum_error(terms)
        top = self.upper_intercept + error * (np.abs(self.upper_intercept) + np.abs(self.upper_slope) * magnitude)
        bottom = self.lower_intercept - error * (np.abs(self.lower_intercept) + slope * magnitude)
        return LinearRelaxation(self.upper_slope, up(top), self.lower_slope, down(bottom), self.selection)


def relu_relaxation(lower: Array, upper: Array, slope: float, witness: Array | None) -> LinearRelaxation:
    """max(y, slope y), 0 <= slope <= 1 (ReLU: 0), convex: its chord's intercept is the larger one at the two ends.

    witness: lower slopes for unstable neurons, clipped to [slope, 1], where the line through 0 is a lower bound.
    """
    active, inactive = lower >= 0, upper <= 0
    with np.errstate(all="ignore"):
        chord = (upper - slope * lower) / (upper - lower)
    k = np.where(active, 1.0, np.where(inactive, slope, chord))
    at_lower = up(up(slope * lower) + up(-k * lower))
    at_upper = up(upper + up(-k * upper))
    t = np.where(active | inactive, 0.0, np.maximum(at_lower, at_upper))
    w = clipped_slopes(lower, upper, slope, np.where(upper > -lower, 1.0, 0.0) if witness is None else witness)
    return LinearRelaxation(k, t, w, np.zeros((1, 1, 1)))


def clipped_slopes(lower: Array, upper: Array, slope: float, witness: Array) -> Array:
    """Lower slopes (..., C, H, W) from a witness's of that shape: exact where the neuron is stable."""
    return np.where(lower >= 0, 1.0, np.where(upper <= 0, slope, np.clip(witness, slope, 1.0)))


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

    def approximate(self, y: Array) -> Array:
        return np.tanh(y) if self.name == "tanh" else 0.5 + 0.5 * np.tanh(0.5 * y)

    def approximate_slope(self, y: Array) -> Array:
        value = self.approximate(y)
        return 1 - value * value if self.name == "tanh" else value * (1 - value)


SIGMOID = Curve("sigmoid", 1.0)
TANH = Curve("tanh", 0.0)


def curve_of(node: Any) -> Curve | None:
    return SIGMOID if isinstance(node, c.Sigmoid) else TANH if isinstance(node, c.Tanh) else None


def curve_relaxation(lower: Array, upper: Array, curve: Curve) -> LinearRelaxation:
    """Upper line as below; the lower one is its mirror image, f(-y) = total - f(y)."""
    k, t = _upper_line(lower, upper, curve)
    w, s = _upper_line(-upper, -lower, curve)
    return LinearRelaxation(k, t, w, down(curve.total - s))


def _upper_line(lower: Array, upper: Array, curve: Curve) -> tuple[Array, Array]:
    """Chord where the curve is convex or the tangent from the lower end would touch beyond `upper`; else a tangent."""
    touch = _touching_point(lower, upper, curve)
    width = np.maximum(upper - lower, 1e-300)
    chord = (curve.approximate(upper) - curve.approximate(lower)) / width
    convex = (upper <= 0) | (touch >= upper)
    k = np.where(convex & (width > 1e-6), chord, curve.approximate_slope(touch))
    return k, upper_intercept(lower, upper, k, np.clip(touch, np.maximum(lower, 0), np.maximum(upper, 0)), curve)


def _touching_point(lower: Array, upper: Array, curve: Curve) -> Array:
    """Middle of the interval; where that holds 0, the point whose tangent passes the lower end, by bisection."""
    left, right = np.zeros_like(lower), np.maximum(upper, 0.0)
    for _ in range(60):
        middle = (left + right) / 2
        rise = curve.approximate(middle) - curve.approximate(lower)
        above = curve.approximate_slope(middle) * (middle - lower) > rise
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
    at_touch = up(enclose(curve.exact, touch)[1] + up(-k * touch))
    tangent = up(at_touch + up(up(rise) + up(fall)))
    return np.where(lower >= 0, tangent, np.where(upper <= 0, ends, np.maximum(ends, tangent)))


# ---------------------------------------------------------------- max pooling


def pool_sliding(node: c.MaxPool2d) -> Sliding:
    return Sliding(node.kernel, node.stride, node.padding)


def max_pool_relaxation(lower: Array, upper: Array, node: c.MaxPool2d) -> LinearRelaxation:
    """Below: the tap with the largest lower bound. Above: that tap where it dominates the others, else a constant."""
    sliding = pool_sliding(node)
    windows = (sliding.windows(bound, -np.inf) for bound in (lower, upper))
    low, high = (w.reshape(len(w), -1, *w.shape[3:]) for w in windows)  # (C, kh kw, oh, ow)
    winner = low.argmax(axis=1)
    is_winner = np.equal(np.arange(low.shape[1], dtype=np.int64)[:, None, None], winner[:, None])
    rival = np.where(is_winner, -np.inf, high).max(axis=1)
    wins = low.max(axis=1) >= rival
    constant, selection = np.where(wins, 0.0, high.max(axis=1)), MaxPoolSelection(sliding, winner.astype(np.float64))
    return LinearRelaxation(wins.astype(np.float64), constant, np.ones_like(rival), np.zeros_like(rival), selection)


# ---------------------------------------------------------------- any nonlinear node


def relaxation_of(node: Any, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
    """witness: as in `relu_relaxation`; of no use to other nodes."""
    slope, curve = relu_slope(node), curve_of(node)
    if slope is not None:
        return relu_relaxation(lower, upper, slope, witness)
    return max_pool_relaxation(lower, upper, node) if curve is None else curve_relaxation(lower, upper, curve)


def monotone(node: Any, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Interval bounds of a nonlinear node's value: all are nondecreasing."""
    slope, curve = relu_slope(node), curve_of(node)
    if slope is not None:
        return np.maximum(lower, down(slope * lower)), np.maximum(upper, up(slope * upper))
    if curve is not None:
        return enclose(curve.exact, lower)[0], enclose(curve.exact, upper)[1]
    low, high = (pool_sliding(node).windows(end, -np.inf).max(axis=(1, 2)) for end in (lower, upper))
    return low, high

"""Rigorous bounds of gradients of logit functionals over a ball, by the interval form of the chain rule.

R rows travel from the logits to the input as intervals centre ± radius; every rounding widens the radius.
Invariant: each element of Clarke's generalised Jacobian of the functionals at each x in the ball, with respect
to each pending node, lies in the interval (Clarke 1983, 2.6.6; intervals are convex). The set is convex, so
the largest dual norm of the gradient is a Lipschitz constant on it (mean value theorem). MATH.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proofs_check import certificate as c
from proofs_check.bounds import Prepared, Values, inputs_of
from proofs_check.certificate import Norm, RejectedError, need
from proofs_check.network import Map, Rows, Shape, add
from proofs_check.relaxations import curve_of, pool_sliding, relu_slope
from proofs_check.rounding import Array, down, enclose, need_bounded, sum_error, up


@dataclass(frozen=True, eq=False)
class Interval:
    """Rows of one node, whole images (R, h, w, C), each coefficient in centre ± radius."""

    centre: Array
    radius: Array

    @staticmethod
    def between(lower: Array, upper: Array) -> Interval:
        centre = (lower + upper) / 2
        return Interval(centre, up(np.maximum(up(upper - centre), up(centre - lower))))

    def magnitude(self) -> Array:
        return up(np.abs(self.centre) + self.radius)


def slope_interval(node: c.Node, lower: Array, upper: Array) -> tuple[Array, Array]:
    """least <= derivative <= most of an elementwise node wherever lower <= its input <= upper; 0 <= least <= most."""
    slope, curve = relu_slope(node), curve_of(node)
    if slope is not None:
        return np.where(lower > 0, 1.0, slope), np.where(upper < 0, slope, 1.0)
    if curve is None:
        raise RejectedError("jacobian", f"{type(node).__name__} has no known slopes")
    # sigmoid' and tanh' are even and decrease in |y|
    far = np.maximum(np.abs(lower), np.abs(upper))
    near = np.where((lower <= 0) & (upper >= 0), 0.0, np.minimum(np.abs(lower), np.abs(upper)))
    return np.maximum(enclose(curve.exact_slope, far)[0], 0.0), enclose(curve.exact_slope, near)[1]


def affine_step(mapping: Map, rows: Interval) -> list[Interval]:
    """The rows of each input of an affine node."""
    error = sum_error(mapping.terms)
    spread = up(rows.radius + up(2 * error * np.abs(rows.centre)))
    centres = mapping.adjoint(Rows(rows.centre, None))
    radii = mapping.adjoint(Rows(spread, None), absolute=True)
    return [Interval(m.values, up(up(r.values * (1 + 2 * error)))) for m, r in zip(centres, radii, strict=True)]


def scaled(rows: Interval, least: Array, most: Array) -> Interval:
    """Rows times slopes in [least, most], 0 <= least <= most, broadcast."""
    low, high = down(rows.centre - rows.radius), up(rows.centre + rows.radius)
    bottom = down(np.where(low >= 0, low * least, low * most))
    top = up(np.where(high >= 0, high * most, high * least))
    return Interval.between(bottom, top)


def sum_of(first: Interval, second: Interval, shape: Shape) -> Interval:
    centre = add(Rows(first.centre, None), Rows(second.centre, None), shape).values
    return Interval(centre, up(up(first.radius + second.radius) + up(sum_error(2) * np.abs(centre))))


def gradient_bounds(values: Values, coefficients: Array) -> Array:
    """coefficients (R, K), exact -> (R, n): bounds of |partial derivative| over the ball, for each input cell."""
    prepared = values.prepared
    last = len(prepared.maps) - 1
    start = coefficients.reshape(len(coefficients), 1, 1, -1)
    pending = {last: Interval(start, np.zeros_like(start))}
    with np.errstate(all="ignore"):
        for k in range(last, 0, -1):
            rows = pending.pop(k, None)
            if rows is None:
                continue
            mapping = prepared.maps[k]
            parts = affine_step(mapping, rows) if mapping is not None else [_nonlinear_step(values, k, rows)]
            for i, part in zip(inputs_of(prepared.network.nodes[k]), parts, strict=True):
                need_bounded(part.magnitude(), "jacobian")
                pending[i] = sum_of(pending[i], part, prepared.shapes[i]) if i in pending else part
    return pending[0].magnitude().reshape(len(coefficients), -1)


def _nonlinear_step(values: Values, k: int, rows: Interval) -> Interval:
    node = values.prepared.network.nodes[k]
    (i,) = inputs_of(node)
    lower, upper = values.lower[i], values.upper[i]
    if isinstance(node, c.MaxPool2d):
        return _pool_step(node, lower, upper, rows, values.prepared.shapes[i])
    least, most = slope_interval(node, lower, upper)
    return scaled(rows, np.moveaxis(least, 0, -1), np.moveaxis(most, 0, -1))


def _pool_step(node: c.MaxPool2d, lower: Array, upper: Array, rows: Interval, shape: Shape) -> Interval:
    """Max pooling selects: a cell has share 0 if another surely exceeds it, 1 if it exceeds all, else [0, 1]."""
    sliding = pool_sliding(node)
    low, high = sliding.windows(lower, -np.inf), sliding.windows(upper, -np.inf)
    best = low.max(axis=(1, 2), keepdims=True)
    most = high >= best
    least = most & (most.sum(axis=(1, 2), keepdims=True) == 1)
    shares = (np.transpose(s, (3, 4, 1, 2, 0)).astype(np.float64) for s in (least, most & (high > -np.inf)))
    spread = Interval(*(part[:, :, :, None, None, :] for part in (rows.centre, rows.radius)))
    taps = scaled(spread, *shares)
    error = sum_error(taps.centre.shape[3] * taps.centre.shape[4])
    frame = Rows(rows.centre, None)
    centre = sliding.spread(frame, taps.centre, shape).values
    radius = sliding.spread(frame, up(taps.radius + up(2 * error * np.abs(taps.centre))), shape).values
    return Interval(centre, up(radius * (1 + 2 * error)))


def dual_norms_up(magnitudes: Array, norm: Norm) -> Array:
    """(R, n) bounds of |partial derivatives| -> (R,) upper bounds of the gradients' norm dual to `norm`."""
    error = sum_error(magnitudes.shape[1])
    if norm == "L1":
        return magnitudes.max(axis=1)
    if norm == "Linf":
        return up(magnitudes.sum(axis=1) * (1 + 2 * error))
    squares = np.einsum("rx,rx->r", magnitudes, magnitudes)
    return up(np.sqrt(squares) * (1 + 2 * error) + 2.0**-400)


def difference_constants(values: Values, y: int) -> Array:
    """(K,) constants L_j: |d_j(a) - d_j(b)| <= L_j ‖a - b‖ for all a, b in the ball, d_j = z_j - z_y; L_y = 0."""
    classes = values.prepared.network.classes
    need(0 <= y < classes, "jacobian", f"class {y} of {classes}")
    rivals = np.delete(np.arange(classes), y)
    forms = np.eye(classes)[rivals] - np.eye(classes)[y]
    found = np.zeros(classes)
    found[rivals] = dual_norms_up(gradient_bounds(values, forms), values.ball.norm)
    need_bounded(found, "jacobian")
    return found


def unrestricted_slopes(prepared: Prepared, k: int) -> tuple[float, float]:
    """The slopes an elementwise node can have anywhere."""
    node = prepared.network.nodes[k]
    slope = relu_slope(node)
    if slope is not None:
        return slope, 1.0
    curve = curve_of(node)
    if curve is None:
        raise RejectedError("jacobian", f"node {k} ({type(node).__name__}) has no multipliers")
    return 0.0, 1.0 if curve.name == "tanh" else 0.25

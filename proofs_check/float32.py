"""How far a float32 evaluation of the plain network can be from its real value, over a ball.

Covered: every input is a float32 in the ball; every operation is IEEE float32, round to nearest (subnormal
results kept or flushed to zero), sums in any order, fused multiply-add or not, or in a wider format. Convolutions
sum products (no Winograd, no FFT). BatchNorm by (x - mean) / sqrt(variance + eps) * scale + shift in any
association of its factors, also as a x + b with a, b computed in float32; not folded into another layer. Divide
as quotient or as product with the rounded reciprocal. Sigmoid and tanh are not covered: libraries differ.
"""

from __future__ import annotations

import numpy as np

from proofs_check import certificate as c
from proofs_check.bounds import Ball, Prepared, Values, Witness, inputs_of, value_bounds
from proofs_check.certificate import need
from proofs_check.network import Map
from proofs_check.relaxations import curve_of, pool_sliding
from proofs_check.rounding import Array, need_bounded, up

LARGEST = 2.0**126  # no float32 overflow below this, whatever the order of summation
SMALLEST = 2.0**-125  # more than any underflow error of one operation, flushed or not


def float_error(terms: int) -> float:
    """2 (n + 8) 2^-24 >= gamma_(n + 8) / (1 - gamma_(n + 8)) of float32, for n < 2^20."""
    need(terms < 2**20, "float32", f"sums of {terms} terms are not covered")
    return (terms + 8) * 2.0**-23


def logit_error(values: Values) -> Array:
    """(K,) >= |float32 logits - real logits| for every float32 input in the ball and any order of summation."""
    network = values.prepared.network
    errors: list[Array] = [np.zeros(values.prepared.shapes[0])]
    with np.errstate(all="ignore"):
        for k, node in enumerate(network.nodes[1:], start=1):
            mapping = values.prepared.maps[k]
            if mapping is None:
                (i,) = inputs_of(node)
                errors.append(_nonlinear(node, values, i, errors[i]))
            else:
                errors.append(_affine(node, mapping, values, errors))
    need_bounded(errors[-1], "float32")
    return errors[-1].ravel()


def _affine(node: c.Node, mapping: Map, values: Values, errors: list[Array]) -> Array:
    """|W| e carried on, plus the float32 rounding of a sum of that many products of computed numbers."""
    inputs = inputs_of(node)
    carried = mapping.apply(*(errors[i] for i in inputs), absolute=True)
    if isinstance(node, (c.Flatten, c.Slice, c.Concat)):
        return carried
    reached = [values.magnitude(i) + errors[i] for i in inputs]
    size = mapping.apply(*reached, absolute=True) + mapping.bias_size
    need(bool((size <= LARGEST).all()), "float32", "a value may overflow float32")
    tiny = SMALLEST * mapping.terms * (1 + max(float(r.max()) for r in reached))
    if isinstance(node, c.Pad):
        return up(carried + 2.0**-23 * mapping.bias_size)  # the value, rounded to float32
    return up(up(carried * (1 + 2.0**-20)) + up(float_error(mapping.terms) * size + tiny))


def _nonlinear(node: c.Node, values: Values, i: int, error: Array) -> Array:
    """ReLU and max pooling only compare: 1-Lipschitz and exact. LeakyReLU also rounds its slope and a product."""
    need(curve_of(node) is None, "float32", "sigmoid and tanh are not covered")
    if isinstance(node, c.MaxPool2d):
        return pool_sliding(node).windows(error, -np.inf).max(axis=(1, 2))
    if isinstance(node, c.LeakyRelu):
        return up(error + up(2.0**-22 * (values.magnitude(i) + error) + SMALLEST))
    return error


def difference_error(prepared: Prepared, ball: Ball, y: int, hints: Witness | None) -> Array:
    """(K,) >= |float32 z_j - float32 z_y - (z_j - z_y)|, the subtraction exact; entry y is 0."""
    error = logit_error(value_bounds(prepared, ball, hints))
    total = up(error + error[y])
    total[y] = 0.0
    return total

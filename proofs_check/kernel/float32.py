"""How far a float32 evaluation of the plain network can be from its real value, over a ball.

Covered: every input is a float32 in the ball; every operation is IEEE float32, round to nearest (subnormal
results kept or flushed to zero), sums in any order, fused multiply-add or not, or in a wider format. Convolutions
sum products (no Winograd, no FFT). BatchNorm by (x - mean) / sqrt(variance + eps) * scale + shift in any
association of its factors, also as a x + b with a, b computed in float32; not folded into another layer. Divide
as quotient or as product with the rounded reciprocal. Sigmoid and tanh are not covered: libraries differ.

Precondition: proven bounds of every node's value. Postcondition: `logit_error` is at least |float32 logit - logit|.
Charged per node: the error of its inputs carried through |W|; a sum's rounding, relative to its size; every underflow
at UNDERFLOW_ERROR, magnified by what may multiply it. What could overflow is rejected.
"""

from __future__ import annotations

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import need
from proofs_check.kernel.bounds import Values, inputs_of
from proofs_check.kernel.layers import Map
from proofs_check.kernel.relaxations import curve_of, pool_sliding
from proofs_check.kernel.rounding import Array, need_bounded, up

OVERFLOW_LIMIT = 2.0**126  # no float32 overflow below this, whatever the order of summation
UNDERFLOW_ERROR = 2.0**-125  # more than any underflow error of one operation, flushed or not


def float_error(terms: int) -> float:
    """1.25 (n + 4) 2^-24 >= gamma_(n + 2) / (1 - gamma_(n + 2)) of float32, for n < 2^20."""
    need(terms < 2**20, "float32", f"sums of {terms} terms are not covered")
    return 1.25 * (terms + 4) * 2.0**-24


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
    return up(errors[-1] + UNDERFLOW_ERROR).ravel()  # of a last ReLU a subnormal result may be flushed


def _affine(node: c.Node, mapping: Map, values: Values, errors: list[Array]) -> Array:
    """|W| e carried on, plus the float32 rounding of a sum of that many products of computed numbers."""
    inputs = inputs_of(node)
    if isinstance(node, (c.Flatten, c.Slice, c.Concat)):
        return mapping.apply(*(errors[i] for i in inputs), absolute=True)
    input_errors = [errors[i] + UNDERFLOW_ERROR for i in inputs]  # a subnormal operand may count as zero
    magnitudes = [values.magnitude(i) + e for i, e in zip(inputs, input_errors, strict=True)]
    size = mapping.apply(*magnitudes, absolute=True) + mapping.bias_size
    largest = max(float(r.max()) for r in magnitudes)
    underflow = UNDERFLOW_ERROR * (mapping.terms + 4) * (1 + largest) * _stretch(node, mapping, largest)
    need(bool((size <= OVERFLOW_LIMIT).all()), "float32", "a value may overflow float32")
    carried = mapping.apply(*input_errors, absolute=True) * (1 + 2.0**-20)
    return up(up(carried) + up(float_error(mapping.terms) * size + underflow))


def _stretch(node: c.Node, mapping: Map, largest: float) -> float:
    """How much a node's steps may magnify an underflow; rejects parameters whose intermediate results may overflow."""
    if isinstance(node, c.AveragePool2d):
        need(mapping.terms * largest <= OVERFLOW_LIMIT, "float32", "a sum may overflow float32")
    if isinstance(node, c.Divide):
        need(bool((np.abs(node.constant) >= 1 / OVERFLOW_LIMIT).all()), "float32", "a reciprocal may overflow float32")
    if not isinstance(node, c.BatchNorm):
        return 1.0
    variance = node.variance.astype(np.float64) + node.epsilon
    parts = (np.abs(node.scale), np.abs(node.shift), np.abs(node.mean) + largest, variance, 1 / variance)
    scale, _, center, _, inverse = sizes = [float(p.max()) for p in parts]
    need(max(sizes) <= 2.0**40, "float32", "batch norm parameters may overflow float32")
    return (1 + scale) * (1 + center) * (1 + inverse)


def _nonlinear(node: c.Node, values: Values, i: int, error: Array) -> Array:
    """ReLU and max pooling only compare: 1-Lipschitz and exact. LeakyReLU also rounds its slope and a product."""
    need(curve_of(node) is None, "float32", "sigmoid and tanh are not covered")
    if isinstance(node, c.MaxPool2d):
        return pool_sliding(node).windows(error, -np.inf).max(axis=(1, 2))
    if isinstance(node, c.LeakyRelu):
        return up(error + up(2.0**-22 * (values.magnitude(i) + error) + UNDERFLOW_ERROR))
    return error

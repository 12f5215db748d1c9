"""A plain network's logits at one point in Arb, to any precision: the slow fallback of `confirm.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flint import arb, arb_mat, ctx
from numpy.typing import NDArray

from certmix.attacks.functions import function
from certmix.attacks.running_error import columns, output_size, pool_counts, pooled, rearranged
from proofs_check import certificate as c

Balls = NDArray[np.object_]


def logits_in_arb(network: c.PlainNetwork, point: NDArray[np.float32], precision: int) -> list[arb]:
    """Enclosures of the logits (K,), with `precision` bits. Seconds to a minute for a convolutional network."""
    before = ctx.prec
    ctx.prec = precision
    try:
        values: list[Balls] = [_exact(point.reshape(network.input_shape))]
        for node in network.nodes[1:]:
            values.append(_apply(node, [values[i] for i in getattr(node, "inputs", ())]))
        return list(values[-1])
    finally:
        ctx.prec = before


def _exact(array: NDArray[np.float32] | NDArray[np.float64]) -> Balls:
    """The floats as exact balls, in an object array of the same shape."""
    result = np.empty(array.shape, dtype=object)
    result.reshape(-1)[:] = [arb(float(v)) for v in array.ravel()]
    return result


def _matrix(balls: Balls) -> arb_mat:
    return arb_mat(balls.shape[0], balls.shape[1], [arb(v) for v in balls.ravel()])


def _product(weight: NDArray[np.float32], x: Balls) -> Balls:
    """weight (out, n) @ x (n, m)."""
    product = _matrix(_exact(weight)) * _matrix(x)
    result = np.empty((len(weight), x.shape[1]), dtype=object)
    result.reshape(-1)[:] = product.entries()
    return result


def _each(function: Callable[..., arb], x: Balls) -> Balls:
    result = np.empty(x.shape, dtype=object)
    result.reshape(-1)[:] = [function(v) for v in x.ravel()]
    return result


def _apply(node: c.Node, inputs: list[Balls]) -> Balls:
    x = inputs[0]
    match node:
        case c.Linear():
            return _product(node.weight, x[:, None])[:, 0] + _exact(node.bias)
        case c.Conv2d():
            return _conv(node, x)
        case c.BatchNorm():
            per_channel = (-1, *[1] * (x.ndim - 1))
            scale, shift, mean, variance = (
                _exact(p).reshape(per_channel) for p in (node.scale, node.shift, node.mean, node.variance)
            )
            return scale * (x - mean) / _each(lambda v: (v + arb(node.epsilon)).sqrt(), variance) + shift
        case c.Shift():
            return x + _exact(node.constant)
        case c.Scale():
            return x * _exact(node.constant)
        case c.Divide():
            return x / _exact(node.constant)
        case c.Product():
            return np.multiply(*np.split(x, 2))
        case c.MaxPool2d():
            cells = pooled(x, node, arb("-inf"))
            return _each(_largest, _rows(cells))
        case c.AveragePool2d():
            cells = pooled(x, node, arb(0))
            return cells.sum(-1) / _exact(pool_counts(node, x.shape))
        case c.Add():
            return x + inputs[1]
        case _ if (curve := function(node)) is not None:
            return _each(curve, x)
        case _:
            return _each(arb, rearranged(node, inputs))


def _conv(node: c.Conv2d, x: Balls) -> Balls:
    out = len(node.weight) // node.groups
    parts = [
        _product(node.weight[g * out : (g + 1) * out].reshape(out, -1), columns(x, node, g)) for g in range(node.groups)
    ]
    joined = np.concatenate(parts) + _exact(node.bias)[:, None]
    return joined.reshape(len(node.weight), *output_size(x, node))


def _rows(cells: Balls) -> Balls:
    """(…, n) as an array (…) of lists."""
    result = np.empty(cells.shape[:-1], dtype=object)
    result.reshape(-1)[:] = [list(row) for row in cells.reshape(-1, cells.shape[-1])]
    return result


def _largest(cells: list[arb]) -> arb:
    result = cells[0]
    for cell in cells[1:]:
        result = result.max(cell)
    return result

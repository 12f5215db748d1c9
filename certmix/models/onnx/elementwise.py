"""ONNX affine operators and products as plain nodes.

What acts on each cell by itself is given its values laid out alike, and constants to broadcast against them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from certmix.models.onnx import contractions, curves
from certmix.models.onnx.call import Call, Input
from certmix.models.onnx.view import View
from proofs_check import certificate as c


def gemm(call: Call) -> View:
    """alpha * A @ B + beta * C, of which one of A and B is a constant."""
    turned = [call.attribute("transA", 0), call.attribute("transB", 0)]
    if isinstance(call.value(0), np.ndarray):  # the transpose of B' A'
        matrix, view = call.weight(0), call.view(1)
        view = view if turned[1] else view.moved(np.transpose)
        product = _linear(call, view, matrix.T if turned[0] else matrix).moved(np.transpose)
    else:
        view, matrix = call.view(), call.weight(1)
        view = view.moved(np.transpose) if turned[0] else view
        product = _linear(call, view, matrix if turned[1] else matrix.T)
    node = product.node
    if (alpha := call.attribute("alpha", 1.0)) != 1:
        node = call.builder.emit(c.Scale((node,), np.full((1,) * len(call.builder.shapes[node]), alpha, np.float32)))
    beta = np.float32(call.attribute("beta", 1.0))
    product = product.over(node)
    if call.value(2) is None or beta == 0:
        return product
    bias = call.builder.fitted(beta * call.weight(2), product)
    return product.over(call.builder.emit(c.Shift((node,), fit(call, bias, node))))


def matmul(call: Call) -> View:
    """x @ B; A @ x, as the transpose of x transposed times A transposed; of stacks of matrices, and of values, too."""
    first, second = call.value(0), call.value(1)
    if isinstance(first, View) and isinstance(second, np.ndarray) and second.ndim == 2:
        return _linear(call, first, call.weight(1).T)
    if isinstance(second, View) and isinstance(first, np.ndarray) and first.ndim == 2:
        if len(second.shape) == 1:
            return _linear(call, second, call.weight(0))
        columns = second.moved(lambda index: index.swapaxes(-1, -2))
        return _linear(call, columns, call.weight(0)).moved(lambda index: index.swapaxes(-1, -2))
    return contractions.matrices(call)


def _linear(call: Call, view: View, weight: c.Float32Array) -> View:
    """weight (m, n) times every vector along the last axis: of one vector a dense layer, of several a convolution by
    1 x 1 of n channels."""
    if weight.ndim != 2 or view.shape[-1:] != weight.shape[1:]:
        call.fail(f"needs vectors and a matrix, got shapes {view.shape} and {weight.T.shape}")
    places, bias = view.shape[:-1], np.zeros(len(weight), dtype=np.float32)
    if math.prod(places) == 1:
        if view.permuted and view.order is not None:  # a matrix of the same products
            moved = np.empty_like(weight)
            moved[:, view.order] = weight
            view, weight = call.builder.view(view.node), moved
        vector = call.builder.plain(view, weight.shape[1:])
        node = call.builder.emit(c.Linear((vector,), np.ascontiguousarray(weight), bias))
        return call.builder.view(node, (*places, len(weight)))
    grid = places[1:] if len(places) == 3 and places[0] == 1 else (math.prod(places), 1)
    channels_first = view.reshaped((*grid, -1)).moved(lambda index: np.moveaxis(index, -1, 0))
    image = call.builder.plain(channels_first, (weight.shape[1], *grid))
    kernel = np.ascontiguousarray(weight)[:, :, None, None]
    node = call.builder.emit(c.Conv2d((image,), kernel, bias, (1, 1), (0, 0, 0, 0), (1, 1), 1))
    channels_last = call.builder.view(node, (len(weight), *grid)).moved(lambda index: np.moveaxis(index, 0, -1))
    return channels_last.reshaped((*places, len(weight)))


def batch_normalization(call: Call) -> View:
    """Of stored statistics, along the second axis of a value of any rank."""
    if call.attribute("training_mode", 0):
        call.fail("is in training mode: export the model in evaluation mode")
    scale, shift, mean, variance = (call.weight(k) for k in (1, 2, 3, 4))
    epsilon = float(call.attribute("epsilon", np.float32(1e-5)))
    view, plain = call.view(), call.shape()
    if view.shape[:1] != (1,) or not plain:
        call.fail(f"needs a batch axis and a channel axis, got a value of shape {view.shape}")
    if len(plain) not in (1, 3):
        plain = (plain[0], math.prod(plain[1:]), 1)
    node = call.builder.plain(view, plain)
    return call.builder.view(call.builder.emit(c.BatchNorm((node,), scale, shift, mean, variance, epsilon)), view.shape)


def fit(call: Call, constant: np.ndarray, data: int) -> c.Float32Array:
    """`constant`, which must be float32, with as many axes as node `data`'s value, against which it broadcasts."""
    if constant.dtype != np.float32:
        call.fail(f"its constant is {constant.dtype}, needs float32")
    return constant.reshape((1,) * (len(call.builder.shapes[data]) - constant.ndim) + constant.shape)


def _with_constant(call: Call) -> tuple[int, c.Float32Array | None]:
    """The data input of a commutative operator and its constant one, or None if both are data."""
    first, second = call.value(0), call.value(1)
    if isinstance(first, int) and isinstance(second, int):
        return first, None
    data, other = (first, 1) if isinstance(first, int) else (call.data(1), 0)
    return data, fit(call, call.constant(other), data)


def add(call: Call) -> int:
    """Of two values, or of a value and a constant."""
    data, constant = _with_constant(call)
    if constant is None:
        return call.builder.emit(c.Add((data, call.data(1))))
    return call.builder.emit(c.Shift((data,), constant))


def sum_(call: Call) -> int:
    """Of any number of values and constants."""
    return _sum(call, call.inputs)


def mean(call: Call) -> int:
    """Of any number of values and constants; the real quotient."""
    count = np.array([len(call.inputs)], dtype=np.float32)
    return call.builder.emit(c.Divide((_sum(call, call.inputs),), count))


def _sum(call: Call, inputs: Sequence[Input]) -> int:
    values = [v for v in inputs if isinstance(v, int)]
    total = functools.reduce(lambda a, b: call.builder.emit(c.Add((a, b))), values)
    constants = [fit(call, v, total) for v in inputs if isinstance(v, np.ndarray)]
    return functools.reduce(lambda a, v: call.builder.emit(c.Shift((a,), v)), constants, total)


def sub(call: Call) -> int:
    """Of values and constants."""
    data, constant = _with_constant(call)
    if constant is None:
        return call.builder.emit(c.Add((data, negative(call, call.data(1)))))
    if isinstance(call.value(0), int):
        return call.builder.emit(c.Shift((data,), -constant))
    return call.builder.emit(c.Shift((negative(call, data),), constant))


def mul(call: Call) -> int:
    """By a constant; of two values a gate, or else their product."""
    data, constant = _with_constant(call)
    if constant is None:
        return curves.product(call, data, call.data(1))
    if constant.size == 1:
        return curves.scaled(call, data, np.float32(constant.item()))
    return call.builder.emit(c.Scale((data,), constant))


def div(call: Call) -> int:
    """By a constant; or by a value, which must prove to be positive."""
    if not isinstance(call.value(1), np.ndarray):
        return curves.quotient(call, call.data(1))
    return call.builder.emit(c.Divide((call.data(),), fit(call, call.constant(1), call.data())))


def neg(call: Call) -> int:
    """-x."""
    return negative(call, call.data())


def negative(call: Call, data: int) -> int:
    minus_one = np.full((1,) * len(call.builder.shapes[data]), -1, dtype=np.float32)
    return call.builder.emit(c.Scale((data,), minus_one))

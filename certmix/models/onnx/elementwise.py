"""ONNX affine operators and smooth curves as plain nodes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from certmix.models.onnx.call import Call, Value
from proofs_check import certificate as c


def gemm(call: Call) -> int:
    """alpha * x @ B + beta * C."""
    if call.attribute("transA", 0):
        call.fail("transA is not supported")
    matrix = call.weight(1)
    linear = _linear(call, matrix if call.attribute("transB", 0) else matrix.T)
    if (alpha := call.attribute("alpha", 1.0)) != 1:
        linear = call.builder.emit(c.Scale((linear,), np.array([alpha], dtype=np.float32)))
    beta = np.float32(call.attribute("beta", 1.0))
    if call.value(2) is None or beta == 0:
        return linear
    return call.builder.emit(c.Shift((linear,), fit(call, beta * call.weight(2), linear)))


def matmul(call: Call) -> int:
    return _linear(call, call.weight(1).T)


def _linear(call: Call, weight: c.Float32Array) -> int:
    if weight.ndim != 2 or len(call.shape()) != 1:
        call.fail(f"needs a vector and a matrix, got shapes {call.shape()} and {weight.shape}")
    bias = np.zeros(len(weight), dtype=np.float32)
    return call.builder.emit(c.Linear((call.data(),), np.ascontiguousarray(weight), bias))


def batch_normalization(call: Call) -> int:
    if call.attribute("training_mode", 0):
        call.fail("is in training mode: export the model in evaluation mode")
    scale, shift, mean, variance = (call.weight(k) for k in (1, 2, 3, 4))
    epsilon = float(call.attribute("epsilon", np.float32(1e-5)))
    return call.builder.emit(c.BatchNorm((call.data(),), scale, shift, mean, variance, epsilon))


def fit(call: Call, constant: np.ndarray, data: int) -> c.Float32Array:
    """`constant` as float32 with as many axes as node `data`'s value, against which it broadcasts."""
    shape = call.builder.shapes[data]
    rank = len(shape)
    if constant.dtype != np.float32:
        call.fail(f"its constant is {constant.dtype}, needs float32")
    if constant.ndim > rank + 1 or (constant.ndim == rank + 1 and constant.shape[0] != 1):
        call.fail(f"its constant of shape {constant.shape} does not fit a value of shape (batch, {shape})")
    if constant.ndim == rank + 1:
        return constant[0]
    return constant.reshape((1,) * (rank - constant.ndim) + constant.shape)


def _with_constant(call: Call) -> tuple[int, c.Float32Array | None]:
    """The data input of a commutative operator and its constant one, or None if both are data."""
    first, second = call.value(0), call.value(1)
    if isinstance(first, int) and isinstance(second, int):
        return first, None
    data, other = (first, 1) if isinstance(first, int) else (call.data(1), 0)
    return data, fit(call, call.constant(other), data)


def add(call: Call) -> int:
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


def _sum(call: Call, inputs: Sequence[Value]) -> int:
    values = [v for v in inputs if isinstance(v, int)]
    total = functools.reduce(lambda a, b: call.builder.emit(c.Add((a, b))), values)
    constants = [fit(call, v, total) for v in inputs if isinstance(v, np.ndarray)]
    return functools.reduce(lambda a, v: call.builder.emit(c.Shift((a,), v)), constants, total)


def sub(call: Call) -> int:
    data, constant = _with_constant(call)
    if constant is None:
        return call.builder.emit(c.Add((data, negative(call, call.data(1)))))
    if isinstance(call.value(0), int):
        return call.builder.emit(c.Shift((data,), -constant))
    return call.builder.emit(c.Shift((negative(call, data),), constant))


def mul(call: Call) -> int:
    data, constant = _with_constant(call)
    if constant is None:
        call.fail("multiplies two values that depend on the input; only a constant factor is supported")
    return call.builder.emit(c.Scale((data,), constant))


def div(call: Call) -> int:
    if not isinstance(call.value(1), np.ndarray):
        call.fail("divides by a value that depends on the input; only a constant divisor is supported")
    return call.builder.emit(c.Divide((call.data(),), fit(call, call.constant(1), call.data())))


def neg(call: Call) -> int:
    return negative(call, call.data())


def negative(call: Call, data: int) -> int:
    minus_one = np.full((1,) * len(call.builder.shapes[data]), -1, dtype=np.float32)
    return call.builder.emit(c.Scale((data,), minus_one))


def sigmoid(call: Call) -> int:
    return call.builder.emit(c.Sigmoid((call.data(),)))


def tanh(call: Call) -> int:
    return call.builder.emit(c.Tanh((call.data(),)))

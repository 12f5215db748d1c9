"""ONNX reductions over axes as plain nodes: sums and means by pooling and ones, extremes pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from certmix.models.onnx.call import Call
from certmix.models.onnx.elementwise import negative
from certmix.models.onnx.piecewise import larger
from certmix.models.onnx.windows import mean_over
from proofs_check import certificate as c


def reduce_mean(call: Call) -> int:
    return _reduced(call, lambda data, axes: _mean(call, data, axes))


def reduce_sum(call: Call) -> int:
    return _reduced(call, lambda data, axes: _sum(call, data, axes))


def reduce_max(call: Call) -> int:
    return _reduced(call, lambda data, axes: _max(call, data, axes))


def reduce_min(call: Call) -> int:
    return _reduced(call, lambda data, axes: negative(call, _max(call, negative(call, data), axes)))


def _reduced(call: Call, reduction: Callable[[int, list[int]], int]) -> int:
    """`reduction` of the value over its axes (of the value without the batch axis), which keep length 1; then they are
    dropped where that is asked for."""
    shape = call.shape()
    given = call.integers(1, "axes")
    if not given and call.attribute("noop_with_empty_axes", 0):
        return call.data()
    axes = sorted({axis % (len(shape) + 1) for axis in given or range(len(shape) + 1)})
    if axes[0] == 0:
        call.fail("reduces over the batch axis")
    result = reduction(call.data(), [axis - 1 for axis in axes])
    if call.attribute("keepdims", 1):
        return result
    rest = tuple(n for axis, n in enumerate(shape, start=1) if axis not in axes)
    if rest != (math.prod(shape_of(call, result)),):
        call.fail(f"keepdims=0 leaves a value of shape (batch, {rest}), only (batch, features) is supported")
    return call.builder.emit(c.Flatten((result,)))


def shape_of(call: Call, node: int) -> tuple[int, ...]:
    return call.builder.shapes[node]


def _spatial(call: Call, data: int, axes: list[int]) -> tuple[int, int]:
    """The window of an average pooling over those of the axes that are height or width of an image."""
    shape = shape_of(call, data)
    if len(shape) not in (1, 3):
        call.fail(f"needs a vector or an image, got a value of shape {shape}")
    return (shape[1] if 1 in axes else 1, shape[2] if 2 in axes else 1) if len(shape) == 3 else (1, 1)


def _mean(call: Call, data: int, axes: list[int]) -> int:
    kernel, count = _spatial(call, data, axes), shape_of(call, data)[0]
    if kernel != (1, 1):
        data = mean_over(call, data, kernel)
    if 0 not in axes:
        return data
    return call.builder.emit(c.Divide((_sum_of_channels(call, data),), np.array([count], dtype=np.float32)))


def _sum(call: Call, data: int, axes: list[int]) -> int:
    kernel = _spatial(call, data, axes)
    if kernel != (1, 1):
        count = np.array([math.prod(kernel)], dtype=np.float32)
        data = call.builder.emit(c.Scale((mean_over(call, data, kernel),), count))
    return _sum_of_channels(call, data) if 0 in axes else data


def _sum_of_channels(call: Call, data: int) -> int:
    shape, bias = shape_of(call, data), np.zeros(1, dtype=np.float32)
    if len(shape) == 1:
        return call.builder.emit(c.Linear((data,), np.ones((1, *shape), dtype=np.float32), bias))
    ones = np.ones((1, shape[0], 1, 1), dtype=np.float32)
    return call.builder.emit(c.Conv2d((data,), ones, bias, (1, 1), (0, 0, 0, 0), (1, 1), 1))


def _max(call: Call, data: int, axes: list[int]) -> int:
    kernel = _spatial(call, data, axes)
    if kernel != (1, 1):
        data = call.builder.emit(c.MaxPool2d((data,), kernel, (1, 1), (0, 0, 0, 0)))
    while 0 in axes and (shape := shape_of(call, data))[0] > 1:
        halves = [_channels(call, data, start, shape) for start in (0, shape[0] // 2)]
        data = larger(call, *halves)
    return data


def _channels(call: Call, data: int, start: int, shape: tuple[int, ...]) -> int:
    """Half of the channels, rounded up: of an odd number both halves hold the middle one."""
    stop = start + -(-shape[0] // 2)
    first, rest = (start, *(0 for _ in shape[1:])), shape[1:]
    return call.builder.emit(c.Slice((data,), first, (stop, *rest), (1,) * len(shape)))

"""ONNX reductions over axes as plain nodes: sums and means by pooling and ones, extremes pair by pair."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from certmix.models.onnx.call import Call
from certmix.models.onnx.elementwise import negative
from certmix.models.onnx.piecewise import larger, smaller
from certmix.models.onnx.shapes import vector
from certmix.models.onnx.sorting import taken
from certmix.models.onnx.view import View
from certmix.models.onnx.windows import mean_of_channels, mean_over, sum_of_channels
from proofs_check import certificate as c


def reduce_mean(call: Call) -> View:
    """Over any axes but the batch axis."""
    return _reduced(call, lambda data, axes: _mean(call, data, axes))


def reduce_sum(call: Call) -> View:
    """Over any axes but the batch axis."""
    return _reduced(call, lambda data, axes: _sum(call, data, axes))


def reduce_max(call: Call) -> View:
    """Of pairs, one ReLU, which the smallest of the same pairs shares."""
    return _reduced(call, lambda data, axes: _max(call, data, axes), larger)


def reduce_min(call: Call) -> View:
    """Over any axes but the batch axis."""
    return _reduced(call, lambda data, axes: negative(call, _max(call, negative(call, data), axes)), smaller)


def reduce_l1(call: Call) -> View:
    """The sum of |x|."""
    return reduce_sum(_each(call, lambda data: call.builder.emit(c.Abs((data,)))))


def reduce_sum_square(call: Call) -> View:
    """The sum of x^2."""
    return reduce_sum(_each(call, lambda data: call.builder.emit(c.Square((data,)))))


def reduce_l2(call: Call) -> View:
    """The root of the sum of x^2."""
    total = call.builder.whole(reduce_sum_square(call))
    return total.over(call.builder.emit(c.SquareRoot((total.node,))))


def _each(call: Call, function: Callable[[int], int]) -> Call:
    """The call with a function of every cell of its input."""
    view = call.builder.whole(call.view())
    return dataclasses.replace(call, inputs=(view.over(function(view.node)), *call.inputs[1:]))


def _reduced(
    call: Call,
    reduction: Callable[[int, list[int]], int],
    of_pairs: Callable[[Call, int, int], int] | None = None,
) -> View:
    """`reduction` of a vector or image over its axes, which keep length 1; then they are dropped where that is asked
    for. Of any other value what is kept becomes channels, and what is reduced height and width."""
    view, builder = call.view(), call.builder
    given = call.integers(1, "axes")
    if not given and call.attribute("noop_with_empty_axes", 0):
        return view
    axes = sorted({axis % len(view.shape) for axis in given or range(len(view.shape))})
    if 0 in axes and builder.any_batch:
        call.fail("reduces over the batch axis: export with a batch of 1, or reduce over other axes")
    keep = [axis for axis in range(len(view.shape)) if axis not in axes]
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(view.shape))
    shape = shape if call.attribute("keepdims", 1) else tuple(view.shape[axis] for axis in keep)
    if of_pairs is not None and len(axes) == 1 and view.shape[axes[0]] == 2:
        pair = [taken(call, view, axes[0], place) for place in (1, 0)]
        return vector(call, builder.view(of_pairs(call, pair[0], pair[1]), shape))
    if builder.untouched(view) and axes and axes[0] > 0:
        return vector(call, builder.view(reduction(view.node, [axis - 1 for axis in axes]), shape))
    lengths = [view.shape[axis] for axis in axes if view.shape[axis] > 1]
    size = (lengths[0], lengths[1]) if len(lengths) == 2 else (math.prod(lengths), 1)
    last = view.moved(lambda index: index.transpose(*keep, *axes))
    image = builder.plain(last, (math.prod(view.shape) // math.prod(size), *size))
    return vector(call, builder.view(reduction(image, [1, 2]), shape))


def shape_of(call: Call, node: int) -> tuple[int, ...]:
    return call.builder.shapes[node]


def _spatial(call: Call, data: int, axes: list[int]) -> tuple[int, int]:
    """The window of an average pooling over those of the axes that are height or width of an image."""
    shape = shape_of(call, data)
    if len(shape) not in (1, 3):
        call.fail(f"needs a vector or an image, got a value of shape {shape}")
    return (shape[1] if 1 in axes else 1, shape[2] if 2 in axes else 1) if len(shape) == 3 else (1, 1)


def _mean(call: Call, data: int, axes: list[int]) -> int:
    kernel = _spatial(call, data, axes)
    if kernel != (1, 1):
        data = mean_over(call, data, kernel)
    if 0 not in axes:
        return data
    return mean_of_channels(call, data)


def _sum(call: Call, data: int, axes: list[int]) -> int:
    kernel = _spatial(call, data, axes)
    if kernel != (1, 1):
        count = np.array([math.prod(kernel)], dtype=np.float32)
        data = call.builder.emit(c.Scale((mean_over(call, data, kernel),), count))
    return sum_of_channels(call, data) if 0 in axes else data


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

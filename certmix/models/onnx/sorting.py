"""ONNX operators that sort as plain nodes: networks of comparators, each one ReLU that the larger and the smaller value
share, so that what is a permutation piece by piece keeps its constant, 1 in l2."""

from __future__ import annotations

import dataclasses

import numpy as np

from certmix.models.onnx.call import Call
from certmix.models.onnx.piecewise import larger, smaller
from certmix.models.onnx.shapes import concat
from certmix.models.onnx.view import Index, View, natural

MAX_SORTED = 256  # values of a group


def top_k(call: Call) -> tuple[View, ...]:
    """The k largest or smallest, in order; where they stood is not told."""
    view = call.view()
    axis = int(call.attribute("axis", -1)) % len(view.shape)
    given = call.integers(1, "k")
    count, length = (given or [0])[0], view.shape[axis]
    if axis == 0 and call.builder.any_batch:
        call.fail("sorts along the batch axis")
    if not 1 <= count <= length <= MAX_SORTED:
        call.fail(f"takes {count} of {length} values: at most {MAX_SORTED} can be sorted")
    rising = ordered(call, view, axis)
    places = np.arange(length)[::-1] if call.attribute("largest", 1) else np.arange(length)
    return (rising.moved(lambda index: index.take(places[:count], axis)),)


def ordered(call: Call, view: View, axis: int) -> View:
    """The same values in rising order along an axis."""
    for low, high in comparators(view.shape[axis]):
        rest = np.setdiff1d(np.arange(view.shape[axis]), [low, high])
        order = np.argsort(np.concatenate([low, high, rest]))
        first, second = (taken(call, view, axis, places) for places in (high, low))
        shape = view.moved(lambda index, places=low: index.take(places, axis)).shape
        parts = [call.builder.view(f(call, first, second), shape) for f in (smaller, larger)]
        if len(rest):
            parts.append(view.moved(lambda index, places=rest: index.take(places, axis)))
        joined = concat(dataclasses.replace(call, inputs=tuple(parts), attributes={"axis": axis}))
        view = joined.moved(lambda index, order=order: index.take(order, axis))
    return view


def taken(call: Call, view: View, axis: int, places: Index | int) -> int:
    """A node with the values at these places along an axis. Images whose channels stand in groups, on an axis of their
    own, stay images."""
    part = view.moved(lambda index: index.take(places, axis))
    shape = part.shape
    if len(shape) == 5:
        shape = (shape[0], shape[1] * shape[2], *shape[3:])
    return call.builder.plain(part, natural(shape))


def comparators(count: int) -> list[tuple[Index, Index]]:
    """Batcher's merge exchange: stage by stage, which places take the smaller and which the larger of two values."""
    stages: list[tuple[Index, Index]] = []
    largest = step = (1 << (count - 1).bit_length()) // 2
    while step > 0:
        block, shift, distance = largest, 0, step
        while True:
            low = np.arange(count - distance, dtype=np.int64)
            low = low[(low & step) == shift]
            stages.append((low, low + distance))
            if block == step:
                break
            block, shift, distance = block // 2, step, block - step
        step //= 2
    return stages

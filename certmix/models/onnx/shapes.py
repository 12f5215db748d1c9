"""ONNX operators that move, cut or join values, as plain nodes."""

from __future__ import annotations

import math

import numpy as np

from certmix.models.onnx.call import Call, Shape
from proofs_check import certificate as c


def _reshaped(call: Call, full: Shape) -> int:
    """Input 0 with shape `full`, the batch axis included: the same, or flattened to a vector."""
    shape = call.shape()
    if full == (1, *shape):
        return call.data()
    if full == (1, math.prod(shape)):
        return call.builder.emit(c.Flatten((call.data(),)))
    return call.fail(f"from shape (batch, {shape}) to {full} is not supported, only flattening to (batch, features)")


def flatten(call: Call) -> int:
    full = (1, *call.shape())
    axis = int(call.attribute("axis", 1))
    if axis not in (1, 1 - len(full)):
        call.fail(f"axis {axis} is not supported, only 1")
    return _reshaped(call, (1, math.prod(full)))


def reshape(call: Call) -> int:
    full = (1, *call.shape())
    target = call.integers(1, "shape") or call.fail("its shape is missing")
    if not call.attribute("allowzero", 0):
        target = [full[k] if n == 0 and k < len(full) else n for k, n in enumerate(target)]
    if -1 in target:
        given_size = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = math.prod(full) // max(given_size, 1)
    return _reshaped(call, tuple(target))


def squeeze(call: Call) -> int:
    full = (1, *call.shape())
    axes = call.integers(1, "axes") or call.fail("needs axes")
    gone = {axis % len(full) for axis in axes}
    if any(full[axis] != 1 for axis in gone):
        call.fail(f"axes {axes} of shape {full} are not all 1")
    return _reshaped(call, tuple(n for axis, n in enumerate(full) if axis not in gone))


def transpose(call: Call) -> int:
    full = (1, *call.shape())
    order = call.attribute("perm", tuple(reversed(range(len(full)))))
    moved = [axis for axis in order if full[axis] != 1]
    if moved != sorted(moved):
        call.fail(f"permuting axes {tuple(order)} is not supported: export the model with channels first")
    return _reshaped(call, tuple(full[axis] for axis in order))


def pad(call: Call) -> int:
    """Constant padding; negative amounts crop."""
    if call.attribute("mode", "constant") != "constant":
        call.fail(f"mode {call.attribute('mode', '')!r} is not supported, only 'constant'")
    rank = len(call.shape()) + 1
    amounts = call.integers(1, "pads") or call.fail("its pads are missing")
    axes = [axis % rank for axis in call.integers(3, "axes") or range(rank)]
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = amounts[k], amounts[k + len(axes)]
    if before[0] or after[0]:
        call.fail("pads the batch axis")
    value = call.attribute("value", 0.0) if call.value(2) is None else call.constant(2).item()
    return _padded(call, before[1:], after[1:], float(value))


def _padded(call: Call, before: list[int], after: list[int], value: float) -> int:
    data, shape = call.data(), call.shape()
    if min(before + after) < 0:
        start = tuple(max(-n, 0) for n in before)
        stop = tuple(size - max(-n, 0) for size, n in zip(shape, after, strict=True))
        data = call.builder.emit(c.Slice((data,), start, stop, (1,) * len(shape)))
    if max(before + after) <= 0:
        return data
    grow = tuple(max(n, 0) for n in before), tuple(max(n, 0) for n in after)
    return call.builder.emit(c.Pad((data,), *grow, value))


def slice_(call: Call) -> int:
    full = (1, *call.shape())
    starts, stops = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or stops is None:
        call.fail("its starts or ends are missing")
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    ranges = [(0, n, 1) for n in full]
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        if step < 1:
            call.fail(f"step {step} is not supported, only steps >= 1")
        ranges[axis % len(full)] = slice(start, stop, step).indices(full[axis % len(full)])
    if ranges[0] != (0, 1, ranges[0][2]):
        call.fail("cuts the batch axis")
    start, stop, step = (tuple(part) for part in zip(*ranges[1:], strict=True))
    return call.builder.emit(c.Slice((call.data(),), start, stop, step))


def concat(call: Call) -> int:
    parts = tuple(call.data(k) for k in range(len(call.inputs)))
    axis = int(call.attribute("axis", 1)) % (len(call.shape()) + 1)
    if axis != 1:
        call.fail(f"axis {axis} is not supported, only 1 (channels)")
    return call.builder.emit(c.Concat(parts))


def shape(call: Call) -> np.ndarray:
    full = np.array((1, *call.shape()), dtype=np.int64)
    return full[slice(call.attribute("start", 0), call.attribute("end", None))]


def identity(call: Call) -> int:
    return call.data()


def dropout(call: Call) -> int:
    if call.value(2) is not None and call.constant(2).any():
        call.fail("is in training mode: export the model in evaluation mode")
    return call.data()


def cast(call: Call) -> int:
    if call.attribute("to", 0) != 1:
        call.fail("only a cast to float32 is supported")
    return call.data()

"""ONNX piecewise-linear operators as plain nodes: ReLUs with affine maps around them, exact in real arithmetic.

Written so that backward bounds lose nothing: clipping at two ends is one ReLU after another (its derivative stays in
[0, 1]), and where several terms depend on one ReLU, their coefficients are added up before it is relaxed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from certmix.models.onnx.call import Call
from certmix.models.onnx.elementwise import fit, negative
from proofs_check import certificate as c

LARGEST = float(np.finfo(np.float32).max)  # as an end of a Clip: none


def relu(call: Call) -> int:
    """max(x, 0)."""
    return call.builder.emit(c.Relu((call.data(),)))


def leaky_relu(call: Call) -> int:
    """x where x >= 0, else alpha * x, for any alpha."""
    slope = float(call.attribute("alpha", np.float32(0.01)))
    return _leaky(call, slope, np.array([slope], dtype=np.float32))


def prelu(call: Call) -> int:
    """x where x >= 0, else slope * x; a slope for all or for each channel or cell."""
    slopes = fit(call, call.constant(1), call.data())
    return _leaky(call, float(slopes.flat[0]) if np.all(slopes == slopes.flat[0]) else -1.0, slopes)


def _leaky(call: Call, slope: float, slopes: c.Float32Array) -> int:
    """slope: the one of all, if it lies in [0, 1]; else relu(x) + slopes x - slopes relu(x)."""
    data, emit = call.data(), call.builder.emit
    if 0 <= slope <= 1:
        return emit(c.LeakyRelu((data,), slope))
    positive = emit(c.Relu((data,)))
    scaled = emit(c.Scale((data,), slopes)), emit(c.Scale((positive,), -slopes))
    return emit(c.Add((emit(c.Add((positive, scaled[0]))), scaled[1])))


def clip(call: Call) -> int:
    """min(max(x, least), most); either end may be missing."""
    ends: list[c.Float32Array | None] = []
    for k, name in ((1, "min"), (2, "max")):
        given = call.attributes.get(name) if call.value(k) is None else call.constant(k)
        end = None if given is None else np.asarray(given, dtype=np.float32)
        if end is not None and np.isnan(end).any():
            call.fail(f"its {name} is NaN")
        ends.append(None if end is None or (np.abs(end) >= LARGEST).all() else end)
    least, most = ends
    data = call.data()
    data = data if least is None else at_least(call, data, fit(call, least, data))
    return data if most is None else at_most(call, data, fit(call, most, data))


def hard_sigmoid(call: Call) -> int:
    """alpha x + beta, clipped to [0, 1]."""
    factor, offset = (np.float32(call.attribute(n, np.float32(d))) for n, d in (("alpha", 0.2), ("beta", 0.5)))
    emit = call.builder.emit
    data = emit(c.Shift((emit(c.Scale((call.data(),), np.array([factor]))),), np.array([offset])))
    zero, one = np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)
    return at_most(call, at_least(call, data, zero), one)


def at_least(call: Call, data: int, least: c.Float32Array) -> int:
    """max(x, least) = least + relu(x - least)."""
    return _shifted(call, call.builder.emit(c.Relu((_shifted(call, data, -least),))), least)


def at_most(call: Call, data: int, most: c.Float32Array) -> int:
    """min(x, most) = most - relu(most - x)."""
    above = call.builder.emit(c.Relu((_shifted(call, negative(call, data), most),)))
    return _shifted(call, negative(call, above), most)


def _shifted(call: Call, data: int, constant: c.Float32Array) -> int:
    return call.builder.emit(c.Shift((data,), constant)) if constant.any() else data


def maximum(call: Call) -> int:
    """Of any number of values and constants, pair by pair: b + relu(a - b)."""
    return _extreme(call, np.maximum, at_least, larger)


def minimum(call: Call) -> int:
    """Of any number of values and constants, pair by pair."""
    return _extreme(call, np.minimum, at_most, smaller)


def _extreme(
    call: Call,
    of_constants: np.ufunc,
    with_constant: Callable[[Call, int, c.Float32Array], int],
    of_values: Callable[[Call, int, int], int],
) -> int:
    """Of any number of values, then of the constants."""
    values = [v for v in call.inputs if isinstance(v, int)]
    result = functools.reduce(lambda a, b: of_values(call, a, b), values)
    constants = [fit(call, v, result) for v in call.inputs if isinstance(v, np.ndarray)]
    if not constants:
        return result
    if any(np.isnan(v).any() for v in constants):
        call.fail("one of its constants holds NaN")
    return with_constant(call, result, functools.reduce(of_constants, constants))


def larger(call: Call, a: int, b: int) -> int:
    """max(a, b) = b + relu(a - b)."""
    emit = call.builder.emit
    return emit(c.Add((b, emit(c.Relu((emit(c.Add((a, negative(call, b)))),))))))


def smaller(call: Call, a: int, b: int) -> int:
    """min(a, b) = a - relu(a - b), with the ReLU of max(a, b): where both are asked for, they share it."""
    emit = call.builder.emit
    return emit(c.Add((a, negative(call, emit(c.Relu((emit(c.Add((a, negative(call, b)))),)))))))


def where(call: Call) -> int:
    """Of a constant condition: both sides times 0 or 1, added up. Of the larger or smaller of two values, of x and a
    multiple of it by x's sign: Max, Min, Abs, LeakyRelu. Softplus above torch's threshold is Softplus."""
    condition, emit = call.constant(0).astype(bool), call.builder.emit
    parts: list[int] = []
    constants: list[tuple[np.ndarray, np.ndarray]] = []
    for k, mask in ((1, condition), (2, ~condition)):
        side = call.value(k)
        if isinstance(side, int):
            parts.append(emit(c.Scale((side,), fit(call, mask.astype(np.float32), side))))
        else:
            constants.append((mask, call.weight(k)))
    total = functools.reduce(lambda a, b: emit(c.Add((a, b))), parts)
    for mask, value in constants:
        total = _shifted(call, total, fit(call, np.where(mask, value, np.float32(0)), total))
    return total

"""ONNX operators that multiply or divide values: normalisation by what the input itself is, softmax, quotients.

In h they are bounded as far as products of bounded values are: well on small balls, hardly on large ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from certmix.formatting import exact
from certmix.models.onnx.call import Call
from certmix.models.onnx.curves import multiplied
from certmix.models.onnx.elementwise import fit, negative
from certmix.models.onnx.view import View
from certmix.models.onnx.windows import mean_of_channels, sum_of_channels
from proofs_check import certificate as c

MAX_TERMS = 2**16  # exponentials of one softmax


def mish(call: Call) -> int:
    """x tanh(softplus(x))."""
    gate = call.builder.emit(c.Tanh((call.builder.emit(c.Softplus((call.data(),))),)))
    return multiplied(call, call.data(), gate)


def softsign(call: Call) -> int:
    """x / (1 + |x|)."""
    size = call.builder.emit(c.Shift((call.builder.emit(c.Abs((call.data(),))),), np.ones(1, dtype=np.float32)))
    return multiplied(call, call.data(), call.builder.emit(c.InversePower((size,), 1.0)))


# ---------------------------------------------------------------- softmax


def softmax(call: Call) -> View:
    """1 / (1 + the sum of exp(z_j - z_i) over all j other than i)."""
    view, builder = call.view(), call.builder
    rank = len(view.shape)
    axis = int(call.attribute("axis", -1 if call.opset >= 13 else 1)) % max(rank, 1)
    kept = rank if call.opset >= 13 else axis  # older ones are over all axes from there on
    order = [*(k for k in range(rank) if k != axis), axis] if kept == rank else list(range(rank))
    length = view.shape[axis] if kept == rank else math.prod(view.shape[axis:])
    rows = view.moved(lambda index: index.transpose(order)).reshaped((math.prod(view.shape) // length, length))
    if length == 1:
        call.fail("is over one number, which is always 1: leave it out")
    if math.prod(rows.shape) * (length - 1) > MAX_TERMS:
        call.fail(
            f"compares {length} numbers {rows.shape[0]} times, more than {MAX_TERMS} pairs: take fewer tokens or heads"
        )
    others = np.array([[j for j in range(length) if j != i] for i in range(length)]).T  # (j, i)
    shape = (length - 1, rows.shape[0] * length, 1)
    first = builder.plain(rows.moved(lambda index: np.moveaxis(index[:, others], 1, 0).reshape(shape)), shape)
    second = rows.moved(lambda index: np.broadcast_to(index.ravel()[None, :, None], shape))
    gaps = builder.emit(c.Add((first, negative(call, builder.plain(second, shape)))))
    total = sum_of_channels(call, builder.emit(c.Exp((gaps,))))
    one = np.ones((1, 1, 1), dtype=np.float32)
    share = builder.emit(c.InversePower((builder.emit(c.Shift((total,), one)),), 1.0))
    back = builder.view(share, tuple(view.shape[k] for k in order))
    return back.moved(lambda index: index.transpose([order.index(k) for k in range(rank)]))


# ---------------------------------------------------------------- normalisation


def local_response_normalization(call: Call) -> int:
    """x / (bias + alpha / size times the sum of x^2 over `size` neighbouring channels)^beta."""
    data, channels, emit = call.data(), call.image()[0], call.builder.emit
    size, beta = int(call.attribute("size", 0)), float(call.attribute("beta", np.float32(0.75)))
    alpha, bias = np.float32(call.attribute("alpha", np.float32(1e-4))), np.float32(call.attribute("bias", 1.0))
    if size < 1 or not beta > 0:
        call.fail(f"has size {size} and beta {exact(beta)}: needs some channels, and an exponent > 0")
    apart = np.arange(channels)[None, :] - np.arange(channels)[:, None]  # from the channel normalised
    near = (-((size - 1) // 2) <= apart) & (apart <= size // 2)
    kernel = (near * np.float32(alpha / np.float32(size)))[:, :, None, None].astype(np.float32)
    level, square = np.full(channels, bias, dtype=np.float32), emit(c.Square((data,)))
    total = emit(c.Conv2d((square,), kernel, level, (1, 1), (0, 0, 0, 0), (1, 1), 1))
    return multiplied(call, data, emit(c.InversePower((total,), beta)))


def layer_normalization(call: Call) -> View:
    """Over the axes from `axis` on; then scaled and shifted."""
    view = call.view()
    axis = int(call.attribute("axis", -1)) % len(view.shape)
    normal = _normalized(call, view, list(range(axis, len(view.shape))), 1e-5, centred=True)
    return _scaled(call, normal, view.shape[axis:], 1, 2)


def rms_normalization(call: Call) -> View:
    """x / sqrt(mean of squares + epsilon) over the axes from `axis` on; then scaled."""
    view = call.view()
    axis = int(call.attribute("axis", -1)) % len(view.shape)
    normal = _normalized(call, view, list(range(axis, len(view.shape))), 1e-5, centred=False)
    return _scaled(call, normal, view.shape[axis:], 1, None)


def instance_normalization(call: Call) -> View:
    """Of each channel by itself; then scaled and shifted."""
    view = _channelled(call)
    normal = _normalized(call, view, list(range(2, len(view.shape))), 1e-5, centred=True)
    return _scaled(call, normal, (view.shape[1], *(1 for _ in view.shape[2:])), 1, 2)


def group_normalization(call: Call) -> View:
    """Of each group of channels; then scaled and shifted channel by channel."""
    view, groups = _channelled(call), int(call.attribute("num_groups", 1))
    if view.shape[1] % groups:
        call.fail(f"has {view.shape[1]} channels in {groups} groups")
    parts = view.reshaped((1, groups, math.prod(view.shape) // groups))
    normal = _normalized(call, parts, [2], 1e-5, centred=True)
    return _scaled(call, normal.reshaped(view.shape), (view.shape[1], *(1 for _ in view.shape[2:])), 1, 2)


def _channelled(call: Call) -> View:
    view = call.view()
    return view if len(view.shape) > 2 else call.fail(f"needs channels and places, got a value of shape {view.shape}")


def _normalized(call: Call, view: View, axes: Sequence[int], epsilon: float, *, centred: bool) -> View:
    """x less its mean over these axes, divided by the root of the mean of its squares and epsilon."""
    builder = call.builder
    offset = np.full((1, 1, 1), call.attribute("epsilon", epsilon), dtype=np.float32)
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    order = [*axes, *kept]
    size = math.prod(view.shape[axis] for axis in axes)
    shape = (size, math.prod(view.shape) // size, 1)
    x = builder.plain(view.moved(lambda index: index.transpose(order)), shape)
    if centred:
        x = builder.emit(c.Add((x, negative(call, _along(call, mean_of_channels(call, x), size)))))
    variance = mean_of_channels(call, builder.emit(c.Square((x,))))
    factor = builder.emit(c.InversePower((builder.emit(c.Shift((variance,), offset)),), 0.5))
    normal = builder.view(multiplied(call, x, _along(call, factor, size)), tuple(view.shape[k] for k in order))
    return normal.moved(lambda index: index.transpose([order.index(k) for k in range(len(order))]))


def _along(call: Call, node: int, size: int) -> int:
    """One channel, as many times."""
    shape = (size, *call.builder.shapes[node][1:])
    return call.builder.plain(call.builder.view(node, shape[1:]).broadcast(shape), shape)


def _scaled(call: Call, view: View, shape: tuple[int, ...], scale: int, shift: int | None) -> View:
    """Times constant input `scale`, plus constant input `shift`, each of this shape."""
    for k, kind in ((scale, c.Scale), (shift, c.Shift)):
        if k is not None and call.value(k) is not None:
            view = call.builder.whole(view)
            constant = call.builder.fitted(call.weight(k).reshape(shape), view)
            view = view.over(call.builder.emit(kind((view.node,), fit(call, constant, view.node))))
    return view

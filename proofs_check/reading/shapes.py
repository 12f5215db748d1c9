"""Shape rules of the plain network's nodes: what fits, and the shape that results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import wellformed

Shape = tuple[int, ...]
MAX_ELEMENTS = 2**26
MAX_TAPS = 2**27  # cells of all windows together
MAX_STRIDE = 16  # beyond the length it moves along


def windows(shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, place: str) -> Shape:
    """Number of windows along height and width of an image (channels, height, width); padding is (top, left, bottom,
    right). Ensures: the padded image and all windows together are of bounded size."""
    result: list[int] = []
    cells = shape[0]  # of the padded image
    ends = zip(padding[:2], shape[1:], padding[2:], strict=True)
    for (before, length, after), k, s, d in zip(ends, kernel, stride, dilation, strict=True):
        wellformed(min(k, s, d) >= 1, place, "kernel, stride, dilation must be >= 1")
        wellformed(min(before, after) >= 0, place, f"padding must be >= 0, got {padding}")
        padded = before + length + after
        span = padded - d * (k - 1) - 1
        wellformed(span >= 0, place, f"window {kernel} is larger than the padded input {shape}")
        _need_stride(max(s, d), padded, place)
        result.append(span // s + 1)
        cells *= padded
    wellformed(cells <= MAX_ELEMENTS, place, f"input {shape} padded by {padding} is too large")
    taps = shape[0] * math.prod(kernel) * math.prod(result)
    wellformed(taps <= MAX_TAPS, place, f"windows {kernel} over {shape} hold {taps} cells, more than {MAX_TAPS}")
    return tuple(result)


def _need_stride(stride: int, length: int, place: str) -> None:
    """A stride, step or dilation far beyond the length changes nothing, but a backward pass may reach that far."""
    wellformed(stride <= length + MAX_STRIDE, place, f"stride or dilation {stride} is too large for {length} cells")


def output_shape(node: c.Node, inputs: Sequence[Shape], place: str) -> Shape:
    """Shape of `node`'s value given its inputs' shapes. Raises MalformedError where they do not fit."""
    shape = _output_shape(node, inputs, place)
    wellformed(math.prod(shape) <= MAX_ELEMENTS, place, f"value of shape {shape} is too large")
    return shape


def _output_shape(node: c.Node, inputs: Sequence[Shape], place: str) -> Shape:
    wellformed(inputs or isinstance(node, c.Input), place, "needs an input")
    shape = node.shape if isinstance(node, c.Input) else inputs[0]
    match node:
        case c.Input():
            fits = len(shape) in (1, 3) and min(shape) >= 1
            wellformed(fits, place, f"input shape must be (features,) or (channels, height, width), got {shape}")
        case c.Linear():
            fits = len(shape) == node.bias.ndim == 1 and node.weight.shape == node.bias.shape + shape
            wellformed(fits, place, f"weight {node.weight.shape}, bias {node.bias.shape} do not fit a vector {shape}")
            return node.bias.shape
        case c.Conv2d():
            return _conv_shape(node, shape, place)
        case c.BatchNorm():
            parts = (node.scale, node.shift, node.mean, node.variance)
            wellformed(all(p.shape == shape[:1] for p in parts), place, f"parameters must have shape {shape[:1]}")
            wellformed(0 < node.epsilon < math.inf, place, f"epsilon must be > 0, got {node.epsilon}")
            wellformed((node.variance >= 0).all(), place, "variance must be >= 0")
        case c.Shift() | c.Scale() | c.Divide():
            own = (1,) * (len(shape) - node.constant.ndim) + node.constant.shape
            fits = len(own) == len(shape) and all(n in (1, m) for n, m in zip(own, shape, strict=True))
            wellformed(fits, place, f"constant {node.constant.shape} does not fit {shape}")
            wellformed(not isinstance(node, c.Divide) or np.all(node.constant != 0), place, "division by zero")
        case c.LeakyRelu():
            wellformed(0 <= node.slope <= 1, place, f"slope must lie in [0, 1], got {node.slope}")
        case c.MaxPool2d() | c.AveragePool2d():
            return _pool_shape(node, shape, place)
        case c.Pad():
            wellformed(len(node.before) == len(node.after) == len(shape), place, "one pad per axis and side")
            wellformed(min(node.before + node.after) >= 0, place, "pads must be >= 0")
            return tuple(map(sum, zip(node.before, shape, node.after, strict=True)))
        case c.Slice():
            return _slice_shape(node, shape, place)
        case c.Concat():
            wellformed(len({s[1:] for s in inputs}) == 1, place, f"shapes differ beyond axis 0: {inputs}")
            return (sum(s[0] for s in inputs), *shape[1:])
        case c.Add():
            wellformed(shape == inputs[1], place, f"shapes differ: {inputs}")
        case c.Relu() | c.Sigmoid() | c.Tanh():
            pass
        case _:  # Flatten
            return (math.prod(shape),)
    return shape


def _conv_shape(node: c.Conv2d, shape: Shape, place: str) -> Shape:
    wellformed(node.weight.ndim == 4 and len(shape) == 3, place, "conv2d needs a 4-axis weight and a 3-axis input")
    out, per_group, *kernel = node.weight.shape
    wellformed(node.groups >= 1 and out % node.groups == 0, place, f"groups {node.groups} does not divide {out}")
    wellformed(per_group * node.groups == shape[0], place, f"weight {node.weight.shape} does not fit {shape}")
    wellformed(node.bias.shape == (out,), place, f"bias {node.bias.shape} does not fit")
    return (out, *windows(shape, tuple(kernel), node.stride, node.padding, node.dilation, place))


def _pool_shape(node: c.MaxPool2d | c.AveragePool2d, shape: Shape, place: str) -> Shape:
    wellformed(len(shape) == 3, place, "pooling needs a 3-axis input")
    # every window meets at least one real cell
    fits = all(node.padding[a] < node.kernel[a % 2] for a in range(4))
    wellformed(fits, place, f"padding {node.padding} must be smaller than the kernel {node.kernel}")
    return (shape[0], *windows(shape, node.kernel, node.stride, node.padding, (1, 1), place))


def _slice_shape(node: c.Slice, shape: Shape, place: str) -> Shape:
    wellformed(len(node.start) == len(node.stop) == len(node.step) == len(shape), place, "one entry per axis")
    ok = all(0 <= a < b <= n and s >= 1 for a, b, s, n in zip(node.start, node.stop, node.step, shape, strict=True))
    wellformed(ok, place, f"slice {node.start}:{node.stop}:{node.step} does not fit {shape}")
    for s, n in zip(node.step, shape, strict=True):
        _need_stride(s, n, place)
    return tuple(len(range(a, b, s)) for a, b, s in zip(node.start, node.stop, node.step, strict=True))

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
    size = shape[1:]
    result: list[int] = []
    for axis in (0, 1):
        wellformed(
            kernel[axis] >= 1 and stride[axis] >= 1 and dilation[axis] >= 1,
            place,
            "kernel, stride, dilation must be >= 1",
        )
        before, after = padding[axis], padding[axis + 2]
        wellformed(before >= 0 and after >= 0, place, f"padding must be >= 0, got {padding}")
        span = size[axis] + before + after - dilation[axis] * (kernel[axis] - 1) - 1
        wellformed(span >= 0, place, f"window {kernel} is larger than the padded input {size}")
        _need_stride(max(stride[axis], dilation[axis]), size[axis] + before + after, place)
        result.append(span // stride[axis] + 1)
    padded = shape[0] * math.prod(size[a] + padding[a] + padding[a + 2] for a in (0, 1))
    wellformed(padded <= MAX_ELEMENTS, place, f"input {shape} padded by {padding} is too large")
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
    match node:
        case c.Input():
            ok = len(node.shape) in (1, 3) and all(n >= 1 for n in node.shape)
            wellformed(ok, place, f"input shape must be (features,) or (channels, height, width), got {node.shape}")
            return node.shape
        case c.Linear():
            wellformed(node.weight.ndim == 2 and len(inputs[0]) == 1, place, "linear needs a matrix and a vector")
            wellformed(
                node.weight.shape[1] == inputs[0][0], place, f"weight {node.weight.shape} does not fit {inputs[0]}"
            )
            wellformed(node.bias.shape == (node.weight.shape[0],), place, f"bias {node.bias.shape} does not fit")
            return node.bias.shape
        case c.Conv2d():
            return _conv_shape(node, inputs[0], place)
        case c.BatchNorm():
            channels = (inputs[0][0],)
            parts = (node.scale, node.shift, node.mean, node.variance)
            wellformed(all(p.shape == channels for p in parts), place, f"parameters must have shape {channels}")
            wellformed(0 < node.epsilon < math.inf, place, f"epsilon must be > 0, got {node.epsilon}")
            wellformed((node.variance >= 0).all(), place, "variance must be >= 0")
            return inputs[0]
        case c.Shift() | c.Scale() | c.Divide():
            wellformed(
                _broadcasts(node.constant.shape, inputs[0]),
                place,
                f"constant {node.constant.shape} does not fit {inputs[0]}",
            )
            wellformed(not isinstance(node, c.Divide) or np.all(node.constant != 0), place, "division by zero")
            return inputs[0]
        case c.LeakyRelu():
            wellformed(0 <= node.slope <= 1, place, f"slope must lie in [0, 1], got {node.slope}")
            return inputs[0]
        case c.Relu() | c.Sigmoid() | c.Tanh():
            return inputs[0]
        case c.MaxPool2d() | c.AveragePool2d():
            return _pool_shape(node, inputs[0], place)
        case c.Pad():
            wellformed(len(node.before) == len(node.after) == len(inputs[0]), place, "one pad per axis and side")
            wellformed(all(n >= 0 for n in node.before + node.after), place, "pads must be >= 0")
            return tuple(b + n + a for b, n, a in zip(node.before, inputs[0], node.after, strict=True))
        case c.Slice():
            return _slice_shape(node, inputs[0], place)
        case c.Concat():
            wellformed(len(inputs) >= 1, place, "concat needs an input")
            wellformed(len({s[1:] for s in inputs}) == 1, place, f"shapes differ beyond axis 0: {inputs}")
            return (sum(s[0] for s in inputs), *inputs[0][1:])
        case c.Add():
            wellformed(inputs[0] == inputs[1], place, f"shapes differ: {inputs[0]}, {inputs[1]}")
            return inputs[0]
        case _:  # Flatten
            return (math.prod(inputs[0]),)


def _broadcasts(constant: Shape, shape: Shape) -> bool:
    if len(constant) > len(shape):
        return False
    return all(n in (1, m) for n, m in zip(reversed(constant), reversed(shape), strict=False))


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

"""ONNX convolution and pooling as plain nodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from certmix.models.onnx.call import Call, Input
from certmix.models.onnx.shapes import crop_or_pad, zeros_between
from certmix.models.onnx.view import Shape, View
from proofs_check import certificate as c

Quad = tuple[int, int, int, int]
LENGTHENED = {"strides": 1, "dilations": 1, "kernel_shape": 1, "output_padding": 0}  # of an axis of length 1


def of_sequences(function: Callable[[Call], int]) -> Callable[[Call], View | int]:
    """A function of images, made to serve sequences (1, channels, length): images of height 1."""

    def on_any(call: Call) -> View | int:
        view = call.view()
        if len(view.shape) != 3:
            return function(call)
        image: list[Input] = [view.reshaped((*view.shape[:2], 1, view.shape[2]))]
        for value in call.inputs[1:]:
            image.append(value[:, :, None] if isinstance(value, np.ndarray) and value.ndim == 3 else value)
        attributes = dict(call.attributes)
        for name, own in LENGTHENED.items():
            if name in attributes:
                attributes[name] = [own, *attributes[name]]
        if "pads" in attributes:
            before, after = attributes["pads"]
            attributes["pads"] = [0, before, 0, after]
        node = function(dataclasses.replace(call, inputs=tuple(image), attributes=attributes))
        channels, _, length = call.builder.shapes[node]
        return call.builder.view(node, (1, channels, length))

    return on_any


def conv(call: Call) -> int:
    """Of sequences and images, with groups, dilation and any padding."""
    size, weight = call.image()[1:], call.weight(1)
    if weight.ndim != 4:
        call.fail(f"needs a 2-d kernel, got weights of shape {weight.shape}")
    stride, dilation = _pair(call, "strides"), _pair(call, "dilations")
    kernel = (weight.shape[2], weight.shape[3])
    padding = _padding(call, size, kernel, stride, dilation)
    bias = np.zeros(len(weight), dtype=np.float32) if call.value(2) is None else call.weight(2)
    groups = int(call.attribute("group", 1))
    return call.builder.emit(c.Conv2d((call.data(),), weight, bias, stride, padding, dilation, groups))


def conv_transpose(call: Call) -> int:
    """The convolution by the kernel turned around, of the image with zeros between its cells."""
    size, weight, groups = call.image()[1:], call.weight(1), int(call.attribute("group", 1))
    if weight.ndim != 4 or len(weight) % groups:
        call.fail(f"needs a 2-d kernel for {groups} groups of channels, got weights of shape {weight.shape}")
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in call.attributes:
        call.fail("has auto_pad or output_shape, which runtimes read differently: export it with pads")
    stride, dilation = _pair(call, "strides"), _pair(call, "dilations")
    pads = [int(n) for n in call.attribute("pads", (0, 0, 0, 0))] if "pads" in call.attributes else [0] * 4
    more = [int(n) for n in call.attribute("output_padding", (0, 0))]
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    before = [reach[a] - pads[a] for a in (0, 1)]
    after = [reach[a] - pads[a + 2] + more[a] for a in (0, 1)]
    data = zeros_between(call, call.data(), stride) if max(stride) > 1 and max(size) > 1 else call.data()
    padding = (0, 0, 0, 0)
    if min(before + after) < 0:
        data = crop_or_pad(call, data, [0, *before], [0, *after], 0.0)
    else:
        padding = (before[0], before[1], after[0], after[1])
    kernel = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)[..., ::-1, ::-1]
    kernel = np.ascontiguousarray(kernel.reshape(-1, *kernel.shape[2:]))
    bias = np.zeros(len(kernel), dtype=np.float32) if call.value(2) is None else call.weight(2)
    return call.builder.emit(c.Conv2d((data,), kernel, bias, (1, 1), padding, dilation, groups))


def _pair(call: Call, name: str) -> tuple[int, int]:
    value = [int(n) for n in call.attribute(name, (1, 1))]
    return (value[0], value[1]) if len(value) == 2 else call.fail(f"{name} must have two entries, got {value}")


def _padding(call: Call, size: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Quad:
    """(top, left, bottom, right) from `pads` or `auto_pad`."""
    mode = call.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode == "NOTSET":
        top, left, bottom, right = (int(n) for n in call.attribute("pads", (0, 0, 0, 0)))
        return (top, left, bottom, right)
    before, after = [0, 0], [0, 0]
    for axis in (0, 1):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        total = max((math.ceil(size[axis] / stride[axis]) - 1) * stride[axis] + span - size[axis], 0)
        small, large = total // 2, total - total // 2
        before[axis], after[axis] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return (before[0], before[1], after[0], after[1])


def _window(call: Call) -> tuple[tuple[int, int], tuple[int, int], Quad, tuple[int, int]]:
    """kernel, stride and padding of a pooling operator; and what ceil_mode adds to the padding at the bottom and right,
    so that the last, partial windows fit."""
    size = call.image()[1:]
    kernel, stride = _pair(call, "kernel_shape"), _pair(call, "strides")
    if _pair(call, "dilations") != (1, 1):
        call.fail("has dilations, which pooling in h may not have: take none")
    padding = _padding(call, size, kernel, stride, (1, 1))
    more = [0, 0]
    for a in (0, 1) if call.attribute("ceil_mode", 0) else ():
        before, length = padding[a], size[a] + padding[a] + padding[a + 2]
        last = -(-max(length - kernel[a], 0) // stride[a]) * stride[a]  # where the last window starts
        last -= stride[a] if last >= size[a] + before else 0  # not beyond the image
        more[a] = max(last + kernel[a] - length, 0)
    return kernel, stride, padding, (more[0], more[1])


def max_pool(call: Call) -> int:
    """Of sequences and images, with any padding and ceil_mode."""
    kernel, stride, padding, more = _window(call)
    return call.builder.emit(c.MaxPool2d((call.data(),), kernel, stride, _enlarged(padding, more)))


def average_pool(call: Call) -> int:
    """Cells that ceil_mode adds never count; padded ones that do become cells of the image."""
    kernel, stride, padding, more = _window(call)
    count_padding, data = bool(call.attribute("count_include_pad", 0)), call.data()
    if count_padding and any(more):
        top, left, bottom, right = padding
        data = call.builder.emit(c.Pad((data,), (0, top, left), (0, bottom, right), 0.0))
        padding, count_padding = (0, 0, 0, 0), False
    return call.builder.emit(c.AveragePool2d((data,), kernel, stride, _enlarged(padding, more), count_padding))


def _enlarged(padding: Quad, more: tuple[int, int]) -> Quad:
    top, left, bottom, right = padding
    return (top, left, bottom + more[0], right + more[1])


def global_average_pool(call: Call) -> int:
    """Of sequences and images."""
    height, width = call.image()[1:]
    return mean_over(call, call.data(), (height, width))


def global_max_pool(call: Call) -> int:
    """Of sequences and images."""
    height, width = call.image()[1:]
    return call.builder.emit(c.MaxPool2d((call.data(),), (height, width), (1, 1), (0, 0, 0, 0)))


def mean_over(call: Call, data: int, kernel: tuple[int, int]) -> int:
    return call.builder.emit(c.AveragePool2d((data,), kernel, (1, 1), (0, 0, 0, 0), False))


def sum_of_channels(call: Call, data: int) -> int:
    """Of a vector or image, as one channel."""
    shape, bias = call.builder.shapes[data], np.zeros(1, dtype=np.float32)
    if len(shape) == 1:
        return call.builder.emit(c.Linear((data,), np.ones((1, *shape), dtype=np.float32), bias))
    ones = np.ones((1, shape[0], 1, 1), dtype=np.float32)
    return call.builder.emit(c.Conv2d((data,), ones, bias, (1, 1), (0, 0, 0, 0), (1, 1), 1))


def mean_of_channels(call: Call, data: int) -> int:
    """Of a vector or image, as one channel; the real quotient."""
    count = np.array([call.builder.shapes[data][0]], dtype=np.float32)
    return call.builder.emit(c.Divide((sum_of_channels(call, data),), count))

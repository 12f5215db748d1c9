"""The few kinds of steps that bound propagation needs, affine maps, activations, sums, and what builds them.

Everything affine (normalisation, padding, slicing, concatenation, pooling by means) becomes a convolution, a dense
layer or a per-channel map, merged with its neighbour where that is exact in real arithmetic. Weights are in float64;
engines round them to their own precision once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifiers.layers.steps import (
    Activation,
    Affine,
    Conv,
    Dense,
    Diagonal,
    Flat,
    MaxPool,
    Pick,
    Pointwise,
    Shape,
    Source,
    Step,
    Sum,
    flat,
)

__all__ = [
    "Activation", "Affine", "Builder", "Conv", "Dense", "Diagonal", "Flat", "MaxPool", "Pick", "Pointwise", "Shape",
    "Source", "Step", "Sum", "diagonal", "flat", "padded", "selection",
]  # fmt: skip


class Builder:
    """Steps in topological order, so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: list[Shape] = []

    def push(self, step: Step, shape: Shape) -> int:
        """The number of a new step, whose value has this shape."""
        self.steps.append(step)
        self.shapes.append(shape)
        return len(self.steps) - 1

    def affine(self, step: Affine, only: bool, shape: Shape) -> int:
        """Push `step`, or merge it into its input if it is the only one to read that."""
        merged = step.after(self.steps[step.inputs[0]]) if only else None
        if merged is None:
            return self.push(step, shape)
        self.steps[step.inputs[0]] = merged
        self.shapes[step.inputs[0]] = shape
        return step.inputs[0]


def padded(
    at: tuple[int, ...],
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    bias: Tensor | None = None,
    dilation: tuple[int, int] = (1, 1),
) -> Conv:
    """A convolution with padding (top, left, bottom, right); uneven padding and dilation become zero taps.

    (auto_LiRPA's backward pass over patches ignores dilation.)
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    top, left, bottom, right = padding
    rows, columns = ((n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilation, strict=True))
    spread = weight.new_zeros(*weight.shape[:2], rows, columns)
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    high, wide = max(top, bottom), max(left, right)
    taps = torch.nn.functional.pad(spread, (wide - left, wide - right, high - top, high - bottom))
    return Conv(at, taps, bias, stride, (high, wide))


def selection(at: tuple[int, ...], before: Shape, after: Shape, start: Shape, step: Shape) -> Dense | Conv:
    """out[i] = in[start + i * step] on every axis, 0 where that lies outside."""
    channels = torch.zeros(after[0], before[0], dtype=torch.float64)
    for i in range(after[0]):
        if 0 <= start[0] + i * step[0] < before[0]:
            channels[i, start[0] + i * step[0]] = 1.0
    if len(before) == 1:
        return Dense(at, channels, channels.new_zeros(after[0]))
    kernel, tap, padding = [], [], []
    for axis in (1, 2):
        span = (after[axis] - 1) * step[axis]
        padding += [(max(-start[axis], 0), max(start[axis] + span + 1 - before[axis], 0))]
        tap += [max(start[axis], 0)]
        # the window slides exactly `span` cells
        kernel += [before[axis] + sum(padding[-1]) - span]
    weight = channels.new_zeros(*channels.shape, *kernel)
    weight[:, :, tap[0], tap[1]] = channels
    (top, bottom), (left, right) = padding
    return padded(at, weight, (step[1], step[2]), (top, left, bottom, right))


def diagonal(at: tuple[int, ...], shape: Shape, scale: Tensor, shift: Tensor) -> Diagonal | Pointwise:
    """scale * v + shift, float64 and broadcastable against v: per channel where both are constant on channels, else per
    element."""
    parts = [part.reshape((1,) * (len(shape) - part.dim()) + tuple(part.shape)) for part in (scale, shift)]
    channelwise = len(shape) == 1 or all(math.prod(p.shape[1:]) == 1 for p in parts)
    target = (shape[0], *(1 for _ in shape[1:])) if channelwise else shape
    full = [part.expand(target).clone() for part in parts]
    return (Diagonal if channelwise else Pointwise)(at, full[0], full[1])

"""A plain network in the few node kinds that bound propagation needs: affine maps, activations, sums.

Everything affine (normalisation, padding, slicing, concatenation, pooling by means) becomes a convolution, a
dense layer or a per-channel map, merged with its neighbour where that is exact in real arithmetic. Weights are
computed in float64; engines round them to their own precision once. Engines are untrusted: the judge works on
the plain network itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.engine import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """The raw input; always node 0."""

    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Dense:
    """weight (m, n) @ v + bias (m,), on vectors."""

    inputs: tuple[int, ...]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Conv:
    """Cross-correlation, one group, no dilation, `padding` = (rows, columns) of zeros on both sides."""

    inputs: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Diagonal:
    """scale * v + shift; both (channels, 1, 1) on images, (features,) on vectors."""

    inputs: tuple[int, ...]
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Pointwise:
    """scale * v + shift on images where they differ between the cells of a channel; both have v's shape."""

    inputs: tuple[int, ...]
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Activation:
    """A nondecreasing function of each element; slope: of LeakyRelu's negative part."""

    inputs: tuple[int, ...]
    kind: Literal["relu", "leaky_relu", "sigmoid", "tanh"]
    slope: float = 0.0


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Maximum over windows; padded cells (rows, columns on both sides) do not take part."""

    inputs: tuple[int, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sum:
    """v_a + v_b."""

    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Flat:
    """To a vector, in C order."""

    inputs: tuple[int, ...]


Step = Source | Dense | Conv | Diagonal | Pointwise | Activation | MaxPool | Sum | Flat
Affine = Dense | Conv | Diagonal | Pointwise


@dataclass(frozen=True, eq=False)
class Lowered:
    """Steps in topological order, step 0 the source, the last one the logits; shapes without batch axis."""

    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]


def lower(network: c.PlainNetwork) -> Lowered:
    """Ensures: the same function as `network` in real arithmetic, up to the float64 rounding of merged weights.

    Raises EngineError where a max-pool has uneven padding.
    """
    builder = _Builder(network)
    for k, node in enumerate(network.nodes):
        builder.add(k, node)
    return _reachable(builder.steps, builder.shapes, builder.place[-1])


def _reachable(steps: list[Step], shapes: list[Shape], last: int) -> Lowered:
    """Only the steps that `last` needs, renumbered."""
    needed = {0, last}
    for k in range(last, 0, -1):
        if k in needed:
            needed.update(steps[k].inputs)
    order = sorted(needed)
    position = {k: i for i, k in enumerate(order)}
    kept = tuple(replace(steps[k], inputs=tuple(position[i] for i in steps[k].inputs)) for k in order)
    return Lowered(kept, tuple(shapes[k] for k in order))


class _Builder:
    """Lowers node after node; `place[k]` is the step that holds plain node k's value."""

    def __init__(self, network: c.PlainNetwork) -> None:
        self.network = network
        self.steps: list[Step] = []
        self.shapes: list[Shape] = []
        self.place: list[int] = []
        readers = [i for node in network.nodes for i in getattr(node, "inputs", ())]
        self.readers = [readers.count(k) for k in range(len(network.nodes))]

    def push(self, step: Step, shape: Shape) -> int:
        self.steps.append(step)
        self.shapes.append(shape)
        return len(self.steps) - 1

    def add(self, k: int, node: c.Node) -> None:
        inputs = tuple(getattr(node, "inputs", ()))
        at = tuple(self.place[i] for i in inputs)
        only = bool(inputs) and self.readers[inputs[0]] == 1 and self._sole(inputs[0])
        self.place.append(self._lower(node, at, only, self.network.shapes[k]))

    def _sole(self, k: int) -> bool:
        """No other plain node shares the step of node k (a flatten of a vector does)."""
        return all(self.readers[i] == 1 for i in range(k) if self.place[i] == self.place[k])

    def _lower(self, node: c.Node, at: tuple[int, ...], only: bool, shape: Shape) -> int:
        match node:
            case c.Input():
                return self.push(Source(), shape)
            case c.Linear():
                return self.affine(Dense(at, _double(node.weight), _double(node.bias)), only, shape)
            case c.Conv2d():
                return self.affine(_conv(node, at), only, shape)
            case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
                return self.affine(_elementwise(node, at, shape), only, shape)
            case c.AveragePool2d():
                return self._average(node, at, shape)
            case c.Pad() | c.Slice():
                return self._select(node, at, shape)
            case c.Concat():
                return self._concat(at, shape)
            case c.Add():
                if at[0] == at[1]:  # x + x
                    return self.affine(_diagonal(at[:1], shape, 2.0, 0.0), False, shape)
                return self.push(Sum(at), shape)
            case c.Flatten():
                return at[0] if len(self.shapes[at[0]]) == 1 else self.push(Flat(at), shape)
            case c.MaxPool2d():
                top, left, bottom, right = node.padding
                if (top, left) != (bottom, right):
                    raise EngineError(f"no bounds for a max-pool with uneven padding {node.padding}")
                return self.push(MaxPool(at, node.kernel, node.stride, (top, left)), shape)
            case c.LeakyRelu():
                return self.push(Activation(at, "leaky_relu", node.slope), shape)
            case c.Relu():
                return self.push(Activation(at, "relu"), shape)
            case c.Sigmoid():
                return self.push(Activation(at, "sigmoid"), shape)
            case c.Tanh():
                return self.push(Activation(at, "tanh"), shape)

    def affine(self, step: Affine, only: bool, shape: Shape) -> int:
        """Push `step`, or merge it into its input if nothing else reads that."""
        merged = _merge(self.steps[step.inputs[0]], step) if only else None
        if merged is None:
            return self.push(step, shape)
        self.steps[step.inputs[0]] = merged
        self.shapes[step.inputs[0]] = shape
        return step.inputs[0]

    def _average(self, node: c.AveragePool2d, at: tuple[int, ...], shape: Shape) -> int:
        channels, (rows, columns) = shape[0], node.kernel
        taps = torch.eye(channels, dtype=torch.float64)[:, :, None, None].expand(-1, -1, rows, columns)
        k = self.push(_padded(at, taps / (rows * columns), node.stride, node.padding), shape)
        if node.count_padding or not any(node.padding):
            return k
        ones = torch.ones(1, 1, *self.shapes[at[0]][1:], dtype=torch.float64)
        one = torch.full((1, 1, rows, columns), 1 / (rows * columns), dtype=torch.float64)
        step = _padded(at, one, node.stride, node.padding)
        share = convolve(ones, step.weight, None, step)[0].expand(shape)
        return self.affine(Pointwise((k,), 1 / share, torch.zeros(shape, dtype=torch.float64)), False, shape)

    def _select(self, node: c.Pad | c.Slice, at: tuple[int, ...], shape: Shape) -> int:
        """Padding and slicing: every output element is one input element or a constant."""
        before = self.shapes[at[0]]
        if isinstance(node, c.Pad):
            start = tuple(-n for n in node.before)
            step, fill = (1,) * len(before), node.value
        else:
            start, step, fill = node.start, node.step, 0.0
        k = self.push(_selection(at, before, shape, start, step), shape)
        if fill == 0:
            return k
        inside = torch.zeros(shape, dtype=torch.bool)
        inside[tuple(slice(-s, n - s) for s, n in zip(start, before, strict=True))] = True
        shift = torch.full(shape, fill, dtype=torch.float64).masked_fill(inside, 0.0)
        kind = Diagonal if len(shape) == 1 else Pointwise
        return self.push(kind((k,), torch.ones(shape, dtype=torch.float64), shift), shape)

    def _concat(self, at: tuple[int, ...], shape: Shape) -> int:
        """Each part is embedded among zeros; the parts are summed."""
        total, offset = -1, 0
        for a in at:
            before = self.shapes[a]
            start = (-offset, *(0 for _ in before[1:]))
            part = self.push(_selection((a,), before, shape, start, (1,) * len(shape)), shape)
            total = part if total < 0 else self.push(Sum((total, part)), shape)
            offset += before[0]
        return total


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, step: Conv) -> Tensor:
    """`step`'s geometry with other weights."""
    return torch.nn.functional.conv2d(x, weight, bias, step.stride, step.padding)


def _double(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _conv(node: c.Conv2d, at: tuple[int, ...]) -> Conv:
    """Groups become zero blocks of a dense kernel."""
    weight = _double(node.weight)
    out, per_group = weight.shape[:2]
    dense = weight.new_zeros(out, per_group * node.groups, *weight.shape[2:])
    for g in range(node.groups):
        rows = slice(g * out // node.groups, (g + 1) * out // node.groups)
        dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return _padded(at, dense, node.stride, node.padding, _double(node.bias), node.dilation)


def _padded(
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


def _selection(at: tuple[int, ...], before: Shape, after: Shape, start: Shape, step: Shape) -> Dense | Conv:
    """out[i] = in[start + i * step] on every axis, 0 where that lies outside."""
    channels = torch.zeros(after[0], before[0], dtype=torch.float64)
    for i in range(after[0]):
        if 0 <= start[0] + i * step[0] < before[0]:
            channels[i, start[0] + i * step[0]] = 1.0
    if len(before) == 1:
        return Dense(at, channels, channels.new_zeros(after[0]))
    kernel, tap, padding = [], [], []
    for axis in (1, 2):
        reach = (after[axis] - 1) * step[axis]
        padding += [(max(-start[axis], 0), max(start[axis] + reach + 1 - before[axis], 0))]
        tap += [max(start[axis], 0)]
        # the window slides exactly `reach` cells
        kernel += [before[axis] + sum(padding[-1]) - reach]
    weight = channels.new_zeros(*channels.shape, *kernel)
    weight[:, :, tap[0], tap[1]] = channels
    (top, bottom), (left, right) = padding
    return _padded(at, weight, (step[1], step[2]), (top, left, bottom, right))


def _elementwise(
    node: c.BatchNorm | c.Shift | c.Scale | c.Divide, at: tuple[int, ...], shape: Shape
) -> Diagonal | Pointwise:
    match node:
        case c.BatchNorm():
            scale = node.scale.astype(np.float64) / np.sqrt(node.variance.astype(np.float64) + node.epsilon)
            shift = node.shift.astype(np.float64) - scale * node.mean.astype(np.float64)
            extra = (1,) * (len(shape) - 1)
            return _diagonal(at, shape, scale.reshape(-1, *extra), shift.reshape(-1, *extra))
        case c.Shift():
            return _diagonal(at, shape, 1.0, node.constant.astype(np.float64))
        case c.Scale():
            return _diagonal(at, shape, node.constant.astype(np.float64), 0.0)
        case c.Divide():
            return _diagonal(at, shape, 1.0 / node.constant.astype(np.float64), 0.0)


def _diagonal(
    at: tuple[int, ...], shape: Shape, scale: np.ndarray | float, shift: np.ndarray | float
) -> Diagonal | Pointwise:
    """Per channel where both parts are constant on channels, else per element."""
    parts = []
    for part in (scale, shift):
        array = np.asarray(part, dtype=np.float64)
        parts.append(array.reshape((1,) * (len(shape) - array.ndim) + array.shape))
    channelwise = len(shape) == 1 or all(math.prod(p.shape[1:]) == 1 for p in parts)
    target = (shape[0], *(1 for _ in shape[1:])) if channelwise else shape
    full = [torch.from_numpy(np.broadcast_to(p, target).copy()) for p in parts]
    return (Diagonal if channelwise else Pointwise)(at, full[0], full[1])


def _merge(first: Step, second: Affine) -> Affine | None:
    """`second` after `first` as one step, where that is one step of the same size."""
    match first, second:
        case ((Dense() | Conv()), Diagonal()):
            rows = second.scale.reshape(-1, *(1 for _ in first.weight.shape[1:]))
            bias = first.bias * second.scale.flatten() + second.shift.flatten()
            return replace(first, weight=first.weight * rows, bias=bias)
        case Diagonal(), Diagonal():
            return replace(first, scale=first.scale * second.scale, shift=first.shift * second.scale + second.shift)
        case Diagonal(), Dense():
            bias = second.bias + second.weight @ first.shift
            return replace(second, inputs=first.inputs, weight=second.weight * first.scale, bias=bias)
        case Diagonal(), Conv() if second.padding == (0, 0):  # padded zeros are zeros of the scaled image
            bias = second.bias + (second.weight * first.shift).sum((1, 2, 3))
            return replace(second, inputs=first.inputs, weight=second.weight * first.scale, bias=bias)
        case _:
            return None

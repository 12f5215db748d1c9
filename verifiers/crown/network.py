"""A plain network as tensors, with the interval map of every node. Part of the native CROWN engine."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.linear_forms.convolution import Adjoint
from verifiers.network.module import average_pool, pad

NONLINEAR = (c.Relu, c.LeakyRelu, c.Sigmoid, c.Tanh, c.MaxPool2d)
SLOPED = (c.Relu, c.LeakyRelu)
ELEMENTWISE = (c.BatchNorm, c.Shift, c.Scale, c.Divide)
Interval = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class CrownNetwork:
    """The nodes' weights in one dtype on one device.

    slope_ranges: for each Relu / LeakyRelu node, the range of its neurons in a row of the witness (node order).
    affine: nodes that are affine functions of the input. dual_norms: of their gradients, once computed.
    adjoints, patch_matrices: of convolutions, once computed; matrices between patches, by (node, height, width).
    repeated: biases of convolutions, by (node, positions). footprints: of forms on a node (neurons.py).
    """

    network: c.PlainNetwork
    dtype: torch.dtype
    device: torch.device
    weights: dict[tuple[int, str], Tensor]
    slope_ranges: dict[int, tuple[int, int]]
    affine: frozenset[int]
    dual_norms: dict[tuple[int, c.Norm], Tensor] = dataclasses.field(default_factory=dict)
    adjoints: dict[int, Adjoint] = dataclasses.field(default_factory=dict)
    patch_matrices: dict[tuple[int, int, int], Tensor] = dataclasses.field(default_factory=dict)
    repeated: dict[tuple[int, int], Tensor] = dataclasses.field(default_factory=dict)
    footprints: dict[int, tuple[int, bool]] = dataclasses.field(default_factory=dict)

    @property
    def nodes(self) -> tuple[c.Node, ...]:
        return self.network.nodes

    @property
    def slopes(self) -> int:
        """Number of slopes in one row of the witness."""
        return max((stop for _, stop in self.slope_ranges.values()), default=0)

    def parents(self, k: int) -> tuple[int, ...]:
        return getattr(self.nodes[k], "inputs", ())

    @functools.cached_property
    def preactivations(self) -> tuple[int, ...]:
        """Affine nodes that feed a nonlinearity, in order: those whose bounds backward passes tighten."""
        nonlinear = (k for k, node in enumerate(self.nodes) if isinstance(node, NONLINEAR))
        return tuple(
            sorted({i for k in nonlinear for i in self.parents(k) if not isinstance(self.nodes[i], NONLINEAR)})
        )

    @functools.cached_property
    def roots(self) -> frozenset[int]:
        """The input, and what only scales and shifts its elements."""
        roots = {0}
        for k, node in enumerate(self.nodes):
            if isinstance(node, ELEMENTWISE) and node.inputs[0] in roots:
                roots.add(k)
        return frozenset(roots)

    def root_scale(self, k: int) -> Tensor:
        """(1, *input shape): by what node k of `roots` multiplies the input."""
        scale = torch.ones(1, *self.network.shapes[0], dtype=self.dtype, device=self.device)
        while k:
            scale, k = scale * self.element_scale(k)[0], self.parents(k)[0]
        return scale

    def weight(self, k: int, name: str) -> Tensor:
        return self.weights[k, name]

    def biases(self, k: int, positions: int) -> Tensor:
        """The biases of the convolution k, (positions * channels,): of every position in turn."""
        if (k, positions) not in self.repeated:
            self.repeated[k, positions] = self.weight(k, "bias").repeat(positions)
        return self.repeated[k, positions]

    def element_scale(self, k: int) -> tuple[Tensor, Tensor]:
        """(scale, shift) of an elementwise affine node, each broadcastable against its value without a batch axis."""
        node = self.nodes[k]
        match node:
            case c.BatchNorm():
                shape = (-1,) + (1,) * (len(self.network.shapes[k]) - 1)
                return self.weight(k, "factor").view(shape), self.weight(k, "offset").view(shape)
            case c.Shift():
                constant = self.weight(k, "constant")
                return torch.ones_like(constant), constant
            case c.Scale() | c.Divide():
                factor = self.weight(k, "constant")
                return factor, torch.zeros_like(factor)
            case _:
                raise TypeError(f"{type(node).__name__} is not an elementwise affine node")


def prepare(network: c.PlainNetwork, dtype: torch.dtype, device: torch.device) -> CrownNetwork:
    """Tensors of `network`; batch norms become a factor and an offset, divisions a factor (all in float64 first)."""
    weights: dict[tuple[int, str], Tensor] = {}
    for k, node in enumerate(network.nodes):
        fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
        arrays = {n: v.astype(np.float64) for n, v in fields.items() if isinstance(v, np.ndarray)}
        if isinstance(node, c.BatchNorm):
            factor = arrays["scale"] / np.sqrt(arrays["variance"] + node.epsilon)
            arrays = {"factor": factor, "offset": arrays["shift"] - arrays["mean"] * factor}
        if isinstance(node, c.Divide):
            arrays = {"constant": 1.0 / arrays["constant"]}
        for name, value in arrays.items():
            weights[k, name] = torch.from_numpy(np.ascontiguousarray(value)).to(device, dtype)
    ranges: dict[int, tuple[int, int]] = {}
    affine = {0}
    count = 0
    for k, node in enumerate(network.nodes):
        if isinstance(node, SLOPED):
            ranges[k] = (count, count + math.prod(network.shapes[k]))
            count = ranges[k][1]
        if k and not isinstance(node, NONLINEAR) and all(i in affine for i in getattr(node, "inputs", ())):
            affine.add(k)
    return CrownNetwork(network, dtype, device, weights, ranges, frozenset(affine))


def interval(net: CrownNetwork, k: int, inputs: list[Interval]) -> Interval:
    """Interval image of node k: inputs and result are (lower, upper) pairs of (N, *shape)."""
    node = net.nodes[k]
    match node:
        case c.Linear() | c.Conv2d():
            lower, upper = inputs[0]
            middle, half_width = (upper + lower) / 2, (upper - lower) / 2
            weight = net.weight(k, "weight")
            value = _linear(node, middle, weight, net.weight(k, "bias"))
            width = _linear(node, half_width, weight.abs(), None)
            return value - width, value + width
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            scale, shift = net.element_scale(k)
            ends = inputs[0][0] * scale + shift, inputs[0][1] * scale + shift
            return torch.minimum(*ends), torch.maximum(*ends)
        case c.Add():
            return inputs[0][0] + inputs[1][0], inputs[0][1] + inputs[1][1]
        case c.Concat():
            return torch.cat([i[0] for i in inputs], 1), torch.cat([i[1] for i in inputs], 1)
        case _:
            lower, upper = inputs[0]
            return monotone(node, lower), monotone(node, upper)


def value(net: CrownNetwork, k: int, inputs: list[Tensor]) -> Tensor:
    """The value of node k at points: inputs and result (N, *shape)."""
    node = net.nodes[k]
    if isinstance(node, c.Linear | c.Conv2d):
        return _linear(node, inputs[0], net.weight(k, "weight"), net.weight(k, "bias"))
    return interval(net, k, [(x, x) for x in inputs])[0]


def _linear(node: c.Linear | c.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(node, c.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(pad(x, node.padding, 0.0), weight, bias, node.stride, 0, node.dilation, node.groups)


def monotone(node: c.Node, x: Tensor) -> Tensor:
    """The value of a node that is nondecreasing in every element of its one input and has no weights."""
    match node:
        case c.Relu():
            return F.relu(x)
        case c.LeakyRelu():
            return torch.maximum(x, node.slope * x)
        case c.Sigmoid():
            return torch.sigmoid(x)
        case c.Tanh():
            return torch.tanh(x)
        case c.MaxPool2d():
            return F.max_pool2d(pad(x, node.padding, -math.inf), node.kernel, node.stride)
        case c.AveragePool2d():
            return average_pool(x, node)
        case c.Pad():
            sides = [n for pair in reversed(list(zip(node.before, node.after, strict=True))) for n in pair]
            return F.pad(x, sides, value=node.value)
        case c.Slice():
            ranges = zip(node.start, node.stop, node.step, strict=True)
            return x[(slice(None), *(slice(a, b, s) for a, b, s in ranges))]
        case c.Flatten():
            return x.flatten(1)
        case _:
            raise TypeError(f"{type(node).__name__} is not a monotone node without weights")

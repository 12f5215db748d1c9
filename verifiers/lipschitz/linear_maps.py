"""The affine nodes of a plain network as linear maps with their adjoints and absolute values, in float64.

Intervals travel as centre and radius. Every step widens the radius by a bound of the rounding error it makes
(Higham, Accuracy and Stability, 3.1), so that what is bounded holds for the network in real arithmetic.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from proofs_check import certificate as c
from verifiers.crown.engine import Crown
from verifiers.crown.network import CrownNetwork
from verifiers.engine import EngineError
from verifiers.network.module import PlainModule, build

AFFINE = (
    c.Linear, c.Conv2d, c.BatchNorm, c.Shift, c.Scale, c.Divide,
    c.AveragePool2d, c.Pad, c.Slice, c.Concat, c.Add, c.Flatten,
)  # fmt: skip
ELEMENTWISE = (c.Relu, c.LeakyRelu, c.Sigmoid, c.Tanh)
TINY = 2.0**-900


class LinearMaps:
    """Forward and adjoint of each affine node, and of the node with absolute weights and no bias."""

    def __init__(self, network: c.PlainNetwork, device: torch.device | str = "cpu") -> None:
        for k, node in enumerate(network.nodes):
            if not isinstance(node, (c.Input, *AFFINE, *ELEMENTWISE, c.MaxPool2d)):
                raise EngineError(f"node {k} ({type(node).__name__}) has no known Lipschitz bound")
        self.network = network
        self.device = torch.device(device)
        self.exact = PlainModule(network).to(self.device, torch.float64)
        self.absolute = PlainModule(build([_absolute(n) for n in network.nodes])).to(self.device, torch.float64)
        self.linear = PlainModule(build([linear_part(n) for n in network.nodes])).to(self.device, torch.float64)
        self.growth = (max(map(_fan, network.nodes)) + 16) * 2.0**-51
        self.engine = Crown(precision="float64", device=str(device))

    @functools.cached_property
    def crown(self) -> CrownNetwork:
        """The network as `engine` works with it."""
        return self.engine.prepare(self.network)

    def forward(self, k: int, arguments: list[Tensor], absolute: bool = False) -> Tensor:
        """Node k of (N, *shape) values; with `absolute`: |weights|, no bias."""
        module = self.absolute if absolute else self.exact
        return module.node_value(k, module.network.nodes[k], arguments)

    def bias_magnitude(self, k: int) -> Tensor | float:
        """A bound of |offset| terms that may cancel inside node k: batch norm's only, the others show in the result."""
        node = self.network.nodes[k]
        if not isinstance(node, c.BatchNorm):
            return 0.0
        part = {name: self.exact.weight(k, name).abs() for name in ("scale", "mean", "variance", "shift")}
        size = part["scale"] * part["mean"] / (part["variance"] + node.epsilon).sqrt() + part["shift"]
        return size.reshape(-1, *[1] * (len(self.network.shapes[k]) - 1))

    def step(self, k: int, centres: list[Tensor], radii: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Centre and radius of affine node k from those of its inputs. Ensures: rounding is inside the radius."""
        g = self.growth
        centre = self.forward(k, centres)
        spread = [r * (1 + 2 * g) + 2 * g * m.abs() for m, r in zip(centres, radii, strict=True)]
        radius = self.forward(k, spread, absolute=True) * (1 + 2 * g)
        return centre, radius + 2 * g * (centre.abs() + self.bias_magnitude(k)) + TINY

    def linear_step(self, k: int, centres: list[Tensor], radii: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`step` without the node's offset: centre and radius of its linear part."""
        g = self.growth
        centre = self.linear.node_value(k, self.linear.network.nodes[k], centres)
        spread = [r * (1 + 2 * g) + 2 * g * m.abs() for m, r in zip(centres, radii, strict=True)]
        return centre, self.forward(k, spread, absolute=True) * (1 + 2 * g) + 2 * g * centre.abs() + TINY

    def adjoint(self, k: int, forms: Tensor, absolute: bool = False) -> list[Tensor]:
        """Forms (B, *shapes[k]) on node k's value -> one (B, *shapes[i]) per input i of k."""
        node, module = self.network.nodes[k], self.absolute if absolute else self.exact
        if isinstance(node, c.Linear):
            return [forms @ module.weight(k, "weight")]
        if isinstance(node, c.Conv2d):
            return [self._conv_adjoint(node, module.weight(k, "weight"), forms, self.network.shapes[node.inputs[0]])]
        inputs = [
            torch.zeros((len(forms), *self.network.shapes[i]), dtype=torch.float64, device=self.device).requires_grad_()
            for i in getattr(node, "inputs", ())
        ]
        with torch.enable_grad():
            value = module.node_value(k, node, inputs)
        return list(torch.autograd.grad(value, inputs, forms))

    @staticmethod
    def _conv_adjoint(node: c.Conv2d, weight: Tensor, forms: Tensor, shape: tuple[int, ...]) -> Tensor:
        top, left, bottom, right = node.padding
        channels, height, width = shape
        padded = (len(forms), channels, height + top + bottom, width + left + right)
        stride, dilation = node.stride, node.dilation
        full = conv2d_input(padded, weight, forms, stride, 0, dilation, node.groups)  # type: ignore[arg-type]
        return full[:, :, top : top + height, left : left + width]

    def adjoint_step(self, k: int, centre: Tensor, radius: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Centre and radius of the forms of node k's inputs from those of node k's. Rounding is inside."""
        g = self.growth
        centres = self.adjoint(k, centre)
        radii = self.adjoint(k, radius * (1 + 2 * g) + 2 * g * centre.abs(), absolute=True)
        return centres, [r * (1 + 2 * g) + TINY for r in radii]


def linear_part(node: c.Node) -> c.Node:
    """An affine node without its offset; any other node as it is."""
    match node:
        case c.Linear() | c.Conv2d():
            return _with(node, np.zeros_like, "bias")
        case c.BatchNorm():
            return _with(node, np.zeros_like, "shift", "mean")
        case c.Shift():
            return _with(node, np.zeros_like, "constant")
        case c.Pad():
            return dataclasses.replace(node, value=0.0)
        case _:
            return node


def _absolute(node: c.Node) -> c.Node:
    """The node with absolute weights and no offset."""
    match linear := linear_part(node):
        case c.Linear() | c.Conv2d():
            return _with(linear, np.abs, "weight")
        case c.BatchNorm():
            return _with(linear, np.abs, "scale")
        case c.Scale() | c.Divide():
            return _with(linear, np.abs, "constant")
        case _:
            return linear


def _with(node: c.Node, change: Callable[[c.Float32Array], c.Float32Array], *fields: str) -> c.Node:
    """The node with the tensors `fields` changed; one of no axes stays a tensor."""
    return dataclasses.replace(node, **{name: np.asarray(change(getattr(node, name))) for name in fields})


def _fan(node: c.Node) -> int:
    """The largest number of terms in one sum of the node or of its adjoint."""
    if isinstance(node, c.Linear):
        return max(node.weight.shape)
    if isinstance(node, c.Conv2d):
        return max(node.weight.shape[:2]) * node.weight.shape[2] * node.weight.shape[3]
    return node.kernel[0] * node.kernel[1] if isinstance(node, c.AveragePool2d) else 8


def windows(x: Tensor, node: c.MaxPool2d, fill: float) -> Tensor:
    """(N, C, H, W) -> (N, C, kernel cells, windows) with padded cells at `fill`."""
    top, left, bottom, right = node.padding
    padded = F.pad(x, (left, right, top, bottom), value=fill)
    cells = F.unfold(padded, node.kernel, stride=node.stride)
    return cells.reshape(len(x), x.shape[1], node.kernel[0] * node.kernel[1], -1)


def scatter_windows(cells: Tensor, node: c.MaxPool2d, shape: tuple[int, ...]) -> Tensor:
    """Adjoint of `windows` with fill 0: (N, C, kernel cells, windows) -> (N, *shape)."""
    channels, height, width = shape
    top, left, bottom, right = node.padding
    flat = cells.reshape(len(cells), channels * node.kernel[0] * node.kernel[1], -1)
    size = (height + top + bottom, width + left + right)
    return F.fold(flat, size, node.kernel, stride=node.stride)[:, :, top : top + height, left : left + width]

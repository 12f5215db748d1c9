"""The plain network on the untrusted side: its canonical bytes, and a torch module that computes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proofs_check import certificate as c
from proofs_check.reading import parse

OPS = {kind: op for op, kind in c.NODE_TYPES.items()}


def build(nodes: Sequence[c.Node]) -> c.PlainNetwork:
    """The plain network with these nodes, its bytes in canonical form.

    Ensures: equal nodes give equal bytes. Raises MalformedError where shapes do not fit.
    """
    graph: list[dict[str, Any]] = []
    header: dict[str, Any] = {}
    blob = bytearray()
    for k, node in enumerate(nodes):
        entry: dict[str, Any] = {"op": OPS[type(node)]}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if isinstance(value, np.ndarray):
                name = f"{k}.{field.name}"
                data = np.ascontiguousarray(value, dtype="<f4").tobytes()
                header[name] = {
                    "dtype": "F32",
                    "shape": list(value.shape),
                    "data_offsets": [len(blob), len(blob) + len(data)],
                }
                blob += data
                value = name
            entry[field.name] = value
        graph.append(entry)
    metadata = {"format": c.NETWORK_FORMAT, "graph": json.dumps(graph, separators=(",", ":"))}
    head = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return parse.network(len(head).to_bytes(8, "little") + head + bytes(blob))


class PlainModule(nn.Module):
    """Computes a plain network on a batch: (N, *input_shape) -> logits (N, K). Differentiable.

    Weights are frozen parameters (`requires_grad=False`), so `.to(device, dtype)` works and attacks do not
    spend time on weight gradients. `preactivations=True` also returns every node's value.
    """

    def __init__(self, network: c.PlainNetwork) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.ParameterDict()
        for k, node in enumerate(network.nodes):
            for field in dataclasses.fields(node):
                value = getattr(node, field.name)
                if isinstance(value, np.ndarray):
                    self.weights[f"{k}_{field.name}"] = nn.Parameter(
                        torch.from_numpy(value.copy()), requires_grad=False
                    )

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """Every node's value, each (N, *shapes[k])."""
        expected = self.network.input_shape
        if tuple(x.shape[1:]) != expected:
            raise ValueError(f"inputs must have shape (N, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        values: list[Tensor] = []
        for k, node in enumerate(self.network.nodes):
            arguments = [values[i] for i in getattr(node, "inputs", ())]
            values.append(x if k == 0 else self.node_value(k, node, arguments))
        return values

    def weight(self, k: int, name: str) -> Tensor:
        return self.weights[f"{k}_{name}"]

    def node_value(self, k: int, node: c.Node, args: list[Tensor]) -> Tensor:
        """The value of node k given its inputs' values (not `_apply`: torch modules own that name)."""
        match node:
            case c.Linear():
                return F.linear(args[0], self.weight(k, "weight"), self.weight(k, "bias"))
            case c.Conv2d():
                weight, bias = self.weight(k, "weight"), self.weight(k, "bias")
                top, left, bottom, right = node.padding
                if (top, left) == (bottom, right):
                    # the convolution's own padding copies nothing
                    return F.conv2d(args[0], weight, bias, node.stride, (top, left), node.dilation, node.groups)
                padded = pad(args[0], node.padding, 0.0)
                return F.conv2d(padded, weight, bias, node.stride, 0, node.dilation, node.groups)
            case c.BatchNorm():
                mean, variance = self.weight(k, "mean"), self.weight(k, "variance")
                scale, shift = self.weight(k, "scale"), self.weight(k, "shift")
                return F.batch_norm(args[0], mean, variance, scale, shift, False, 0.0, node.epsilon)
            case c.Shift():
                return args[0] + self.weight(k, "constant")
            case c.Scale():
                return args[0] * self.weight(k, "constant")
            case c.Divide():
                return args[0] / self.weight(k, "constant")
            case c.Relu():
                return F.relu(args[0])
            case c.LeakyRelu():
                return F.leaky_relu(args[0], node.slope)
            case c.Sigmoid():
                return torch.sigmoid(args[0])
            case c.Tanh():
                return torch.tanh(args[0])
            case c.MaxPool2d():
                return F.max_pool2d(pad(args[0], node.padding, -math.inf), node.kernel, node.stride)
            case c.AveragePool2d():
                return average_pool(args[0], node)
            case c.Pad():
                sides = [n for pair in reversed(list(zip(node.before, node.after, strict=True))) for n in pair]
                return F.pad(args[0], sides, value=node.value)
            case c.Slice():
                ranges = zip(node.start, node.stop, node.step, strict=True)
                return args[0][(slice(None), *(slice(a, b, s) for a, b, s in ranges))]
            case c.Concat():
                return torch.cat(args, dim=1)
            case c.Add():
                return args[0] + args[1]
            case c.Flatten():
                return args[0].flatten(1)
            case c.Input():
                raise TypeError("input nodes have no rule")


def pad(x: Tensor, padding: tuple[int, int, int, int], value: float) -> Tensor:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def average_pool(x: Tensor, node: c.AveragePool2d) -> Tensor:
    """Mean over windows; the denominator counts padded cells iff `node.count_padding`."""
    padded = pad(x, node.padding, 0.0)
    if node.count_padding or not any(node.padding):
        return F.avg_pool2d(padded, node.kernel, node.stride)
    ones = pad(torch.ones_like(x[:1, :1]), node.padding, 0.0)
    share = F.avg_pool2d(ones, node.kernel, node.stride)
    return F.avg_pool2d(padded, node.kernel, node.stride) / share

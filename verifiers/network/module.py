"""The plain network on the untrusted side: its canonical bytes, and a torch module that computes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proofs_check import certificate as c
from proofs_check.reading import parse
from verifiers.layers import layer
from verifiers.layers.layer import arrays

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
                number = "<i4" if value.dtype.kind == "i" else "<f4"
                data = np.ascontiguousarray(value, dtype=number).tobytes()
                header[name] = {
                    "dtype": {"<f4": "F32", "<i4": "I32"}[number],
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
        weights = {name: self.weight(k, name) for name in arrays(node)}
        return layer(self.network, k, weights).value(*args)

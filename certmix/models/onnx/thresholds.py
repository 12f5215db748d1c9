"""Softplus as torch's exporter writes it: the value itself above a threshold, where float32 gives no other number.

torch.nn.Softplus is log(1 + exp(beta x)) / beta, computed as x "for numerical stability" where beta x exceeds a
threshold (torch's documentation); the function that is meant, and that becomes a plain network, is the first.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

# log(1 + exp(u)) - u < exp(-u) <= 2^-24.5 < half a unit in the last place of u in float32, for every u above
SAME_IN_FLOAT32 = 17.0


def without_thresholds(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of `graph`, in order; of Where(u > t, x, softplus) with t >= 17 only the softplus is left.

    softplus: Softplus(u) with u = x, or Softplus(u) / beta with u = beta x. Any other Where is left as it is.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def made_by(name: str, kind: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        return node if node is not None and node.op_type == kind and node.domain in ("", "ai.onnx") else None

    def number(name: str) -> float | None:
        """Of a constant with one cell, as float32."""
        node = makers.get(name)
        if name in stored:
            value = numpy_helper.to_array(stored[name])
        elif node is not None and node.op_type in ("Cast", "CastLike", "Identity"):
            return number(node.input[0])
        elif node is not None and node.op_type == "Constant" and node.attribute[0].name in ("value", "value_float"):
            given = helper.get_attribute_value(node.attribute[0])
            value = np.asarray(given if isinstance(given, float) else numpy_helper.to_array(given))
        else:
            return None
        return float(np.float32(value.reshape(()))) if value.size == 1 and value.dtype.kind in "fiu" else None

    def softplus_of(node: onnx.NodeProto) -> str | None:
        """What stands for the Where."""
        above, (_, value, otherwise) = made_by(node.input[0], "Greater"), node.input
        threshold = None if above is None else number(above.input[1])
        if above is None or threshold is None or not threshold >= SAME_IN_FLOAT32:
            return None
        scaled, divided = above.input[0], made_by(otherwise, "Div")
        plain = made_by(otherwise if divided is None else divided.input[0], "Softplus")
        if plain is None or plain.input[0] != scaled:
            return None
        if divided is None:
            return otherwise if value == scaled else None
        times, beta = made_by(scaled, "Mul"), number(divided.input[1])
        same = times is not None and times.input[0] == value and number(times.input[1]) == beta
        return otherwise if same and beta is not None and beta > 0 else None

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        kept = softplus_of(node) if node.op_type == "Where" and len(node.input) == 3 else None
        nodes.append(node if kept is None else helper.make_node("Identity", [kept], list(node.output), name=node.name))
    return nodes

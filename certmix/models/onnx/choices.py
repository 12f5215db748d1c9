"""Choices between two values, Where(a > b, u, v), that are one continuous function.

Maxima, minima, |x| and leaky ReLUs spelled as choices are these functions exactly: u = v where a = b. Softplus as
torch's exporter writes it is the value itself above a threshold, where float32 gives no other number: torch.nn.Softplus
is log(1 + exp(beta x)) / beta, computed as x "for numerical stability" where beta x exceeds a threshold (torch's
documentation); the function that is meant, and that becomes a plain network, is the first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

# log(1 + exp(u)) - u < exp(-u) <= 2^-24.5 < half a unit in the last place of u in float32, for every u above
SAME_IN_FLOAT32 = 17.0
FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
COMPARISONS = {"Greater": False, "GreaterOrEqual": False, "Less": True, "LessOrEqual": True}  # whether a < b is meant


def without_choices(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of `graph`, in order; in place of Where, of a condition that depends on the input:

    Max, Min(a, b) of a choice between a and b by their comparison; Abs(x), -Abs(x), LeakyRelu(x) of one between x and a
    multiple of x by the sign of x; softplus of Where(u > t, x, softplus) with t >= 17, where softplus is Softplus(u)
    with u = x, or Softplus(u) / beta with u = beta x. Any other Where is left as it is.
    """
    known, nodes = _Graph.of(graph), list[onnx.NodeProto]()
    for node in graph.node:
        is_where = node.op_type == "Where" and node.domain in ("", "ai.onnx") and len(node.input) == 3
        chosen = _choice(known, node) if is_where else None
        kept = None if chosen is None else _softplus(known, chosen)
        if kept is not None:
            nodes.append(helper.make_node("Identity", [kept], list(node.output), name=node.name))
        else:
            nodes += (chosen and _pieces(known, chosen, node)) or [node]
    return nodes


@dataclass(frozen=True)
class _Choice:
    """`above` where left > right, `below` where left < right, either where they are equal; names of values."""

    left: str
    right: str
    above: str
    below: str


@dataclass(frozen=True)
class _Graph:
    """By whom each value is made, what is stored, and what depends on the input."""

    makers: dict[str, onnx.NodeProto]
    stored: dict[str, onnx.TensorProto]
    of_input: set[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Graph:
        stored = {tensor.name: tensor for tensor in graph.initializer}
        of_input = {value.name for value in graph.input} - set(stored)
        for node in graph.node:
            if of_input & set(node.input) and node.op_type not in ("Shape", "Size"):
                of_input |= set(node.output)
        return cls({name: node for node in graph.node for name in node.output}, stored, of_input)

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        node = self.makers.get(self.origin(name))
        return node if node is not None and node.op_type in kinds and node.domain in ("", "ai.onnx") else None

    def origin(self, name: str) -> str:
        """The value that Identity nodes only gave another name."""
        while (node := self.makers.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return name

    def number(self, name: str) -> float | None:
        """Of a constant with one cell, which broadcasts to whatever it stands beside, as float32."""
        node = self.makers.get(name)
        if name in self.stored:
            value = numpy_helper.to_array(self.stored[name])
        elif node is not None and node.op_type == "Identity":
            return self.number(node.input[0])
        elif node is not None and node.op_type in ("Cast", "CastLike"):
            kept = self.of_input & set(node.input) or any(a.i in (FLOAT, DOUBLE) for a in node.attribute)
            return self.number(node.input[0]) if kept else None
        elif node is not None and node.op_type == "Constant" and node.attribute[0].name in ("value", "value_float"):
            given = helper.get_attribute_value(node.attribute[0])
            value = np.asarray(given if isinstance(given, float) else numpy_helper.to_array(given))
        else:
            return None
        single = value.size == 1 and value.ndim <= 1 and value.dtype.kind in "fiu"
        return float(np.float32(value.reshape(()))) if single else None

    def same(self, name: str, other: str) -> bool:
        value = self.number(name)
        return self.origin(name) == self.origin(other) or (value is not None and value == self.number(other))

    def multiple(self, name: str, of: str) -> float | None:
        """k where the value is k times the other."""
        if self.made_by(name, "Neg") is not None:
            return -1.0 if self.same(self.makers[self.origin(name)].input[0], of) else None
        times = self.made_by(name, "Mul")
        for one, other in (times.input, reversed(times.input)) if times is not None else ():
            if self.same(one, of) and (factor := self.number(other)) is not None and np.isfinite(factor):
                return factor
        minus = self.made_by(name, "Sub")
        if minus is not None and self.number(minus.input[0]) == 0 and self.same(minus.input[1], of):
            return -1.0
        return None


def _choice(known: _Graph, node: onnx.NodeProto) -> _Choice | None:
    """What Where chooses between, by a comparison of values that depend on the input."""
    condition, first, second = node.input
    while (negated := known.made_by(condition, "Not")) is not None:
        condition, first, second = negated.input[0], second, first
    compared = known.made_by(condition, *COMPARISONS)
    if compared is None or condition not in known.of_input:
        return None
    if COMPARISONS[compared.op_type]:
        first, second = second, first
    left, right = compared.input
    return _Choice(left, right, first, second)


def _pieces(known: _Graph, chosen: _Choice, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that stand for a choice between pieces that meet; none: it is no such choice."""
    left, right, above, below = dataclasses.astuple(chosen)
    output = list(node.output)
    for kind, u, v in (("Max", left, right), ("Min", right, left)):
        if known.same(above, u) and known.same(below, v):
            return [helper.make_node(kind, [left, right], output, name=node.name)]
    if known.number(left) == 0:  # the sign of the other is asked for, too
        left, right, above, below = right, left, below, above
    if known.number(right) != 0:
        return []
    slope = known.multiple(below, left) if known.same(above, left) else None
    if slope is not None:
        if slope == -1:
            return [helper.make_node("Abs", [left], output, name=node.name)]
        return [helper.make_node("LeakyRelu", [left], output, name=node.name, alpha=slope)]
    if known.same(below, left) and known.multiple(above, left) == -1:
        size = f"{node.output[0]} of Abs"
        return [helper.make_node("Abs", [left], [size]), helper.make_node("Neg", [size], output, name=node.name)]
    return []


def _softplus(known: _Graph, chosen: _Choice) -> str | None:
    """The softplus that stands for a choice between it and the value itself above a threshold."""
    threshold = known.number(chosen.right)
    if threshold is None or not threshold >= SAME_IN_FLOAT32:
        return None
    scaled, value, otherwise = chosen.left, chosen.above, chosen.below
    divided = known.made_by(otherwise, "Div")
    plain = known.made_by(otherwise if divided is None else divided.input[0], "Softplus")
    if plain is None or not known.same(plain.input[0], scaled):
        return None
    if divided is None:
        return otherwise if known.same(value, scaled) else None
    times, beta = known.made_by(scaled, "Mul"), known.number(divided.input[1])
    same = times is not None and known.same(times.input[0], value) and known.number(times.input[1]) == beta
    return otherwise if same and beta is not None and beta > 0 else None

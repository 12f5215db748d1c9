"""The end of an ONNX graph: which output holds the logits, and what is behind them that the mix does itself.

softmax(T logsoftmax(z)) = softmax(T z) for every T, since logsoftmax(z) = z - c with one number c for all classes: a
LogSoftmax over the classes changes no probability, no difference of logits and so no certificate, and is left out.
Only what acts on each logit by itself differs, as the transform of an adaptive mix: it acts on z. A Softmax is not left
out, unless it is asked for: the mix would take softmax of probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import helper, shape_inference

from certmix.data.features import Features
from certmix.errors import UsageError
from certmix.models.preprocess import Preprocess

Outputs = Literal["logits", "probabilities"]
MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")  # all cells, as they are
LEFT_OUT = {
    "LogSoftmax": "ends in LogSoftmax, which is left out: it changes no probability, at any temperature",
    "Softmax": "ends in Softmax, which is left out: its probabilities are softmax of the logits before it",
}
ASK = (
    "ends in Softmax, and the mix takes softmax of its outputs again: with --outputs probabilities it takes the logits "
    "before it, so that its probabilities are those it gives"
)


@dataclass(frozen=True)
class Asked:
    """What is asked of one model's ends: see `ended`, and of what is put in front of it."""

    output: str | None = None
    outputs: Outputs | None = None
    preprocess: Preprocess | None = None
    features: Features | None = None


@dataclass(frozen=True)
class Ended:
    """A model with one output, its logits. tail: what was left out behind them."""

    model: onnx.ModelProto
    tail: Literal["LogSoftmax", "Softmax"] | None

    @property
    def note(self) -> str | None:
        """The same in words."""
        return None if self.tail is None else LEFT_OUT[self.tail]


def ended(model: onnx.ModelProto, output: str | None = None, outputs: Outputs | None = None) -> Ended:
    """The model up to its logits.

    output: the name of the value that holds them, or what follows them; None: the only output. outputs: what that value
    is; None: logits, and a Softmax at the end is refused. Raises UsageError.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    _keep(graph, output)
    tail = _tail(cut)
    what = tail[0].op_type if tail else None
    if what == "Softmax" and outputs is None:
        raise UsageError(ASK)
    if outputs == "probabilities" and what != "Softmax":
        raise UsageError(
            "does not end in Softmax over its classes: its outputs cannot be taken for probabilities (of one model "
            "alone: --outputs robust=probabilities)"
        )
    if what is None or (what == "Softmax" and outputs == "logits"):
        return Ended(cut, None)
    for node in tail:
        node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), node.name))
    return Ended(cut, "Softmax" if what == "Softmax" else "LogSoftmax")


def _keep(graph: onnx.GraphProto, output: str | None) -> None:
    """Leave that output alone. It may also be the name of a value inside."""
    names = [value.name for value in graph.output]
    if output is None:
        if len(names) != 1:
            raise UsageError(
                f"has {len(names)} outputs, {_listed(names)}: name the one that holds the logits (--output)"
            )
        return
    inside = {value.name: value for value in graph.value_info}
    given = {value.name: value for value in graph.output}
    if output not in given and not any(output in node.output for node in graph.node):
        raise UsageError(f"has no output {output!r}: its outputs are {_listed(names)}")
    kept = given.get(output) or inside.get(output) or onnx.ValueInfoProto(name=output)
    kept = onnx.ValueInfoProto.FromString(kept.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _tail(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """A LogSoftmax or Softmax over the classes, or Log and such a Softmax; behind it cells are only put elsewhere."""
    makers = {name: node for node in model.graph.node for name in node.output if node.domain in ("", "ai.onnx")}
    node, found = makers.get(model.graph.output[0].name), list[onnx.NodeProto]()
    while node is not None and node.op_type in MOVES:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Log":
        found, node = [node], makers.get(node.input[0])
    names = ("Softmax",) if found else ("LogSoftmax", "Softmax")
    return [*found, node] if node is not None and node.op_type in names and _over_classes(model, node) else []


def _over_classes(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a softmax is over all that belongs to one input: no other axis but the first is longer than 1."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
    known = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: v.type.tensor_type.shape for v in (*known.value_info, *known.output, *known.input)}
    lengths = [d.dim_value for d in shapes[node.input[0]].dim] if node.input[0] in shapes else []
    if not lengths:
        return False
    first = axis % len(lengths)
    over = range(first, len(lengths)) if opset < 13 else [first]
    return (first > 0 or len(lengths) == 1) and all(n == 1 for k, n in enumerate(lengths) if k > 0 and k not in over)

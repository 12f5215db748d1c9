"""From ONNX bytes to the plain network: reads the file, folds constants, walks the graph.

The graph is read at batch size 1, so every intermediate shape is known and shape arithmetic folds away.
What a single operator becomes stands in `onnx_operators`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import graphlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.checker
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper, numpy_helper

from certmix.data import file_kinds
from certmix.errors import UsageError
from certmix.models.onnx.call import Builder, Call, Parts, Value, refusal
from certmix.models.onnx.choices import without_choices
from certmix.models.onnx.folding import evaluated, one_line
from certmix.models.onnx.operators import CAN_FOLD, OPERATORS
from certmix.models.onnx.view import View
from certmix.models.simplify import simplify
from proofs_check.certificate import MalformedError, PlainNetwork
from verifiers.network import module as plain

EXPORT_AGAIN = "export the model again"
ONE_OF_EACH = "needs one of each: make the other inputs constants, name the output that holds the logits"


def read_file(path: Path) -> onnx.ModelProto:
    """The model in one ONNX file, external tensors included if they lie in the file's folder.

    Raises UsageError: no such file, not ONNX, truncated, invalid, external data outside the folder.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file: give the path of an ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
        for tensor in _tensors(model.graph):
            if external_data_helper.uses_external_data(tensor):
                _load_external(tensor, path.resolve().parent)
        _sort(model.graph)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise UsageError(f"{path}: {error}") from error
        what = file_kinds.kind(path)
        if what is not None:
            raise UsageError(f"{path}: is {what}") from error
        raise UsageError(f"{path}: not a complete ONNX model ({one_line(error)}): {EXPORT_AGAIN}") from error
    return model


def _sort(graph: onnx.GraphProto) -> None:
    """Nodes after those they read from, as the standard demands and not all writers do; a circle is left as it is."""
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output}
    reads = {k: {makers[name] for name in node.input if name in makers} for k, node in enumerate(graph.node)}
    if all(max(before, default=-1) < k for k, before in reads.items()):
        return
    order: list[int] = []
    with contextlib.suppress(graphlib.CycleError):
        sorter = graphlib.TopologicalSorter(reads)
        sorter.prepare()
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
        nodes = [onnx.NodeProto.FromString(graph.node[k].SerializeToString()) for k in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    constants = [a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    return [*graph.initializer, *constants]


def _load_external(tensor: onnx.TensorProto, folder: Path) -> None:
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    if not (folder / location).resolve().is_relative_to(folder):
        raise UsageError(f"tensor {tensor.name!r} lies outside the model's folder, in {location!r}: store it inside")
    external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names of the model's one input and output, and the shape of one input.

    batch: how many inputs it takes at once: any number, a fixed one, which is read as any, one (a first axis of length
    1), or one without a batch axis.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    batch: Literal["any", "fixed", "one", "none"]

    @property
    def graph_shape(self) -> tuple[int, ...]:
        """Of the graph's input, at batch size 1."""
        return self.shape if self.batch == "none" else (1, *self.shape)


def signature(model: onnx.ModelProto) -> Signature:
    """Raises UsageError unless the model maps one float32 tensor of known shape, but for its batch axis, to one tensor.

    A first axis longer than 1 is a batch axis only where the output has it too.
    """
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UsageError(f"has {len(inputs)} inputs and {len(model.graph.output)} outputs, {ONE_OF_EACH}")
    name, output = inputs[0].name, model.graph.output[0]
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UsageError(f"input {name!r} is not float32: export the model in float32")
    sizes = _sizes(inputs[0])
    if sizes is None or any(n is None for n in sizes[1:]):
        raise UsageError(
            f"input {name!r} has shape {sizes}, needs one whose axes have known lengths, but for a batch axis in front"
        )
    shape = tuple(n for n in sizes if n is not None)
    if sizes and sizes[0] is None:
        return Signature(name, output.name, shape, "any")
    if len(sizes) > 1 and sizes[0] == 1:
        return Signature(name, output.name, shape[1:], "one")
    if len(sizes) > 1 and (_sizes(output) or [])[:1] == sizes[:1]:
        return Signature(name, output.name, shape[1:], "fixed")
    return Signature(name, output.name, shape, "none")


FIXED = "its batch axis is fixed: export with a dynamic batch axis or a batch of 1"


def _sizes(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The length of every axis, None where it is not known; None: not even their number is."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]


def plain_network(model: onnx.ModelProto) -> PlainNetwork:
    """The plain network that computes `model` on one input.

    Ensures: constants keep their exact float32 values (x - c becomes a shift by -c, x / c a division), so
    that in real arithmetic both compute the same function, but for a Softplus with torch's threshold, which is Softplus
    (`choices`: the same in float32, relatively less than 2^-28 apart). Raises UsageError naming the operator and
    node that has no counterpart.
    """
    ends = signature(model)
    try:
        return _read_graph(model, ends)
    except UsageError as error:
        if ends.batch != "fixed":
            raise
        raise UsageError(f"{error}; {FIXED}") from error


def _read_graph(model: onnx.ModelProto, ends: Signature) -> PlainNetwork:
    builder = Builder(ends.shape, ends.batch in ("any", "fixed"))
    values: dict[str, Value] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values[ends.input] = builder.view(0, ends.graph_shape)
    values[""] = None
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    for node in _needed(model.graph, ends.output):
        _read_node(node, values, builder, opset)
    result = values.get(ends.output)
    if not isinstance(result, View):
        raise UsageError(f"output {ends.output!r} does not depend on the input: {EXPORT_AGAIN}")
    if ends.batch == "none" and len(result.shape) > 1 and result.shape[0] == ends.shape[0]:
        raise UsageError(f"output {ends.output!r} has shape {result.shape}; {FIXED}")
    if max(result.shape, default=1) < math.prod(result.shape):
        raise UsageError(f"output {ends.output!r} has shape {result.shape}: the output must be one vector of logits")
    try:
        last = builder.plain(result, (math.prod(result.shape),))
        return plain.build(simplify(builder.nodes, last))
    except MalformedError as error:
        raise UsageError(_not_finite(values) or _unusable(error)) from error


def _not_finite(values: Mapping[str, Value]) -> str | None:
    """What is wrong with the first constant that holds NaN or an infinity; None if there is none."""
    for name, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            wrong = value[~np.isfinite(value)]
            return f"weight {name!r} holds {wrong[0]}: {wrong.size} of its {value.size} numbers are not finite"
    return None


def _unusable(error: MalformedError) -> str:
    return f"{error}: the output must be one vector of logits" if "logits" in error.reason else str(error)


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that `output` depends on, in the graph's (topological) order."""
    wanted, nodes = {output}, []
    for node in reversed(without_choices(graph)):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    return nodes[::-1]


def _read_node(node: onnx.NodeProto, values: dict[str, Value], builder: Builder, opset: int) -> None:
    label = f"operator {node.op_type} (node {node.name or node.output[0]!r})"
    missing = [name for name in node.input if name not in values]
    if missing:
        raise UsageError(f"{label}: input {missing[0]!r} is an output that is not supported")
    inputs = tuple(values[name] for name in node.input)
    in_onnx_domain = node.domain in ("", "ai.onnx")
    constant = not any(isinstance(value, View | Parts) for value in inputs)
    if in_onnx_domain and constant and node.op_type in CAN_FOLD:
        values.update(zip(node.output, evaluated(node, inputs, opset, label), strict=True))
        return
    operator = OPERATORS.get(node.op_type) if in_onnx_domain else None
    if operator is None:
        hint = (
            "end the model before it" if node.op_type == "LogSoftmax" else "docs/operators.md lists those that have one"
        )
        raise UsageError(f"{label} has no counterpart in the plain network: {hint}")
    if node.op_type != "Concat" and any(isinstance(value, View) and 0 in value.shape for value in inputs):
        raise UsageError(f"{label}: takes a value without cells: {EXPORT_AGAIN}, without what leaves nothing")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    try:
        result = operator(Call(label, node, opset, inputs, attributes, builder))
    except MalformedError as error:
        raise UsageError(refusal(label, error.reason)) from error
    results = result if isinstance(result, tuple) else (builder.view(result) if isinstance(result, int) else result,)
    values.update(zip(node.output, results, strict=False))

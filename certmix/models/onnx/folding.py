"""ONNX operators on arrays: constants, and the numbers of cells that a node moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from certmix.errors import UsageError


def one_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def evaluated(node: onnx.NodeProto, inputs: Sequence[Any], opset: int, label: str) -> list[np.ndarray]:
    """The node's outputs, all its inputs being arrays (None: left out). Raises UsageError, named by `label`."""
    model, given = _alone(node, inputs, opset)
    try:
        results = ReferenceEvaluator(model).run(None, given)
    except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError, MemoryError) as error:
        raise UsageError(f"{label}: its constant inputs do not fold ({one_line(error)})") from error
    return [np.asarray(result) for result in results]


def in_onnxruntime(node: onnx.NodeProto, inputs: Sequence[Any], opset: int, label: str) -> np.ndarray:
    """The node's one output, as onnxruntime gives it. Raises UsageError, named by `label`."""
    model, given = _alone(node, inputs, opset)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, given)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise UsageError(f"{label}: onnxruntime cannot run it ({one_line(error)})") from error
    return np.asarray(result)


def _alone(node: onnx.NodeProto, inputs: Sequence[Any], opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and its inputs by name."""
    given = {name: np.asarray(value) for name, value in zip(node.input, inputs, strict=True) if name}
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    graph = helper.make_graph([node], "fold", infos, [onnx.ValueInfoProto(name=name) for name in node.output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), given

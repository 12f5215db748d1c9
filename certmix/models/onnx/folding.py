"""ONNX operators on arrays: constants, and the numbers of cells that a node moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from certmix.errors import UsageError


def one_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def evaluated(node: onnx.NodeProto, inputs: Sequence[Any], opset: int, label: str) -> list[np.ndarray]:
    """The node's outputs, all its inputs being arrays (None: left out). Raises UsageError, named by `label`."""
    given = {name: np.asarray(value) for name, value in zip(node.input, inputs, strict=True) if name}
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    graph = helper.make_graph([node], "fold", infos, [onnx.ValueInfoProto(name=name) for name in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(model).run(None, given)
    except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError, MemoryError) as error:
        raise UsageError(f"{label}: its constant inputs do not fold ({one_line(error)})") from error
    return [np.asarray(result) for result in results]

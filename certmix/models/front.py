"""What is written in front of an ONNX model, or filled in, so that it takes the inputs at hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from certmix.models.runtime import Ends

Shape = tuple[int, ...]


def with_shape(model: onnx.ModelProto, ends: Ends, shape: Shape) -> onnx.ModelProto:
    """The model with the open axes of its input set to those of `shape`, which has as many."""
    filled = _copy(model)
    for dim, size in zip(_dims(filled, ends)[-len(shape) :], shape, strict=True):
        dim.dim_value = size
    return filled


def same_pixels(found: Shape, wanted: Shape) -> bool:
    """Whether inputs of both shapes hold the same numbers in one order, whatever convention: they differ in axes of
    length one, or one is a grey image and the other its rows in a row. (Of channels either order is in use.)"""
    a, b = (tuple(n for n in shape if n != 1) for shape in (found, wanted))
    return a == b or (math.prod(a) == math.prod(b) and {len(a), len(b)} == {1, 2})


def reshaped(model: onnx.ModelProto, ends: Ends, shape: Shape) -> onnx.ModelProto:
    """The model as one of inputs of this shape, each put into its own."""
    before = _copy(model)
    dims = _dims(before, ends)
    own, first = [d.dim_value or -1 for d in dims], [] if ends.batch == 0 else [_copied(dims[0])]
    del dims[:]
    dims.extend([*first, *(onnx.TensorShapeProto.Dimension(dim_value=n) for n in shape)])
    inner, target = f"{ends.input} as the model takes it", f"shape of {ends.input}"
    for node in before.graph.node:
        node.input[:] = [inner if name == ends.input else name for name in node.input]
    before.graph.initializer.append(numpy_helper.from_array(np.array(own, dtype=np.int64), target))
    before.graph.node.insert(0, helper.make_node("Reshape", [ends.input, target], [inner], name="reshape the input"))
    return before


def _dims(model: onnx.ModelProto, ends: Ends) -> Any:
    (value,) = (v for v in model.graph.input if v.name == ends.input)
    return value.type.tensor_type.shape.dim


def _copied(dim: onnx.TensorShapeProto.Dimension) -> onnx.TensorShapeProto.Dimension:
    kept = onnx.TensorShapeProto.Dimension()
    kept.CopyFrom(dim)
    return kept


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied

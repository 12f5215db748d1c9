"""One ONNX node as the operator functions see it: its inputs' values, attributes, and the plain nodes so far.

Values are plain-node indices (int: depends on the model's input, shape without the batch axis), arrays
(constants) or None (an optional input left out). The batch axis is axis 0 of ONNX and has size 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

import numpy as np

from certmix.errors import UsageError
from proofs_check import certificate as c
from proofs_check.reading.shapes import output_shape

Value = int | np.ndarray | None
Shape = tuple[int, ...]


class Builder:
    """The plain nodes emitted so far, and the shape of each one's value."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[c.Node] = [c.Input(shape)]
        self.shapes: list[Shape] = [shape]
        self.input = 0

    def emit(self, node: c.Node) -> int:
        """Append `node`; its index. Raises MalformedError where shapes do not fit."""
        inputs = [self.shapes[i] for i in getattr(node, "inputs", ())]
        self.shapes.append(output_shape(node, inputs, "shape"))
        self.nodes.append(node)
        return len(self.nodes) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One ONNX node with its inputs' values; `label` names it in errors."""

    label: str
    inputs: tuple[Value, ...]
    attributes: dict[str, Any]
    builder: Builder

    def fail(self, reason: str) -> NoReturn:
        raise UsageError(f"{self.label}: {reason}")

    def value(self, k: int) -> Value:
        return self.inputs[k] if k < len(self.inputs) else None

    def data(self, k: int = 0) -> int:
        """Input k, which must depend on the model's input."""
        value = self.value(k)
        return value if isinstance(value, int) else self.fail(f"input {k} must not be a constant")

    def shape(self, k: int = 0) -> Shape:
        return self.builder.shapes[self.data(k)]

    def constant(self, k: int) -> np.ndarray:
        value = self.value(k)
        return value if isinstance(value, np.ndarray) else self.fail(f"input {k} must be a constant")

    def weight(self, k: int) -> c.Float32Array:
        """Constant input k, which must be float32."""
        value = self.constant(k)
        if value.dtype != np.float32:
            self.fail(f"input {k} is {value.dtype}, needs float32")
        return value

    def attribute(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def integers(self, k: int, name: str) -> list[int] | None:
        """Integers given as constant input k (newer opsets) or as attribute `name` (older), or None."""
        if self.value(k) is not None:
            return [int(n) for n in self.constant(k).ravel()]
        value = self.attributes.get(name)
        return None if value is None else [int(n) for n in value]

    def image(self) -> Shape:
        """The shape of input 0, which must be (channels, height, width)."""
        shape = self.shape()
        return shape if len(shape) == 3 else self.fail(f"needs a 2-d image, got a value of shape {shape}")

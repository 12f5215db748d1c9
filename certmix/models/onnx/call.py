"""One ONNX node as the operator functions see it: its inputs' values, attributes, and the plain nodes so far.

Values are views of plain nodes (what depends on the model's input), arrays (constants) or None (an optional input left
out). An operator function may also return the number of a plain node: its value with a batch axis of size 1 in front.
Of several outputs it returns all. What acts on each cell by itself is written for plain nodes, and made to serve views
by `cellwise`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import onnx

from certmix.errors import UsageError
from certmix.models.onnx.folding import one_line
from certmix.models.onnx.view import Shape, View, natural
from proofs_check import certificate as c
from proofs_check.reading.shapes import output_shape


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A sequence of values, of which an operator takes one."""

    views: tuple[View, ...]


Value = View | np.ndarray | Parts | None
Input = Value | int
Result = Value | int | tuple[View, ...]


HELP = "docs/operators.md says what has a plain form; write this in its terms, and export again"


class Builder:
    """The plain nodes emitted so far, and the shape of each one's value.

    any_batch: the graph's batch axis may be longer than 1, at which it is read. gathered: nodes that move cells.
    emitted: others that are cheap to compare, by all that they are.
    """

    def __init__(self, shape: Shape, any_batch: bool) -> None:
        self.any_batch = any_batch
        self.nodes: list[c.Node] = [c.Input(shape)]
        self.shapes: list[Shape] = [shape]
        self.gathered: dict[tuple[int, Shape, bytes], int] = {}
        self.emitted: dict[tuple[object, ...] | None, int] = {}

    def emit(self, node: c.Node) -> int:
        """Append `node`, unless the same is there; its index. Raises MalformedError where shapes do not fit."""
        inputs = [self.shapes[i] for i in getattr(node, "inputs", ())]
        key = None
        if isinstance(node, c.Add | c.Relu | c.Slice | c.WithConstant):
            fields = vars(node).values()
            key = (type(node), *((v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in fields))
        if key in self.emitted:
            return self.emitted[key]
        self.shapes.append(output_shape(node, inputs, "shape"))
        self.nodes.append(node)
        if key is not None:
            self.emitted[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def view(self, node: int, shape: Shape | None = None) -> View:
        """All cells of a node in C order; shape: in ONNX."""
        return View(node, (1, *self.shapes[node]) if shape is None else shape, math.prod(self.shapes[node]))

    def plain(self, view: View, shape: Shape) -> int:
        """A node whose value, of this plain shape, has the view's cells in C order."""
        node, order = view.node, view.order
        if order is None and self.shapes[node] == shape:
            return node
        while isinstance(below := self.nodes[node], c.Flatten | c.Gather):  # move once, and only if need be
            if isinstance(below, c.Gather):
                cells = below.index.ravel().astype(np.int64)
                order = cells if order is None else cells[order]
            node = below.inputs[0]
        size = math.prod(self.shapes[node])
        if order is None or (order.size == size and (order == np.arange(size)).all()):
            if self.shapes[node] == shape:
                return node
            if len(shape) == 1:
                return self._once((node, shape, b""), c.Flatten((node,)))
            order = np.arange(size)
        index = order.reshape(shape).astype(np.int32)
        return self._once((node, shape, index.tobytes()), c.Gather((node,), index))

    def _once(self, key: tuple[int, Shape, bytes], node: c.Node) -> int:
        if key not in self.gathered:
            self.gathered[key] = self.emit(node)
        return self.gathered[key]

    def vector(self, node: int) -> int:
        """The node's cells as a vector."""
        return self.plain(self.view(node), (math.prod(self.shapes[node]),))

    def untouched(self, view: View) -> bool:
        """The view is a batch of the vector or image that its node's value is."""
        plain = self.shapes[view.node]
        return view.order is None and view.shape == (1, *plain) and len(plain) in (1, 3)

    def whole(self, view: View) -> View:
        """The same value as all cells of a vector or an image, in any order: what acts on each cell by itself may act
        on that node's value."""
        if view.permuted and len(self.shapes[view.node]) in (1, 3):
            return view
        if view.permuted:
            return view.over(self.vector(view.node))
        return self.view(self.plain(view, natural(view.shape)), view.shape)

    def fitted(self, constant: np.ndarray, view: View) -> np.ndarray:
        """A constant that broadcasts against the view without enlarging it, to broadcast against its node's value."""
        plain = self.shapes[view.node]
        if self.untouched(view):
            leading = (1,) * (len(view.shape) - constant.ndim)
            return constant.reshape(*leading, *constant.shape)[0]
        cells = np.empty(view.cells, dtype=constant.dtype)
        cells[view.index.ravel()] = np.broadcast_to(constant, view.shape).ravel()
        cells = cells.reshape(plain)
        for axis in range(cells.ndim):
            if (cells == (first := cells.take([0], axis))).all():
                cells = first
        return cells

    def alike(self, view: View, kept: View) -> int:
        """A node with the view's cells, laid out as those of another view of its shape are in that one's node."""
        if kept.order is not None:
            view = view.at(view.index.ravel()[np.argsort(kept.order)])
        return self.plain(view, self.shapes[kept.node])


def refusal(label: str, reason: str) -> str:
    """Which node, why, and what would help, where the reason does not say."""
    return f"{label}: {reason}" + ("" if ": " in reason else f": {HELP}")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One ONNX node with its inputs' values; `label` names it in errors."""

    label: str
    node: onnx.NodeProto
    opset: int
    inputs: tuple[Input, ...]
    attributes: dict[str, Any]
    builder: Builder

    def fail(self, reason: str) -> NoReturn:
        raise UsageError(refusal(self.label, reason))

    def value(self, k: int) -> Input:
        return self.inputs[k] if k < len(self.inputs) else None

    def view(self, k: int = 0) -> View:
        """Input k, which must depend on the model's input."""
        value = self.value(k)
        return value if isinstance(value, View) else self.fail(f"input {k} must not be a constant")

    def data(self, k: int = 0) -> int:
        """The plain node of input k, which must be a batch of vectors or of images."""
        if isinstance(value := self.value(k), int):
            return value
        view = self.view(k)
        if view.shape[:1] != (1,) or len(view.shape) not in (2, 4):
            self.fail(f"needs a batch of vectors or images, got a value of shape {view.shape}")
        return self.builder.plain(view, view.shape[1:])

    def shape(self, k: int = 0) -> Shape:
        """The shape of input k without its batch axis."""
        return self.view(k).shape[1:]

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
        view = self.view()
        if len(view.shape) != 4 or view.shape[0] != 1:
            self.fail(
                f"needs a 2-d image, got a value of shape {view.shape[1:]}: volumes have no plain form; where one of "
                "their axes is left alone, move it into the channels"
            )
        return view.shape[1:]


def cellwise(function: Callable[[Call], int]) -> Callable[[Call], View]:
    """A function of plain nodes whose values are laid out alike, and of constants that broadcast against these, for
    views that broadcast against each other."""

    def on_views(call: Call) -> View:
        call.view(next((k for k, value in enumerate(call.inputs) if isinstance(value, View)), 0))
        try:
            shape = np.broadcast_shapes(*(value.shape for value in call.inputs if isinstance(value, View | np.ndarray)))
        except ValueError as error:
            call.fail(one_line(error))
        inputs = [value.broadcast(shape) if isinstance(value, View) else value for value in call.inputs]
        views = [value for value in inputs if isinstance(value, View)]
        kept = call.builder.whole(next((view for view in views if view.permuted), views[0]))
        plain: list[Input] = []
        for value in inputs:
            if isinstance(value, View):
                value = call.builder.alike(value, kept)
            elif isinstance(value, np.ndarray):
                value = call.builder.fitted(value, kept)
            plain.append(value)
        return kept.over(function(dataclasses.replace(call, inputs=tuple(plain))))

    return on_views

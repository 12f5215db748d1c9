"""Where a value of the ONNX graph stands among the plain nodes: moving its cells only rewrites that, and costs nothing.

ONNX shapes are at batch size 1 and include the batch axis; plain shapes do not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """A value of ONNX shape `shape`: its cells, in C order, are the cells `order` of plain node `node`, whose value has
    `cells` of them; None: all in C order."""

    node: int
    shape: Shape
    cells: int
    order: Index | None = None

    @property
    def index(self) -> Index:
        """(*shape): the cell of the node that stands at every place."""
        order = np.arange(self.cells, dtype=np.int64) if self.order is None else self.order
        return order.reshape(self.shape)

    @functools.cached_property
    def permuted(self) -> bool:
        """Every cell of the node stands at exactly one place."""
        if self.order is None:
            return True
        return self.order.size == self.cells and bool((np.bincount(self.order, minlength=self.cells) == 1).all())

    def moved(self, move: Callable[[Index], Index]) -> View:
        """The value whose cell at every place is the one that `move` puts there, applied to an array of this shape."""
        return self.at(move(self.index))

    def at(self, index: Index) -> View:
        """The value with these cells of the node, (*shape)."""
        whole = index.size == self.cells and bool((index.ravel() == np.arange(self.cells)).all())
        return View(self.node, index.shape, self.cells, None if whole else index.ravel())

    def reshaped(self, shape: Shape) -> View:
        """The same cells in C order. Requires: as many."""
        return View(self.node, shape, self.cells, self.order)

    def broadcast(self, shape: Shape) -> View:
        """By numpy's rules."""
        return self if self.shape == shape else self.moved(lambda index: np.broadcast_to(index, shape))

    def over(self, node: int) -> View:
        """The same places on another node whose value has the same shape."""
        return View(node, self.shape, self.cells, self.order)


def natural(shape: Shape) -> Shape:
    """The plain shape of a value of this ONNX shape: an image, or else a vector."""
    return shape[1:] if len(shape) == 4 and shape[0] == 1 else (math.prod(shape),)

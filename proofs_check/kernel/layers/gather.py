"""`flatten` and `gather`: cells change place; a gather may also drop some and repeat others.

Precondition and postcondition: `affine`. Charged: by `terms`, where cells are repeated: an adjoint adds up what forms
say of each copy. Else nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape, image, to_dense
from proofs_check.kernel.rounding import Array


class Flatten(Affine):
    """A form on the vector is one on the image, channels moved last."""

    moves = True

    @staticmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        return (math.prod(inputs[0]),)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0].reshape(-1, 1, 1)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        images = forms.values.reshape(-1, *self.shapes[0])
        return (LinearForms(np.ascontiguousarray(np.moveaxis(images, 1, -1)), None),)


class Gather(Flatten):
    """terms: as many as there are copies of one cell."""

    def __init__(self, node: c.Gather, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.index = node.index.astype(np.int64).reshape(image(node.index.shape))
        self.order = np.argsort(self.index, axis=None, kind="stable")  # copies of one cell stand together
        self.cells, self.starts = np.unique(self.index.ravel()[self.order], return_index=True)
        copies = int(np.bincount(self.index.ravel()).max())
        self.terms = copies if copies > 1 else 0

    @staticmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        inside = (node.index >= 0) & (node.index < math.prod(inputs[0]))
        wellformed(inside.all(), place, f"index must be 0 or more and below the {math.prod(inputs[0])} cells")
        return node.index.shape

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0].ravel()[self.index]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        values = np.moveaxis(to_dense(forms, self.index.shape).values, -1, 1)
        flat = values.reshape(len(values), -1)[:, self.order]
        cells = np.zeros((len(flat), math.prod(self.shapes[0])))
        cells[:, self.cells] = np.add.reduceat(flat, self.starts, axis=1)
        return super().adjoint(LinearForms(cells, None))

"""`average_pool2d`: the mean over windows.

Precondition and postcondition: `affine`. Charged: by `terms`, with them what the share of a cell is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import need
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape, take
from proofs_check.kernel.rounding import OVERFLOW_LIMIT, Array
from proofs_check.kernel.windows import Sliding, pooled_shape


class AveragePool2d(Affine):
    """terms: the cells of a window, the product with its share, and the share's own rounding."""

    def __init__(self, node: c.AveragePool2d, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.sliding = Sliding(node.kernel, node.stride, node.padding)
        self.terms = math.prod(node.kernel) + 2
        ones = self.sliding.windows(np.ones((1, *shapes[0][1:])), 1.0 if node.count_padding else 0.0)
        self.share = 1.0 / ones.sum(axis=(1, 2))

    @staticmethod
    def shape(node: c.AveragePool2d, inputs: Sequence[Shape], place: str) -> Shape:
        return pooled_shape(Sliding(node.kernel, node.stride, node.padding), inputs[0], place)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return self.sliding.windows(values[0], 0.0).sum(axis=(1, 2)) * self.share

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        shares = forms.values * take(self.share, forms)
        return (self.sliding.spread(forms, lambda _i, _j: shares, self.shapes[0]),)

    def stretch(self, largest: float) -> float:
        need(self.terms * largest <= OVERFLOW_LIMIT, "float32", "a sum may overflow float32")
        return 1.0

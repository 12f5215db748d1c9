"""`linear`: a matrix and a bias, of a vector.

Precondition and postcondition: `affine`. Charged: by `terms`; rows on which all forms are zero are left out, which
rounds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Norm, wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.norms import NORMS, spectral_norm
from proofs_check.kernel.rounding import Array


class Linear(Affine):
    """terms: the products of a row or a column, and the bias; the weights are exact."""

    def __init__(self, node: c.Linear, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.weight = node.weight.astype(np.float64)
        self.size = np.abs(self.weight)
        self.terms = max(self.weight.shape) + 1
        self._biased(node.bias.astype(np.float64)[:, None, None])

    @staticmethod
    def shape(node: c.Linear, inputs: Sequence[Shape], place: str) -> Shape:
        (vector,) = inputs
        fits = len(vector) == node.bias.ndim == 1 and node.weight.shape == node.bias.shape + vector
        wellformed(fits, place, f"weight {node.weight.shape}, bias {node.bias.shape} do not fit a vector {vector}")
        return node.bias.shape

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return ((self.size if absolute else self.weight) @ values[0][:, 0, 0])[:, None, None]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        weight = self.size if absolute else self.weight
        flat = forms.values[:, 0, 0]
        used = np.flatnonzero(flat.any(axis=0))
        product = flat @ weight if 4 * len(used) > 3 * len(weight) else flat[:, used] @ weight[used]
        return (LinearForms(product[:, None, None, :], None),)

    def operator_norm(self, norm: Norm) -> float:
        between = super().operator_norm(norm)
        return min(between, spectral_norm(self.weight)) if NORMS[norm].euclidean else between

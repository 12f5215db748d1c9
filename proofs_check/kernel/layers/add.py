"""`add`: the sum of two values, as where a residual connection ends.

Precondition and postcondition: `affine`. Charged: nothing here; a sum of two is rounded once, which `interval` covers.
"""

from __future__ import annotations

from collections.abc import Sequence

from proofs_check import certificate as c
from proofs_check.certificate import Norm, wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.norms import total_up
from proofs_check.kernel.rounding import Array


class Add(Affine):
    """Both weights are 1."""

    @staticmethod
    def shape(node: c.Add, inputs: Sequence[Shape], place: str) -> Shape:
        wellformed(inputs[0] == inputs[1], place, f"shapes differ: {inputs}")
        return inputs[0]

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] + values[1]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        return forms, forms

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        return total_up(before)

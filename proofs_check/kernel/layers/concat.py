"""`concat`: values side by side, along channels.

Precondition and postcondition: `affine`. Charged: nothing; cells only change place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Norm, wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.rounding import Array


class Concat(Affine):
    """One input after the other."""

    moves = True

    def __init__(self, node: c.Concat, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.ends = np.cumsum([s[0] for s in shapes])[:-1].tolist()

    @staticmethod
    def shape(node: c.Concat, inputs: Sequence[Shape], place: str) -> Shape:
        wellformed(inputs, place, "needs an input")
        wellformed(len({s[1:] for s in inputs}) == 1, place, f"shapes differ beyond axis 0: {inputs}")
        return (sum(s[0] for s in inputs), *inputs[0][1:])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.concatenate(values)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        return tuple(LinearForms(part, forms.corner) for part in np.split(forms.values, self.ends, axis=-1))

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        return NORMS[norm].size(before)

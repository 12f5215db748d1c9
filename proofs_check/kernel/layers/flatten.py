"""`flatten`: the cells of an image as a vector, in C order.

Precondition and postcondition: `affine`. Charged: nothing; cells only change place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.rounding import Array


class Flatten(Affine):
    """A form on the vector is one on the image, channels moved last."""

    moves = True

    @staticmethod
    def shape(node: c.Flatten, inputs: Sequence[Shape], place: str) -> Shape:
        return (math.prod(inputs[0]),)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0].reshape(-1, 1, 1)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        images = forms.values.reshape(-1, *self.shapes[0])
        return (LinearForms(np.ascontiguousarray(np.moveaxis(images, 1, -1)), None),)

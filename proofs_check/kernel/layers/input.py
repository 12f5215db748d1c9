"""`input`: the raw input, node 0.

Precondition: a float32 array. Postcondition: it is what the claim is about. Charged: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Norm, wellformed
from proofs_check.kernel.layers.layer import Layer
from proofs_check.kernel.linear_forms import Shape, image
from proofs_check.kernel.rounding import Array


class Input(Layer):
    """Every float32 in the ball is exact; the identity has constant 1."""

    def __init__(self, node: c.Input, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.image = image(node.shape)

    @staticmethod
    def shape(node: c.Input, inputs: Sequence[Shape], place: str) -> Shape:
        fits = len(node.shape) <= 8 and min(node.shape, default=1) >= 1
        wellformed(fits, place, f"input must have at most 8 axes, none of them empty, got {node.shape}")
        return node.shape

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        return np.zeros(self.image)

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        return 1.0

"""`batch_norm`, `shift`, `scale` and `divide`: a factor and an offset for every cell.

Precondition and postcondition: `affine`. Charged: by `terms`, with them what the factor is off the real one; what
cancels in a bias is in `bias_size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import need, wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape, take
from proofs_check.kernel.rounding import OVERFLOW_LIMIT, Array, need_bounded


class Diagonal(Affine):
    """gain * x + sum of `bias`, elementwise.

    terms: 2, for the product and the sum, plus the relative error of the gain in units of 2^-53; 0 if it is 1.
    """

    def __init__(self, node: Any, shapes: Sequence[Shape], terms: int, gain: Array, *bias: Array) -> None:
        super().__init__(node, shapes)
        need_bounded(gain, "network")
        self.terms = terms
        self.gain = gain
        self._biased(*bias)

    @staticmethod
    def shape(node: Any, inputs: Sequence[Shape], place: str) -> Shape:
        """Of a constant that broadcasts against its input without enlarging it."""
        (shape,) = inputs
        aligned = (1,) * (len(shape) - node.constant.ndim) + node.constant.shape
        fits = len(aligned) == len(shape) and all(n in (1, m) for n, m in zip(aligned, shape, strict=True))
        wellformed(fits, place, f"constant {node.constant.shape} does not fit {shape}")
        return shape

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] * (np.abs(self.gain) if absolute else self.gain)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        gain = take(np.abs(self.gain) if absolute else self.gain, forms)
        return (LinearForms(forms.values * gain, forms.corner),)


class BatchNorm(Diagonal):
    """gain = scale / sqrt(variance + epsilon), known to 5 units; bias = shift - mean gain."""

    def __init__(self, node: c.BatchNorm, shapes: Sequence[Shape]) -> None:
        self.parameters = (node.scale, node.shift, node.mean, node.variance.astype(np.float64) + node.epsilon)
        scale, shift, mean, variance = (p.astype(np.float64)[:, None, None] for p in self.parameters)
        gain = scale / np.sqrt(variance)
        super().__init__(node, shapes, 2 + 8, gain, shift, -mean * gain)

    @staticmethod
    def shape(node: c.BatchNorm, inputs: Sequence[Shape], place: str) -> Shape:
        (shape,) = inputs
        parts = (node.scale, node.shift, node.mean, node.variance)
        wellformed(all(p.shape == shape[:1] for p in parts), place, f"parameters must have shape {shape[:1]}")
        wellformed(0 < node.epsilon < math.inf, place, f"epsilon must be > 0, got {node.epsilon}")
        wellformed((node.variance >= 0).all(), place, "variance must be >= 0")
        return shape

    def stretch(self, largest: float) -> float:
        """By any association of (x - mean) / sqrt(variance + epsilon) * scale, or a x + b with a and b computed."""
        scale, shift, mean, variance = self.parameters
        parts = (np.abs(scale), np.abs(shift), np.abs(mean) + largest, variance, 1 / variance)
        sizes = [float(p.max()) for p in parts]
        need(max(sizes) <= 2.0**40, "float32", "batch norm parameters may overflow float32")
        return (1 + sizes[0]) * (1 + sizes[2]) * (1 + sizes[4])


class Shift(Diagonal):
    """x + constant."""

    def __init__(self, node: c.Shift, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes, 0, np.ones((1, 1, 1)), constant_image(node, shapes[0]))


class Scale(Diagonal):
    """x * constant."""

    def __init__(self, node: c.Scale, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes, 2, constant_image(node, shapes[0]))


class Divide(Diagonal):
    """x / constant, the real quotient: the reciprocal is rounded once."""

    def __init__(self, node: c.Divide, shapes: Sequence[Shape]) -> None:
        self.least = float(np.abs(node.constant).min())
        super().__init__(node, shapes, 2 + 1, 1.0 / constant_image(node, shapes[0]))

    @staticmethod
    def shape(node: c.Divide, inputs: Sequence[Shape], place: str) -> Shape:
        shape = Diagonal.shape(node, inputs, place)
        wellformed(np.all(node.constant != 0), place, "division by zero")
        return shape

    def stretch(self, largest: float) -> float:
        """Also where it is a product with the reciprocal, computed."""
        need(self.least >= 1 / OVERFLOW_LIMIT, "float32", "a reciprocal may overflow float32")
        return 1.0


def constant_image(node: c.WithConstant, shape: Shape) -> Array:
    """A constant that broadcasts against an image of `shape`: (C, 1, 1) where it can be, else full."""
    exact = node.constant.astype(np.float64)
    if shape[1:] == (1, 1) and exact.ndim == 1:
        return exact[:, None, None]
    return np.broadcast_to(exact, (shape[0], 1, 1) if exact.ndim == 3 and exact.shape[1:] == (1, 1) else shape)

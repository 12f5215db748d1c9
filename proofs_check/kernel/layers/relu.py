"""`relu` and `leaky_relu`: what is negative becomes 0, or is multiplied by a slope.

Precondition: proven bounds of the input. Postcondition: `layer`. Charged: what both ends' products and
sums round, to the intercept of the line above; the line below passes 0 and rounds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import UNDERFLOW_ERROR, Array, down, product_up, sum_up, up


class Relu(Elementwise):
    """max(y, slope y), 0 <= slope <= 1: convex, and a line where the sign of y is known. All but `float32_error` holds
    for any such slope."""

    both_ends = False
    slope: float = 0.0

    def neurons(self, lower: Array, upper: Array) -> NDArray[np.bool_]:
        """The unstable ones."""
        return (lower < 0) & (upper > 0)

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.maximum(lower, down(self.slope * lower)), np.maximum(upper, up(self.slope * upper))

    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        """The chord's intercept is the larger one at the two ends, by convexity. Below, a line through 0."""
        active, inactive = lower >= 0, upper <= 0
        with np.errstate(all="ignore"):
            chord = (upper - self.slope * lower) / (upper - lower)
        k = np.where(active, 1.0, np.where(inactive, self.slope, chord))
        at_lower = sum_up(product_up(self.slope, lower), product_up(-k, lower))
        at_upper = sum_up(upper, product_up(-k, upper))
        t = np.where(active | inactive, 0.0, np.maximum(at_lower, at_upper))
        default = np.where(upper > -lower, 1.0, 0.0)
        w = self.lower_slopes(lower, upper, default if witness is None else witness)
        return LinearRelaxation(k, t, w, np.zeros((1, 1, 1)))

    def lower_slopes(self, lower: Array, upper: Array, witness: Array) -> Array:
        """Exact where the neuron is stable, else clipped to [slope, 1], where the line through 0 is a lower bound."""
        return np.where(lower >= 0, 1.0, np.where(upper <= 0, self.slope, np.clip(witness, self.slope, 1.0)))

    def derivative(self) -> tuple[float, float]:
        return self.slope, 1.0

    def derivative_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.where(lower > 0, 1.0, self.slope), np.where(upper < 0, self.slope, 1.0)

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        """1-Lipschitz, and nothing but a comparison."""
        return errors[0]


class LeakyRelu(Relu):
    """A ReLU with its own slope."""

    def __init__(self, node: c.LeakyRelu, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.slope = node.slope

    @staticmethod
    def shape(node: c.LeakyRelu, inputs: Sequence[Shape], place: str) -> Shape:
        wellformed(0 <= node.slope <= 1, place, f"slope must lie in [0, 1], got {node.slope}")
        return inputs[0]

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        """1-Lipschitz; the slope and a product are rounded."""
        return sum_up(errors[0], up(2.0**-22 * (sizes[0] + errors[0]) + UNDERFLOW_ERROR))


KINDS: dict[type[c.Node], type[Elementwise]] = {c.Relu: Relu, c.LeakyRelu: LeakyRelu}

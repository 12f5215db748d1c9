"""Linear relaxations of nonlinear nodes: slopes from anywhere, intercepts proven by the layer that made them.

Precondition: proven bounds lower <= y <= upper of the node's input. Postcondition, for the node's value f:
lower_slope y + lower_intercept <= f(y) <= upper_slope y + upper_intercept on [lower, upper], for any slopes.
Charged: slopes count as exact, whatever they round to; what evaluating f and slope y at the ends rounds goes outward
into the intercepts, and what a backward pass rounds when it applies them (`charged`) too. Defaults: FORMAT.md 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proofs_check.kernel.linear_forms import LinearForms, Shape, take
from proofs_check.kernel.rounding import Array, down, sum_error, up
from proofs_check.kernel.windows import Sliding


@dataclass(frozen=True, eq=False)
class Selection:
    """The input cell, by its tap in the window, that stands for each max-pooled one."""

    sliding: Sliding
    tap: Array

    def spread(self, forms: LinearForms, shape: Shape) -> LinearForms:
        """Coefficients of pooled cells -> of the selected cells of the input, an image of `shape`."""
        taps, width = take(self.tap, forms), self.sliding.kernel[1]
        return self.sliding.spread(forms, lambda i, j: forms.values * (taps == i * width + j), shape)


@dataclass(frozen=True, eq=False)
class LinearRelaxation:
    """Slopes and intercepts, images; max pooling applies them to the selected input cells. Slopes of a product are
    those of its factors, one behind the other: of as many times more channels than the intercepts."""

    upper_slope: Array
    upper_intercept: Array
    lower_slope: Array
    lower_intercept: Array
    selection: Selection | None = None

    def charged(self, magnitude: Array, terms: int) -> LinearRelaxation:
        """The relaxation moved outward by what a backward pass rounds when it applies them.

        magnitude: of the selected input, images. terms: cells summed when the intercepts are added up, and
        coefficients summed when windows overlap. Stays right for any other lower slope in [-1, 1].
        """
        sizes = np.abs(self.upper_slope) * magnitude, np.maximum(np.abs(self.lower_slope), 1.0) * magnitude
        above, below = (s.reshape(-1, *self.upper_intercept.shape).sum(axis=0) for s in sizes)
        error = sum_error(terms)
        top = self.upper_intercept + error * (np.abs(self.upper_intercept) + above)
        bottom = self.lower_intercept - error * (np.abs(self.lower_intercept) + below)
        return LinearRelaxation(self.upper_slope, up(top), self.lower_slope, down(bottom), self.selection)

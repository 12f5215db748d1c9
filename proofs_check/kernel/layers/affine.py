"""What the judge asks of every affine layer kind: a map, forward and adjoint, both also with absolute values.

Precondition: numbers of at most LIMIT. Postcondition: `adjoint` is the transpose of `apply`; the other answers follow
from the two, from `terms` and from `bias`.
Charged: nothing in `apply` and `adjoint`; `terms` says how much either may round, and who asks them charges that.
`interval`: what it rounds, to its radius; what an adjoint and the bias round, to the charge it returns.
`float32_error`: a sum's rounding, relative to its size, every underflow at UNDERFLOW_ERROR, times `stretch`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from proofs_check.certificate import Norm, need
from proofs_check.kernel.layers.layer import Layer
from proofs_check.kernel.linear_forms import LinearForms
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.rounding import (
    OVERFLOW_LIMIT,
    UNDERFLOW_ERROR,
    Array,
    centred,
    down,
    float32_sum_error,
    float_up,
    sum_error,
    sum_up,
    up,
)


class Affine(Layer):
    """value = apply(inputs) + bias.

    terms: at most that many products in any sum of `apply` or `adjoint`, plus the relative error of the
    stored weights in units of 2^-53; 0: the weights are 0 and 1 and `adjoint` does not round.
    bias: broadcasts against the value. bias_size >= |bias| holds the terms that cancelled in it.
    moves: cells only change place, so nothing is computed.
    """

    terms: int = 0
    bias: Array = np.zeros((1, 1, 1))
    bias_size: Array = np.zeros((1, 1, 1))
    moves: bool = False

    @abc.abstractmethod
    def apply(self, *values: Array, absolute: bool = False) -> Array:
        """Images -> image, without bias; `absolute`: with the weights' absolute values."""

    @abc.abstractmethod
    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        """Forms of this node's value -> forms of each input."""

    def _biased(self, *parts: Array) -> None:
        """bias: the sum of the parts."""
        self.bias = sum(parts, self.bias)
        self.bias_size = sum(map(np.abs, parts), self.bias_size)

    def interval(self, lower: Sequence[Array], upper: Sequence[Array]) -> tuple[Array, Array, Array | None]:
        """Bounds of the value; and what one unit of |coefficient| of a form on it may lose to rounding (None: nothing).

        Centre and radius forward; the rounding of both is at most 2 G(terms) times `size`.
        """
        sizes = (np.maximum(np.abs(a), np.abs(b)) for a, b in zip(lower, upper, strict=True))
        size = self.apply(*sizes, absolute=True) + self.bias_size
        error = (sum_error(self.terms) if self.terms else 0.0) * size
        charge = (sum_error(size.size) * np.abs(self.bias) + error).max(axis=(1, 2), keepdims=True)
        if self.terms == 0:  # weights 0 and 1, at most two of them and the bias: monotone, rounded once
            low, high = (self.apply(*end) + self.bias for end in (lower, upper))
        else:
            centres, radii = zip(*map(centred, lower, upper), strict=True)
            centre = self.apply(*centres) + self.bias
            radius = up(self.apply(*radii, absolute=True) + 4 * error)
            low, high = centre - radius, centre + radius
        return down(low), up(high), up(charge) if charge.any() else None

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        """|W| e carried on, plus the float32 rounding of a sum of that many products of computed numbers."""
        if self.moves:
            return self.apply(*errors, absolute=True)
        errors = [e + UNDERFLOW_ERROR for e in errors]  # a subnormal operand may count as zero
        sizes = [s + e for s, e in zip(sizes, errors, strict=True)]
        size = self.apply(*sizes, absolute=True) + self.bias_size
        largest = max(float(s.max()) for s in sizes)
        underflow = UNDERFLOW_ERROR * (self.terms + 4) * (1 + largest) * self.stretch(largest)
        need(bool((size <= OVERFLOW_LIMIT).all()), "float32", "a value may overflow float32")
        carried = self.apply(*errors, absolute=True) * (1 + 2.0**-20)
        return sum_up(up(carried), up(float32_sum_error(self.terms) * size + underflow))

    def stretch(self, largest: float) -> float:
        """How much the node's steps may magnify an underflow, for inputs of at most `largest`; rejects parameters
        whose intermediate results may overflow."""
        return 1.0

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        return float_up(before[0] * self.operator_norm(norm))

    def operator_norm(self, norm: Norm) -> float:
        """An upper bound of the norm of a map of one input: between the largest sums of absolute weights over rows
        and over columns."""
        growth = 1 + 2 * sum_error(self.terms)
        rows = self.apply(np.ones(self.shapes[0]), absolute=True)
        ones = LinearForms(np.ones((1, *rows.shape[1:], rows.shape[0])), None)
        columns = self.adjoint(ones, absolute=True)[0].values
        by_rows, by_columns = (float_up(float(sums.max()) * growth) for sums in (rows, columns))
        return NORMS[norm].between(by_rows, by_columns)

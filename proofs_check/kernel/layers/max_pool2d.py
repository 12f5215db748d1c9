"""`max_pool2d`: the largest cell of every window.

Precondition: proven bounds of the input. Postcondition: `layer`. Charged: nothing here: cells are compared. Sums
over windows that overlap are charged in `relaxations` and `slopes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Norm
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.relaxations import LinearRelaxation, Selection
from proofs_check.kernel.rounding import Array, float_up
from proofs_check.kernel.slopes import Slopes
from proofs_check.kernel.windows import Sliding, pooled_shape


class MaxPool2d(Nonlinear):
    """Padded cells take no part: they count as -inf."""

    def __init__(self, node: c.MaxPool2d, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        self.sliding = Sliding(node.kernel, node.stride, node.padding)

    @staticmethod
    def shape(node: c.MaxPool2d, inputs: Sequence[Shape], place: str) -> Shape:
        return pooled_shape(Sliding(node.kernel, node.stride, node.padding), inputs[0], place)

    def largest(self, value: Array) -> Array:
        """Of every window."""
        return self.sliding.windows(value, -np.inf).max(axis=(1, 2))

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self.largest(lower), self.largest(upper)

    def relaxation(self, lower: Array, upper: Array, witness: Array | None) -> LinearRelaxation:
        """Below: the tap of largest lower bound. Above: that tap where it dominates all others, else a constant."""
        windows = (self.sliding.windows(bound, -np.inf) for bound in (lower, upper))
        low, high = (w.reshape(len(w), -1, *w.shape[3:]) for w in windows)  # (C, kh kw, oh, ow)
        winner = low.argmax(axis=1)
        is_winner = np.equal(np.arange(low.shape[1], dtype=np.int64)[:, None, None], winner[:, None])
        rival = np.where(is_winner, -np.inf, high).max(axis=1)
        wins = low.max(axis=1) >= rival
        constant, selection = np.where(wins, 0.0, high.max(axis=1)), Selection(self.sliding, winner.astype(np.float64))
        return LinearRelaxation(wins.astype(np.float64), constant, np.ones_like(rival), np.zeros_like(rival), selection)

    def slopes(self, lower: Array, upper: Array) -> Slopes:
        """A cell has share 0 if another surely exceeds it, 1 if it exceeds all, else [0, 1]."""
        low, high = self.sliding.windows(lower, -np.inf), self.sliding.windows(upper, -np.inf)
        most = high >= low.max(axis=(1, 2), keepdims=True)
        least = most & (most.sum(axis=(1, 2), keepdims=True) == 1)
        least, most = (np.transpose(s, (3, 4, 1, 2, 0)).astype(np.float64) for s in (least, most & (high > -np.inf)))
        return Slopes.within(least, most, self.sliding, self.shapes[0])

    def slopes_anywhere(self) -> Slopes:
        """Any cell may win."""
        ones = np.ones(self.shapes[0])
        return self.slopes(-ones, ones)

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        """Nothing but comparisons: the largest error of each window."""
        return self.largest(errors[0])

    def lipschitz(self, before: Sequence[float], norm: Norm) -> float:
        """|max(a) - max(b)|^p, summed over windows, is at most sum |a - b|^p with each cell once per window."""
        return float_up(before[0] * NORMS[norm].of_ones(self.sliding.overlap()))

"""What curves are: continuous functions of each cell, in pieces that are smooth and bend one way, by their formulas.

Precondition: every piece is convex or concave as `bends` says; a border of kinked pieces is a double. Postcondition:
`enclosed` and `at_borders` hold every value, or slope.
Charged: Arb balls are rounded outward, and so is a border between pieces that is no double.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flint import arb

from proofs_check.certificate import RejectedError, need
from proofs_check.kernel.arithmetic import EXACT, FLOATS, Arithmetic
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.rounding import Array, arb_down, arb_up, enclose

Formula = Callable[[Any, Arithmetic, int], Any]


class Pieces(Elementwise):
    """borders: between pieces, increasing. bends: of each piece, 1 if it is convex, -1 if concave (a straight one is
    both). kinked: every piece has a formula of its own. limits: of the slope at -inf and at +inf."""

    borders: tuple[arb, ...] = ()
    bends: tuple[int, ...]
    kinked: bool = False
    limits: tuple[float, float]

    @abc.abstractmethod
    def value(self, x: Any, f: Arithmetic, piece: int) -> Any:
        """The formula of a piece."""

    @abc.abstractmethod
    def slope(self, x: Any, f: Arithmetic, piece: int) -> Any:
        """Its derivative."""

    def enclosed(self, formula: Formula, y: Array) -> tuple[Array, Array]:
        """(least, most) of `value` or, Clarke's at a kink, of `slope`."""
        least, most = np.full(y.shape, np.inf), np.full(y.shape, -np.inf)
        ends = [-np.inf, *(float(p.mid()) for p in self.borders if self.kinked), np.inf]  # kinks are at doubles
        for j, (start, stop) in enumerate(itertools.pairwise(ends)):
            met = (y >= start) & (y <= stop)
            low, high = enclose(lambda x, j=j: formula(x, EXACT, j), y[met])
            least[met], most[met] = np.minimum(least[met], low), np.maximum(most[met], high)
        return least, most

    def approximate(self, formula: Formula, y: Array) -> Array:
        """In floats: only proposes."""
        result: Array = formula(y, FLOATS, 0)
        for j, border in enumerate(self.borders if self.kinked else (), start=1):
            result = np.where(y > float(border.mid()), formula(y, FLOATS, j), result)
        return result

    def at_borders(self, formula: Formula) -> list[tuple[float, float, float, float]]:
        """Doubles around every border; the least and the largest between them."""
        result: list[tuple[float, float, float, float]] = []
        for j, border in enumerate(self.borders):
            ends = arb_down(border), arb_up(border)
            balls = [formula(arb(ends[0]).union(arb(ends[1])), EXACT, piece) for piece in (j, j + 1)]
            result.append((*ends, min(map(arb_down, balls)), max(map(arb_up, balls))))
        return result

    def bend(self, y: Array) -> Array:
        """Of the piece that holds y, in floats: only proposes."""
        return np.array(self.bends)[np.searchsorted([float(p.mid()) for p in self.borders], y)]

    # ------------------------------------------------------------ slopes

    def derivative(self) -> tuple[float, float]:
        ends = [s for border in self.at_borders(self.slope) for s in border[2:]] + [*self.limits]
        need(math.isfinite(sum(self.limits)), "jacobian", f"slopes of {type(self).__name__} have no bound")
        return min(ends), max(ends)

    def derivative_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Slopes are monotone on each piece: those at the ends, and at the borders between."""
        ends = self.enclosed(self.slope, lower), self.enclosed(self.slope, upper)
        least, most = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
        for start, stop, low, high in self.at_borders(self.slope):
            inside = (lower <= stop) & (upper >= start)
            least = np.where(inside, np.minimum(least, low), least)
            most = np.where(inside, np.maximum(most, high), most)
        return least, most

    def float32_error(self, sizes: Sequence[Array], errors: Sequence[Array]) -> Array:
        raise RejectedError("float32", "curves such as sigmoid and tanh are not covered: libraries differ")

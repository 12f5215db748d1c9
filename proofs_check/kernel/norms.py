"""The norms that claims are made in: all that the judge knows of each; and spectral norms of matrices, from above.

To add a norm: its name in `certificate`, its class here, a line in `NORMS`, a row in FORMAT.md 4.

Precondition: numbers >= 0; finite matrices. Postcondition: at least the norm, at least every singular value.
Charged: sums and products are rounded up one by one; what products of matrices round, by row sums, under the root.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
from collections.abc import Sequence

import numpy as np

from proofs_check.certificate import Norm
from proofs_check.kernel.rounding import UNDERFLOW, Array, float_up, sum_error, up

MAX_SQUARED = 2048  # rows of a matrix that is squared
ABOVE = 1 + 2.0**-36  # times the largest eigenvalue as estimated: its factor then exists, and 3e-11 are lost


class Lp(abc.ABC):
    """An lp norm, of inputs and of every node's value: one method per question of the judge.

    is_box: its ball is a box. dual_is_sum: its dual norm is the sum of sizes. euclidean: it is l2, of which alone
    Gaussian smoothing, spectral norms and gains of blocks speak.
    """

    is_box: bool = False
    dual_is_sum: bool = False
    euclidean: bool = False

    @abc.abstractmethod
    def size(self, values: Sequence[float]) -> float:
        """At least the norm of these numbers >= 0."""

    @abc.abstractmethod
    def dual(self, sizes: Array) -> Array:
        """(R, n) numbers >= 0 -> (R,) at least the dual norm of each row."""

    @abc.abstractmethod
    def of_ones(self, count: int) -> float:
        """At least count^(1/p), the norm of a vector of ones."""

    @abc.abstractmethod
    def between(self, by_rows: float, by_columns: float) -> float:
        """At least the operator norm by_rows^(1 - 1/p) by_columns^(1/p), from those in Linf and L1 (Riesz-Thorin)."""

    @abc.abstractmethod
    def length(self, count: int) -> float:
        """At least the largest l2 norm of `count` numbers whose norm is 1."""

    def share(self, sizes: Array, extent: Array, radius: float) -> Array:
        """0 <= a <= sizes, (R, n): coefficients charged to the ball's radius, the rest to how far its box extends; any
        would do, this is all of them."""
        return sizes


class Linf(Lp):
    """The largest size."""

    is_box = True
    dual_is_sum = True

    def size(self, values: Sequence[float]) -> float:
        return max(values)

    def dual(self, sizes: Array) -> Array:
        return up(sizes.sum(axis=1) * (1 + 2 * sum_error(sizes.shape[1])))

    def of_ones(self, count: int) -> float:
        return 1.0

    def between(self, by_rows: float, by_columns: float) -> float:
        return by_rows

    def length(self, count: int) -> float:
        return math.nextafter(math.sqrt(count), math.inf)


class L2(Lp):
    """The root of the sum of squares."""

    euclidean = True

    def size(self, values: Sequence[float]) -> float:
        return float_up(math.sqrt(total_up([float_up(value * value) for value in values])))

    def dual(self, sizes: Array) -> Array:
        squares = np.einsum("rx,rx->r", sizes, sizes)  # what underflows is below `up`'s UNDERFLOW
        return up(np.sqrt(squares) * (1 + 2 * sum_error(sizes.shape[1])))

    def of_ones(self, count: int) -> float:
        return float_up(math.sqrt(count))

    def between(self, by_rows: float, by_columns: float) -> float:
        return float_up(math.sqrt(float_up(by_rows * by_columns)))

    def length(self, count: int) -> float:
        return 1.0

    def share(self, sizes: Array, extent: Array, radius: float) -> Array:
        """Best: min(sizes, t extent), t = |a| / radius, a fixed point."""
        share = sizes
        for _ in range(4):
            ratio = np.sqrt(np.einsum("rx,rx->r", share, share)) / max(radius, UNDERFLOW)
            share = np.minimum(sizes, extent * ratio[:, None])
        return share


class L1(Lp):
    """The sum of sizes."""

    def size(self, values: Sequence[float]) -> float:
        return total_up(values)

    def dual(self, sizes: Array) -> Array:
        return sizes.max(axis=1)

    def of_ones(self, count: int) -> float:
        return float(count)

    def between(self, by_rows: float, by_columns: float) -> float:
        return by_columns

    def length(self, count: int) -> float:
        return 1.0

    def share(self, sizes: Array, extent: Array, radius: float) -> Array:
        """Best: min(sizes, t), t the size at which the box around the larger ones has used the radius up."""
        order = np.argsort(-sizes, axis=1)
        spent = np.cumsum(np.take_along_axis(extent, order, 1), axis=1)
        beyond = np.take_along_axis(sizes, order, 1) * (spent >= radius)
        return np.minimum(sizes, beyond.max(axis=1, keepdims=True))


NORMS: dict[Norm, Lp] = {"Linf": Linf(), "L2": L2(), "L1": L1()}


def total_up(values: Sequence[float]) -> float:
    """The sum of numbers >= 0."""
    return functools.reduce(lambda total, value: float_up(total + value), values, 0.0)


# ---------------------------------------------------------------- of matrices


def spectral_norm(matrices: Array) -> float:
    """An upper bound of the largest spectral norm of matrices (..., m, n).

    With S = A A' and any numbers rho and F: S = rho I - F F' - R, and F F' >= 0, so |A|^2 <= rho + |R|. An estimated
    eigenvalue and a Cholesky factor make R small; how they were found does not matter. |R| is at most its row sums.
    """
    short = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.swapaxes(-1, -2)
    rows, columns = short.shape[-2:]
    squared = float(np.square(short).sum(axis=(-1, -2)).max()) * (1 + 2 * sum_error(rows * columns))  # Frobenius
    if rows <= MAX_SQUARED:
        square = short @ short.swapaxes(-1, -2)
        square = (square + square.swapaxes(-1, -2)) / 2
        with contextlib.suppress(np.linalg.LinAlgError):
            rho = np.linalg.eigvalsh(square)[..., -1, None, None] * ABOVE * np.eye(rows)
            factor: Array = np.linalg.cholesky(rho - square).astype(np.float64)
            product = factor @ factor.swapaxes(-1, -2)
            rest = _row_sums(rho - square - product) + 2 * sum_error(rows) * _product_size(factor)
            rest += 2 * sum_error(1) * (_row_sums(rho) + _row_sums(square) + _row_sums(product))
            rest += 2 * sum_error(columns) * _product_size(short)
            squared = min(squared, float((_row_sums(rho) + rest).max()) * (1 + 2 * sum_error(rows)))
    return float_up(math.sqrt(float_up(squared)))


def _row_sums(matrices: Array) -> Array:
    """The largest of each matrix."""
    return np.abs(matrices).sum(axis=-1).max(axis=-1)


def _product_size(matrices: Array) -> Array:
    """At least the row sums of |A| |A|', up to rounding."""
    return _row_sums(matrices) * _row_sums(matrices.swapaxes(-1, -2))

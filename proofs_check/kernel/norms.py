"""Norms bounded from above: of a few numbers, and spectral norms of matrices.

Precondition: numbers >= 0; finite matrices. Postcondition: at least the norm, at least every singular value.
Charged: sums and products are rounded up one by one; what products of matrices round, by row sums, under the root.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from proofs_check.certificate import Norm
from proofs_check.kernel.rounding import Array, float_up, sum_error

MAX_SQUARED = 2048  # rows of a matrix that is squared
ABOVE = 1 + 2.0**-36  # times the largest eigenvalue as estimated: its factor then exists, and 3e-11 are lost


def norm_up(values: Sequence[float], norm: Norm) -> float:
    """The norm of a vector of numbers >= 0."""
    if norm == "Linf":
        return max(values)
    total = 0.0
    for value in values:
        total = float_up(total + (float_up(value * value) if norm == "L2" else value))
    return float_up(math.sqrt(total)) if norm == "L2" else total


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

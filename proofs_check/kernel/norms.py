"""Norms bounded from above: of a few numbers, and the spectral norm of a matrix.

Precondition: numbers >= 0; a finite matrix. Postcondition: at least the norm, at least the largest singular value.
Charged: sums and products are rounded up one by one; each squaring's error is added under its root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proofs_check.certificate import Norm
from proofs_check.kernel.rounding import Array, float_up, sum_error

MAX_SQUARED = 2048  # rows of a matrix that is squared
SQUARINGS = 6


def norm_up(values: Sequence[float], norm: Norm) -> float:
    """The norm of a vector of numbers >= 0."""
    if norm == "Linf":
        return max(values)
    total = 0.0
    for value in values:
        total = float_up(total + (float_up(value * value) if norm == "L2" else value))
    return float_up(math.sqrt(total)) if norm == "L2" else total


def spectral_norm(matrix: Array) -> float:
    """An upper bound of the spectral norm.

    |A|^2 = |A A'|, |S|^2 = |S^2| for symmetric S, |S| <= |S|_inf: so the error of each squaring, at most G(n) times the
    largest row sum of absolute values squared, is added under its root.
    """
    short = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    if len(short) > MAX_SQUARED or not (power := short @ short.T).any():  # Frobenius
        return float_up(math.sqrt(float_up(float(np.square(short).sum() * (1 + 2 * sum_error(short.size))))))
    slack = 2 * sum_error(short.shape[1]) * np.abs(short).sum(axis=1).max() * np.abs(short).sum(axis=0).max()
    errors: list[tuple[float, float]] = []
    for _ in range(SQUARINGS):
        power = (power + power.T) / 2
        scale = 2.0 ** math.frexp(float(np.abs(power).max()))[1]
        errors.append((scale, float_up(float(slack))))
        power = power / scale
        slack = 2 * sum_error(len(short)) * np.square(np.abs(power).sum(axis=1).max())
        power = power @ power
    row_sum = float_up(float(np.abs(power).sum(axis=1).max()) * (1 + 2 * sum_error(len(short))))
    bound = float_up(row_sum + float_up(float(slack)))
    for scale, error in reversed(errors):
        root = float_up(math.sqrt(bound))
        bound = float_up(float_up(root * scale) + error)
    return float_up(math.sqrt(bound))

"""The inequality that proves the gain of a block y = A x + B w, w_i in [0, 1] times v_i, v = C x.

For any diagonal Λ >= 0: w' Λ (v - w) >= 0. So if [[rho I - A'A, -A'B - C'Λ], [., 2Λ - B'B]] >= -e I, then |y|^2 <=
rho |x|^2 + e (|x|^2 + |w|^2), and |w| <= |C| |x| (docs/maths.md 11). Λ makes the coupling vanish as far as a diagonal
one can, or is the same for all; both as large as B asks for. rho and a Cholesky factor are estimated; what the factor
leaves is bounded. Without w the gain is the norm of A.

Precondition: finite matrices, and bounds of how far they are off the real ones. Postcondition: |y| <= gain |x|.
Charged: what products and sums round, and what the factor leaves, to e; what the matrices are off, to the gain.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np

from proofs_check.kernel.norms import spectral_norm
from proofs_check.kernel.rounding import Array, float_up, sum_error

SHIFT = 2.0**-32  # of the matrix's diagonal, relative: its factor then exists
Matrices = tuple[Array, Array, Array]  # A, B, C
Off = tuple[float, float, float]


def gain(matrices: Matrices, off: Off) -> float | None:
    """The least proven gain with matrices that are `off` by norms of at most so much."""
    a, b, c = matrices
    if not len(c):
        return float_up(spectral_norm(a) + off[0])
    found: list[float] = []
    squares = np.square(c).sum(axis=1)
    by_coupling = -np.einsum("ij,ik,kj->k", a, b, c) / np.where(squares > 0, squares, 1.0)
    for multipliers in (by_coupling.clip(min=0.0), np.ones(len(c)))[not (by_coupling > 0).any() :]:
        with contextlib.suppress(np.linalg.LinAlgError):
            found.append(_proven(a, b, c, multipliers, off))
    return min((value for value in found if math.isfinite(value)), default=None)


def _proven(a: Array, b: Array, c: Array, multipliers: Array, off: Off) -> float:
    """The gain proven by the least multiple of `multipliers` that may do. Raises LinAlgError where none is found."""
    roots = 1 / np.sqrt(multipliers + SHIFT * multipliers.max())
    largest = float(np.linalg.eigvalsh(roots[:, None] * (b.T @ b) * roots)[-1])
    multipliers = multipliers * max(1.0, largest / 2 * (1 + 2 * SHIFT))
    n, both = a.shape[1], np.concatenate([a, b], axis=1)
    squares, across = both.T @ both, multipliers[:, None] * c
    own = 2 * np.diag(multipliers) - squares[n:, n:]
    coupling = squares[:n, n:] + across.T
    shift = SHIFT * float(max(np.abs(squares).max(), multipliers.max(), 2.0**-200))
    inner = squares[:n, :n] + coupling @ np.linalg.solve(own + shift * np.eye(len(own)), coupling.T)
    rho = max(float(np.linalg.eigvalsh((inner + inner.T) / 2)[-1]), 0.0) * (1 + SHIFT)
    matrix = np.block([[rho * np.eye(n), -across.T], [-across, 2 * np.diag(multipliers)]])
    shifted = matrix - (squares + squares.T) / 2 + shift * np.eye(len(matrix))
    factor: Array = np.linalg.cholesky(shifted).astype(np.float64)
    rest = frobenius(matrix - squares - factor @ factor.T)
    size = frobenius(both) ** 2 + frobenius(factor) ** 2 + frobenius(matrix)
    lost = float_up(rest + float_up(2 * sum_error(len(a) + len(matrix) + 8) * size))
    (off_a, off_b, off_c), norm = off, spectral_norm(c)
    norm = float_up(norm + off_c)
    square = rho + lost * (1 + norm * norm) + 2 * norm * off_c * float(multipliers.max())
    return float_up(float_up(math.sqrt(float_up(square * (1 + 2.0**-40)))) + float_up(off_a + off_b * norm))


def frobenius(matrices: Array) -> float:
    """An upper bound of the root of the sum of squares, of the matrix where that is largest."""
    largest = float(np.square(matrices).sum(axis=(-2, -1)).max(initial=0.0))
    return float_up(math.sqrt(float_up(largest * (1 + 2 * sum_error(math.prod(matrices.shape[-2:]))))))

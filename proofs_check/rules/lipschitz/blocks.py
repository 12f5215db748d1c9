"""The gain in l2 of a block, where paths join: y = A x + B w up to constants, w_i in [0, 1] times v_i, v = C x, all as
increments; w stands for the values of elementwise nonlinear nodes whose slopes lie in [0, s], over s.

For any diagonal Λ >= 0: w' Λ (v - w) >= 0. So if [[rho I - A'A, -A'B - C'Λ], [., 2Λ - B'B]] >= -e I, then |y|^2 <=
rho |x|^2 + e (|x|^2 + |w|^2), and |w| <= |C| |x| (docs/maths.md 11). Λ makes the coupling vanish as far as a diagonal
one can, or is the same for all; both as large as B asks for. rho and a Cholesky factor are estimated; what the factor
leaves is bounded. Without nonlinear nodes the gain is the norm of A. A block that only moves, adds, and scales cells by
powers of two falls apart into small ones, most of them alike; else it is written out, where it is small.

Precondition: a prepared network. Postcondition: `gain` is a Lipschitz constant of a node's value in that of another.
Charged: coefficients of a block written out are intervals, whose radii are added as matrices; products and sums, to e.
"""

from __future__ import annotations

import contextlib
import math
from typing import cast

import numpy as np

from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.jacobian import affine_step, sum_of
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.norms import spectral_norm
from proofs_check.kernel.rounding import Array, float_up, sum_error, up
from proofs_check.kernel.slopes import Interval
from proofs_check.rules.lipschitz.parts import Matrices, parts_of

MAX_CELLS = 1024  # of a block written out: of its value, its input, and its nonlinear nodes together
SHIFT = 2.0**-32  # of the matrix's diagonal, relative: its factor then exists


def gain(prepared: Prepared, node: int) -> tuple[int, float] | None:
    """(k, constant of this node's value in the value of k), k the nearest node that all paths to this one come through,
    each past one nonlinear node at most; None where there is none, or nothing is known of such a block."""
    found = _between(prepared, node)
    if found is None:
        return None
    below, inside = found
    parts = parts_of(prepared, below, inside)
    gains = [_gain(part, (0.0, 0.0, 0.0)) for part in parts] if parts else [_written_out(prepared, below, inside)]
    return None if None in gains else (below, max(cast("list[float]", gains)))


def _between(prepared: Prepared, node: int) -> tuple[int, list[int]] | None:
    """That node, and those from there to this one."""
    frontier, inside = {node: False}, list[int]()  # whether a path from there passed a nonlinear node
    while not (len(frontier) == 1 and inside):
        k = max(frontier)
        passed, layer = frontier.pop(k), prepared.layers[k]
        if isinstance(layer, Elementwise) and layer.derivative()[0] == 0 and not passed:
            passed = True
        elif not isinstance(layer, Affine):
            return None
        inside.append(k)
        for i in inputs_of(prepared.network.nodes[k]):
            frontier[i] = frontier.get(i, False) or passed
    return max(frontier), inside[::-1]


# ---------------------------------------------------------------- written out


def _written_out(prepared: Prepared, below: int, inside: list[int]) -> float | None:
    """The gain of a small block, from its matrices."""
    nonlinear = [k for k in inside if isinstance(prepared.layers[k], Elementwise)]
    sizes = [math.prod(prepared.shapes[k]) for k in (below, inside[-1], *nonlinear)]
    if max(*sizes, sum(sizes[2:])) > MAX_CELLS:
        return None
    reached = _descend(prepared, inside[-1], {below, *nonlinear})
    a = _matrix(reached.get(below), sizes[1], sizes[0])
    from_w, of_x = [_matrix(None, sizes[1], 0)], [_matrix(None, 0, sizes[0])]
    for k, cells in zip(nonlinear, sizes[2:], strict=True):
        slope = cast("Elementwise", prepared.layers[k]).derivative()[1]
        part = _matrix(reached.get(k), sizes[1], cells)
        from_w.append(Interval(part.centre * slope, up(part.radius * slope)))
        before = _descend(prepared, inputs_of(prepared.network.nodes[k])[0], {below})
        of_x.append(_matrix(before.get(below), cells, sizes[0]))
    b, c = _joined(from_w, 1), _joined(of_x, 0)
    return _gain((a.centre, b.centre, c.centre), (_frobenius(a.radius), _frobenius(b.radius), _frobenius(c.radius)))


def _descend(prepared: Prepared, node: int, stop: set[int]) -> dict[int, Interval]:
    """Every cell of a node's value as a form of those of the nodes `stop`; only affine ones between."""
    shape, size = prepared.shapes[node], math.prod(prepared.shapes[node])
    units = np.ascontiguousarray(np.moveaxis(np.eye(size).reshape(size, *shape), 1, -1))
    frontier = {node: Interval(units, np.zeros_like(units))}
    while not frontier.keys() <= stop:
        k = max(frontier.keys() - stop)
        parts = affine_step(cast("Affine", prepared.layers[k]), frontier.pop(k))
        for i, part in zip(inputs_of(prepared.network.nodes[k]), parts, strict=True):
            frontier[i] = sum_of(frontier[i], part, prepared.shapes[i]) if i in frontier else part
    return frontier


def _matrix(forms: Interval | None, rows: int, columns: int) -> Interval:
    """In the order of the nodes' values; zero where no form reached one."""
    if forms is None:
        return Interval(zeros := np.zeros((rows, columns)), zeros)
    centre, radius = (np.moveaxis(part, -1, 1).reshape(rows, columns) for part in (forms.centre, forms.radius))
    return Interval(centre, radius)


def _joined(parts: list[Interval], axis: int) -> Interval:
    centres, radii = [p.centre for p in parts], [p.radius for p in parts]
    return Interval(np.concatenate(centres, axis=axis), np.concatenate(radii, axis=axis))


def _frobenius(matrix: Array) -> float:
    return float_up(math.sqrt(float_up(float(np.square(matrix).sum()) * (1 + 2 * sum_error(matrix.size)))))


# ---------------------------------------------------------------- the inequality


def _gain(matrices: Matrices, off: tuple[float, float, float]) -> float | None:
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


def _proven(a: Array, b: Array, c: Array, multipliers: Array, off: tuple[float, float, float]) -> float:
    """The gain proven by the least multiple of `multipliers` that may do. Raises LinAlgError where none is found."""
    roots = 1 / np.sqrt(multipliers + SHIFT * multipliers.max())
    multipliers = multipliers * max(1.0, float(np.linalg.eigvalsh(roots[:, None] * (b.T @ b) * roots)[-1]) / 2)
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
    rest = _frobenius(matrix - squares - factor @ factor.T)
    size = _frobenius(both) ** 2 + _frobenius(factor) ** 2 + _frobenius(matrix)
    lost = float_up(rest + float_up(2 * sum_error(len(a) + len(matrix) + 8) * size))
    (off_a, off_b, off_c), norm = off, spectral_norm(c)
    norm = float_up(norm + off_c)
    square = rho + lost * (1 + norm * norm) + 2 * norm * off_c * float(multipliers.max())
    return float_up(float_up(math.sqrt(float_up(square * (1 + 2.0**-40)))) + float_up(off_a + off_b * norm))

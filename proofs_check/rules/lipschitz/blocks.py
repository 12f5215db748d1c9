"""The gain in l2 of a block, where paths join: y = A x + B w up to constants, w_i in [0, 1] times v_i, v = C x, all as
increments; w stands for the values of elementwise nonlinear nodes whose slopes lie in [0, s], over s.

A block that only moves, adds, and scales cells by powers of two falls apart into small ones, most of them alike; else
it is written out, where it is small; else taken frequency by frequency, where it does the same at every pixel.

Precondition: a prepared network. Postcondition: `gain` is a Lipschitz constant of a node's value in that of another.
Charged: coefficients of a block written out are intervals, whose radii are added as matrices; products and sums, to e.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.jacobian import affine_step, sum_of
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.gather import Gather
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.rounding import up
from proofs_check.kernel.slopes import Interval
from proofs_check.rules.lipschitz import frequencies, inequality
from proofs_check.rules.lipschitz.inequality import frobenius
from proofs_check.rules.lipschitz.parts import parts_of

MAX_CELLS = 1024  # of a block written out: of its value, its input, and its nonlinear nodes together


def gain(prepared: Prepared, node: int) -> tuple[int, float] | None:
    """(k, constant of this node's value in the value of k), k the nearest node that all paths to this one come through,
    each past one nonlinear node at most; None where there is none, or nothing is known of such a block."""
    found = _between(prepared, node)
    if found is None:
        return None
    below, inside = found
    parts = parts_of(prepared, below, inside)
    if parts:
        gains = [inequality.gain(part, (0.0, 0.0, 0.0)) for part in parts]
    else:
        gains = [_written_out(prepared, below, inside) or frequencies.gain(prepared, below, inside)]
    return None if None in gains else (below, max(cast("list[float]", gains)))


def repeats(prepared: Prepared, node: int) -> bool:
    """The node repeats cells, to surround an image with them as a rule: a convolution that reads it is one block with
    it."""
    layer = prepared.layers[node]
    return isinstance(layer, Gather) and layer.terms > 1


def _between(prepared: Prepared, node: int) -> tuple[int, list[int]] | None:
    """That node, and those from there to this one."""
    frontier, inside = {node: False}, list[int]()  # whether a path from there passed a nonlinear node
    while not (len(frontier) == 1 and inside and not repeats(prepared, max(frontier))):
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
    return inequality.gain(
        (a.centre, b.centre, c.centre), (frobenius(a.radius), frobenius(b.radius), frobenius(c.radius))
    )


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

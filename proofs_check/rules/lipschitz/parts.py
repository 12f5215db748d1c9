"""Blocks that only move, add, and scale cells by powers of two fall apart into small ones, most of them alike.

Precondition: nodes between one that all paths come through and a later one, as `blocks` finds them. Postcondition: the
increments of the later one are, part by part, y = A x + B w with w_i in [0, 1] times those of v = C x, for one of the
matrices (A, B, C) returned; no cell of x, w or y is in two parts. Charged: nothing, all is exact.
"""

from __future__ import annotations

import math

import numpy as np

from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.layers.add import Add
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.diagonal import Scale, Shift
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.linear_forms import IntArray
from proofs_check.kernel.rounding import Array
from proofs_check.rules.lipschitz.inequality import Matrices

MAX_TERMS, MAX_PARTS = 16, 64  # of a cell's sum; different ones that a block falls apart into
MAX_ROUNDS = 32  # to find them
MAX_ENTRIES = 2**24  # of all parts
LARGEST = 2.0**16  # coefficient of such a part: its sums are exact


def parts_of(prepared: Prepared, below: int, inside: list[int]) -> list[Matrices] | None:
    """The different parts that the block falls apart into, exactly; None where it does not fall apart so.

    Every cell is a sum of terms (2, terms, *image): cells of x, counted from 0, or of w, from there on; coefficients.
    """
    cells = np.arange(math.prod(prepared.shapes[below]), dtype=np.float64).reshape(1, *prepared.shapes[below])
    values, count, nonlinear = {below: np.stack([cells, np.ones_like(cells)])}, cells.size, list[Array]()
    for k in inside:
        layer, terms = prepared.layers[k], [values[i] for i in inputs_of(prepared.network.nodes[k])]
        if isinstance(layer, Elementwise) and np.frexp(layer.derivative()[1])[0] == 0.5:
            nonlinear.append(terms[0])
            cells = count + np.arange(terms[0][0, 0].size, dtype=np.float64).reshape(1, *terms[0].shape[2:])
            value, count = np.stack([cells, np.full_like(cells, layer.derivative()[1])]), count + cells.size
        elif isinstance(layer, Add):
            value = np.concatenate(terms, axis=1)
        elif isinstance(layer, (Scale, Shift)) and (np.frexp(np.abs(layer.gain))[0] == 0.5).all():
            value = np.stack([terms[0][0], terms[0][1] * layer.gain])
        elif isinstance(layer, Affine) and layer.moves:
            images = [t.reshape(-1, *t.shape[2:]) for t in _alike(terms)]
            rows = [layer.apply(*row) for row in zip(*images, strict=True)]
            value = np.stack(rows).reshape(2, -1, *rows[0].shape)
        else:
            return None
        values[k] = value
        sizes = np.abs(value[1])
        if value.shape[1] > MAX_TERMS or (sizes > LARGEST).any() or ((sizes > 0) & (sizes < 1 / LARGEST)).any():
            return None
    flat = [t.reshape(*t.shape[:2], -1) for t in (values[inside[-1]], *nonlinear)]
    of_y, *of_w = _alike(flat)
    return _apart(math.prod(prepared.shapes[below]), of_y, np.concatenate([of_y[:, :, :0], *of_w], axis=2))


def _alike(values: list[Array]) -> list[Array]:
    """As many terms in each; those added are 0."""
    most = max(v.shape[1] for v in values)
    return [np.pad(v, ((0, 0), (0, most - v.shape[1]), *[(0, 0)] * (v.ndim - 2))) for v in values]


def _apart(size: int, of_y: Array, of_w: Array) -> list[Matrices] | None:
    """From the terms (2, terms, cells) of y and of v, where x has `size` cells: the different (A, B, C)."""
    count = size + of_w.shape[2]  # which also stands for no cell at all
    y, v = _cells(of_y, count), _cells(of_w, count)
    v = np.vstack([v, np.arange(size, count, dtype=np.int64)])  # a cell of w belongs to its own v
    label = np.arange(count + 1, dtype=np.int64)  # the least cell that one is connected with
    for _ in range(MAX_ROUNDS):
        before = label.copy()
        for rows in (y, v):
            least: IntArray = label[rows].min(axis=0)
            np.minimum.at(label, rows, np.where(rows == count, count, least))
        if (label == before).all():
            break
    else:
        return None
    groups: list[IntArray] = [label[:size], label[size:count], label[y].min(axis=0)]  # of x, w and y
    places = [_places(group) for group in groups]
    nx, nw, ny = (int(place.max(initial=-1)) + 1 for place in places)
    if (count + 1) * (ny * (nx + nw) + nw * nx) > MAX_ENTRIES:
        return None
    on_y, on_v = np.zeros((count + 1, ny, nx + nw)), np.zeros((count + 1, nw, nx + nw))
    column = np.concatenate([places[0], nx + places[1], [0]])
    for which, target, rows, terms in ((2, on_y, y, of_y), (1, on_v, v[:-1], of_w)):
        for cells, coefficients in zip(rows, terms[1], strict=True):
            np.add.at(target, (groups[which], places[which], column[cells]), coefficients)
    different = np.unique(np.concatenate([on_y, on_v], axis=1), axis=0)
    if len(different) > MAX_PARTS:
        return None
    return [(part[:ny, :nx], part[:ny, nx:], part[ny:, :nx]) for part in different]


def _cells(terms: Array, none: int) -> IntArray:
    """(terms, cells) of a sum; `none` where the coefficient is 0."""
    cells: Array = np.where(terms[1] != 0, terms[0], none)
    return cells.astype(np.int64)


def _places(group: IntArray) -> IntArray:
    """The place of each cell among those of its group."""
    order = np.argsort(group, kind="stable")
    _, starts, counts = np.unique(group[order], return_index=True, return_counts=True)
    places = np.empty_like(group)
    places[order] = np.arange(len(group), dtype=np.int64) - np.repeat(starts, counts)
    return places

"""Rigorous backward bounds of a plain network over a ball, in float64 with every rounding error counted.

R linear forms travel from a node back to the input. Invariant of `_descend`, for every row and every x in
the ball: form(x) <= sum over pending nodes k of rows_k . v_k(x) + constant. Coefficients are exact floats by
definition; what a float operation rounds is charged to the constant, using proven bounds of |v_k|.
Source: Zhang et al. 2018 (CROWN) for the method, Higham 3.1 for the error terms.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.certificate import Float32Array, Norm, PlainNetwork, RejectedError, need
from proofs_check.kernel.layers import Map, Rows, Shape, add, affine_map, dot, image, take, unit_rows
from proofs_check.kernel.relaxations import Lines, hinted_slopes, lines_of, monotone, relu_slope
from proofs_check.kernel.rounding import TINY, Array, centred, down, need_arithmetic, need_bounded, sum_error, up

MAX_CLASSES = 2**12
MAX_WITNESS = 2**28
CHUNK = 2**19  # coefficients of one node's forms travelling together: bounds memory


@dataclass(frozen=True, eq=False)
class Ball:
    """All x with ‖x - center‖ <= radius in `norm`, and every coordinate in `domain` where there is one."""

    center: Float32Array
    radius: float
    norm: Norm
    domain: tuple[float, float] | None

    def box(self) -> tuple[Array, Array]:
        """Images lower <= x <= upper for every x in the ball. Rejects an empty set."""
        center = self.center.astype(np.float64).reshape(image(self.center.shape))
        lower, upper = down(center - self.radius), up(center + self.radius)
        if self.domain is not None:
            lower, upper = np.maximum(lower, self.domain[0]), np.minimum(upper, self.domain[1])
        need(bool((lower <= upper).all()), "ball", "does not meet its domain")
        return lower, upper


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network with its weights in float64.

    maps: per node, None where it is nonlinear or the input. shapes: as images. slope_start: as in `slope_starts`.
    """

    network: PlainNetwork
    maps: tuple[Map | None, ...]
    shapes: tuple[Shape, ...]
    slope_start: list[int]


def prepare(network: PlainNetwork) -> Prepared:
    """Rejects a network with weights beyond the error bounds' range."""
    need_arithmetic()
    shapes = tuple(image(s) for s in network.shapes)
    with np.errstate(all="ignore"):
        maps = tuple(affine_map(n, [shapes[i] for i in inputs_of(n)]) for n in network.nodes)
    return Prepared(network, maps, shapes, slope_starts(network))


def inputs_of(node: c.Node) -> tuple[int, ...]:
    return () if isinstance(node, c.Input) else node.inputs


# ---------------------------------------------------------------- witness


def slope_starts(network: PlainNetwork) -> list[int]:
    """Per node, the first witness column of its ReLU cells; and at the end, how many columns there are."""
    cells = zip(map(math.prod, network.shapes), map(relu_slope, network.nodes), strict=True)
    return [0, *itertools.accumulate(0 if slope is None else size for size, slope in cells)]


@dataclass(frozen=True, eq=False)
class Witness:
    """slopes (rows, n) in [0, 1]: lower slopes of every ReLU cell in node order; row 0 for all passes but the last.

    rows = 1, 1 + K or 1 + 2 K: row 1 + j serves the last pass of class j, row 1 + K + j that of its second form.
    """

    slopes: Array

    def row(self, wanted: int, classes: int) -> int:
        """The row for `wanted` in 0..2K, or the nearest this witness has."""
        if wanted < len(self.slopes):
            return wanted
        return wanted - classes if wanted > classes and len(self.slopes) > classes else 0


def witness(data: bytes, network: PlainNetwork) -> Witness:
    """Slopes from a zlib stream of uint8 (w = byte / 255). Rejects a stream of another length."""
    n = slope_starts(network)[-1]
    lengths = [n * rows for rows in (1, 1 + network.classes, 1 + 2 * network.classes)]
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, min(lengths[-1], MAX_WITNESS) + 1)
    except zlib.error as error:
        raise RejectedError("witness", f"is not a zlib stream: {error}") from error
    fits = n > 0 and len(raw) in lengths and len(raw) <= MAX_WITNESS
    need(fits, "witness", f"must hold one of {lengths} bytes and at most {MAX_WITNESS}, got {len(raw)}")
    need(stream.eof and not stream.unused_data, "witness", "stream is cut short or too long")
    return Witness(np.frombuffer(raw, dtype=np.uint8).reshape(-1, n) / 255.0)


# ---------------------------------------------------------------- bounds of every node's value


@dataclass(frozen=True, eq=False)
class Values:
    """Proven bounds of every node's value on the ball, images: lower[k] and upper[k]. They may shrink after later nodes
    were appended; what was derived from the wider ones stays proven.

    charges: per affine node, what one unit of |coefficient| may lose to rounding. lines: per nonlinear node.
    """

    prepared: Prepared
    ball: Ball
    witness: Witness | None
    lower: list[Array] = field(default_factory=lambda: [])
    upper: list[Array] = field(default_factory=lambda: [])
    charges: list[Array | None] = field(default_factory=lambda: [])
    lines: list[Lines | None] = field(default_factory=lambda: [])

    def magnitude(self, k: int) -> Array:
        return np.maximum(np.abs(self.lower[k]), np.abs(self.upper[k]))

    def append(self, lower: Array, upper: Array, charge: Array | None, lines: Lines | None) -> None:
        need_bounded(lower, "bounds")
        need_bounded(upper, "bounds")
        self.lower.append(lower)
        self.upper.append(upper)
        self.charges.append(charge)
        self.lines.append(lines)


def value_bounds(prepared: Prepared, ball: Ball, hints: Witness | None) -> Values:
    """Ensures: lower <= v_k(x) <= upper for every node k and every x in the ball, in real arithmetic.

    Interval arithmetic throughout; inputs of nonlinear nodes are intersected with their backward bounds.
    """
    values, affine = Values(prepared, ball, hints), [True]  # affine: in the input
    with np.errstate(all="ignore"):
        values.append(*ball.box(), None, None)
        for k, node in enumerate(prepared.network.nodes[1:], start=1):
            mapping, inputs = prepared.maps[k], inputs_of(node)
            affine.append(mapping is not None and all(affine[i] for i in inputs))
            if mapping is not None:
                _append_affine(values, mapping, inputs)
            else:
                _append_nonlinear(values, k, node, affine[inputs[0]])
    return values


def _append_affine(values: Values, mapping: Map, inputs: Sequence[int]) -> None:
    """Interval bounds: centre and radius forward; the rounding of both is at most 2 G(terms) times `size`."""
    size = mapping.apply(*(values.magnitude(i) for i in inputs), absolute=True) + mapping.bias_size
    error = (sum_error(mapping.terms) if mapping.terms else 0.0) * size
    charge = (sum_error(size.size) * np.abs(mapping.bias) + error).max(axis=(1, 2), keepdims=True)
    if mapping.terms == 0:  # weights 0 and 1, at most two of them and the bias: monotone, rounded once
        ends = ([part[i] for i in inputs] for part in (values.lower, values.upper))
        lower, upper = (mapping.apply(*end) + mapping.bias for end in ends)
    else:
        boxes = [centred(values.lower[i], values.upper[i]) for i in inputs]
        center = mapping.apply(*(box[0] for box in boxes)) + mapping.bias
        radius = up(mapping.apply(*(box[1] for box in boxes), absolute=True) + 4 * error)
        lower, upper = center - radius, center + radius
    values.append(down(lower), up(upper), up(charge) if charge.any() else None, None)


def _append_nonlinear(values: Values, k: int, node: Any, affine_input: bool) -> None:
    """The lines of a nonlinear node, over its input's bounds after those were refined."""
    (i,) = inputs_of(node)
    is_relu = relu_slope(node) is not None
    if values.prepared.maps[i] is not None:
        _refine(values, i, not is_relu, affine_input or not is_relu)
    lower, upper = values.lower[i], values.upper[i]
    lines = lines_of(node, lower, upper, _hint(values, k, 0) if is_relu else None)
    magnitude = values.magnitude(i).max(axis=(1, 2), keepdims=True)
    cells = max(lower.size, math.prod(values.prepared.shapes[k]))  # pooling may have more cells than its input
    values.append(*monotone(node, lower, upper), None, lines.charged(magnitude, cells))


def _hint(values: Values, k: int, rows: int | Sequence[int]) -> Array | None:
    """The witness's lower slopes of ReLU node k in these of its rows, (C, H, W) or (R, C, H, W)."""
    if values.witness is None:
        return None
    start, stop = values.prepared.slope_start[k : k + 2]
    found = values.witness.slopes[rows, start:stop]
    return found.reshape(*found.shape[:-1], *values.prepared.shapes[k])


def _refine(values: Values, k: int, every_cell: bool, both_ends: bool) -> None:
    """Intersect node k's bounds with backward ones: of its unstable cells (or of every one that is not a point) the end
    nearer to 0, then the other end of those that still are unstable (or of all of them)."""
    lower, upper = values.lower[k], values.upper[k]
    wanted = lower < upper if every_cell else (lower < 0) & (upper > 0)
    nearer = np.where(upper < -lower, 1.0, -1.0)
    _tighten(values, k, wanted, nearer)
    _tighten(values, k, wanted if both_ends else (lower < 0) & (upper > 0), -nearer)


def _tighten(values: Values, k: int, wanted: NDArray[np.bool_], signs: Array) -> None:
    """Intersect one end of the bounds of the cells `wanted` of node k, the upper one where signs is 1, the lower one
    where it is -1, with its backward bound."""
    cells = np.argwhere(np.moveaxis(wanted, 0, -1))  # neighbours travel together
    for some in together(values.prepared.shapes[: k + 1], len(cells)):
        at = tuple(cells[some].T[[2, 0, 1]])
        rows = unit_rows(values.prepared.shapes[k], cells[some])
        rows.values[:] *= signs[at][:, None, None, None]
        found = _descend(values, k, rows, None, False)
        ends = np.where(signs[at] > 0, found, np.inf), np.where(signs[at] > 0, -np.inf, -found)
        values.upper[k][at] = np.minimum(values.upper[k][at], ends[0])
        values.lower[k][at] = np.maximum(values.lower[k][at], ends[1])


def together(shapes: Sequence[Shape], forms: int) -> Iterator[slice]:
    """Parts of that many forms on nodes of these shapes, small enough to travel together."""
    size = max(1, CHUNK // max(map(math.prod, shapes)))
    return (slice(first, first + size) for first in range(0, forms, size))


# ---------------------------------------------------------------- the backward pass


def _descend(values: Values, start: int, rows: Rows, hint_rows: Sequence[int] | None, cuts: bool) -> Array:
    """(R,) upper bounds of rows . v_start over the ball.

    hint_rows: the witness row of each form's lower slopes (None: those of the intermediate passes). cuts: the least
    of the bounds met on the way, over the boxes of the values of the nodes then pending.
    """
    pending = {start: rows}
    best, constant = np.full(len(rows.values), np.inf), np.zeros(len(rows.values))
    for k in range(start, 0, -1):
        if k in pending:
            if cuts and (k == start or values.lines[k] is not None):
                best = np.minimum(best, _reach_all(values, pending, constant))
            constant = _replace(values, k, pending, constant, hint_rows)
    best = np.minimum(best, _reach_all(values, pending, constant))
    need_bounded(best, "bounds")
    return best


def _reach_all(values: Values, pending: dict[int, Rows], constant: Array) -> Array:
    """(R,) upper bounds from the boxes of the pending nodes' values."""
    total = constant
    for i, rows in pending.items():
        total = up(total + _reach(values, i, rows))
    return total


def _replace(
    values: Values, k: int, pending: dict[int, Rows], constant: Array, hint_rows: Sequence[int] | None
) -> Array:
    """Replace node k's value by its inputs' in `pending`; returns the new constant."""
    parts, cost = _step(values, k, pending.pop(k), hint_rows)
    constant = up(constant + cost)
    for i, part in zip(inputs_of(values.prepared.network.nodes[k]), parts, strict=True):
        if i in pending:
            part = add(pending[i], part, values.prepared.shapes[i])
            rounding = sum_error(2) * values.magnitude(i).max(axis=(1, 2), keepdims=True)
            constant = up(constant + up(dot(np.abs(part.values), take(rounding, part))))
        pending[i] = part
    return constant


def _step(values: Values, k: int, rows: Rows, hint_rows: Sequence[int] | None) -> tuple[Sequence[Rows], Array]:
    """Replace node k's value by its inputs': their rows, and what to add to the constant."""
    mapping, lines, charge = values.prepared.maps[k], cast("Lines", values.lines[k]), values.charges[k]
    if mapping is not None:
        cost = np.zeros(len(rows.values))
        if charge is not None:
            cost = dot(rows.values, take(mapping.bias, rows)) + up(dot(np.abs(rows.values), take(charge, rows)))
        return mapping.adjoint(rows), up(cost)
    positive = np.maximum(rows.values, 0.0)
    negative = rows.values - positive
    cost = dot(positive, take(lines.upper_intercept, rows)) + dot(negative, take(lines.lower_intercept, rows))
    positive *= take(lines.upper_slope, rows)
    negative *= _lower_slopes(values, k, rows, lines, hint_rows)
    result = Rows(positive + negative, rows.corner)  # one of the two is zero: exact
    if lines.selection is not None:
        (i,) = inputs_of(values.prepared.network.nodes[k])
        result = lines.selection.spread(result, values.prepared.shapes[i])
    return [result], up(cost)


def _lower_slopes(values: Values, k: int, rows: Rows, lines: Lines, hint_rows: Sequence[int] | None) -> Array:
    """Lower slopes of node k at the cells of `rows`, by each form's own witness row where it has one: any slope in
    [slope, 1] is that of a line below everywhere, whatever bounds the lines were made from."""
    node = values.prepared.network.nodes[k]
    slope = relu_slope(node)
    own = None if hint_rows is None or slope is None else _hint(values, k, hint_rows)
    if own is None or slope is None:
        return take(lines.lower_slope, rows)
    (i,) = inputs_of(node)
    return np.moveaxis(hinted_slopes(values.lower[i], values.upper[i], slope, own), 1, -1)  # such rows are whole


def _reach(values: Values, k: int, rows: Rows) -> Array:
    """(R,) upper bounds of rows . v_k over the box of node k's value; for the input, also over the ball."""
    lower, upper = values.lower[k], values.upper[k]
    center, radius = centred(lower, upper)
    size = values.magnitude(k).max(axis=(1, 2), keepdims=True)
    sizes = np.abs(rows.values)
    error = 4 * sum_error(lower.size) * dot(sizes, take(size, rows))
    box = up(dot(rows.values, take(center, rows)) + up(dot(sizes, take(radius, rows)) + error))
    return box if k > 0 or values.ball.norm == "Linf" else np.minimum(box, _reach_in_ball(values, rows))


def _reach_in_ball(values: Values, rows: Rows) -> Array:
    """(R,) upper bounds of rows . x over the ball where it meets its box: rows . center, and beyond it
    c . (x - center) <= radius * (dual norm of a) + sum of (|c| - a) way, for any 0 <= a <= |c|; way >= 0: how far
    the box reaches from the center in the direction of c.
    """
    center = values.ball.center.astype(np.float64).reshape(values.lower[0].shape)
    sizes = np.abs(rows.values)
    size = np.abs(center).max(axis=(1, 2), keepdims=True)
    error = 2 * sum_error(center.size) * dot(sizes, take(size, rows))
    above, below = (take(np.maximum(up(v), 0.0), rows) for v in (values.upper[0] - center, center - values.lower[0]))
    flat, way = (v.reshape(len(sizes), -1) for v in (sizes, np.where(rows.values > 0, above, below)))
    held = _held_by_ball(flat, way, values.ball)
    length = held.max(axis=1)  # the dual norm of L1
    growth = 1 + 2 * sum_error(flat.shape[1])
    if values.ball.norm == "L2":
        length = np.sqrt(np.einsum("rx,rx->r", held, held)) * growth  # what underflows is below `up`'s TINY
    rest = up(np.einsum("rx,rx->r", up(flat - held), way) * growth)
    return up(dot(rows.values, take(center, rows)) + up(up(up(up(length) * values.ball.radius) + rest) + error))


def _held_by_ball(sizes: Array, way: Array, ball: Ball) -> Array:
    """a of `_reach_in_ball`, (R, n): any would do. Best: min(|c|, t) in L1; min(|c|, t way) in L2, t = ‖a‖ / radius."""
    if ball.norm == "L1":
        order = np.argsort(-sizes, axis=1)
        spent = np.cumsum(np.take_along_axis(way, order, 1), axis=1)
        beyond = np.take_along_axis(sizes, order, 1) * (spent >= ball.radius)
        return np.minimum(sizes, beyond.max(axis=1, keepdims=True))
    held = sizes
    for _ in range(4):
        share = np.sqrt(np.einsum("rx,rx->r", held, held)) / max(ball.radius, TINY)
        held = np.minimum(sizes, way * share[:, None])
    return held


# ---------------------------------------------------------------- functionals of the logits


def functionals(values: Values, coefficients: Array, hint_rows: Sequence[int] | None) -> Array:
    """coefficients (R, K) -> (R,) upper bounds of coefficients . z over the ball, exact coefficients.

    hint_rows: per form, the witness row of its lower slopes. Also bounds over the box of every layer's values.
    """
    need_bounded(coefficients, "bounds")
    forms = coefficients.reshape(len(coefficients), 1, 1, -1).astype(np.float64)
    found = np.zeros(len(forms))
    with np.errstate(all="ignore"):
        for some in together(values.prepared.shapes, len(forms)):
            hints = None if hint_rows is None else hint_rows[some]
            found[some] = _descend(values, len(values.lower) - 1, Rows(forms[some], None), hints, True)
    return found


def differences(values: Values, y: int) -> tuple[Array, Array]:
    """(K,), (K,). Ensures: lower_j <= z_j - z_y <= upper_j over the ball; entry y is 0."""
    classes = values.prepared.network.classes
    need(classes <= MAX_CLASSES, "bounds", f"{classes} classes: at most {MAX_CLASSES} are compared")
    rivals = np.delete(np.arange(classes), y)
    forms = np.eye(classes)[rivals] - np.eye(classes)[y]
    hint_rows = [0 if values.witness is None else values.witness.row(1 + int(j), classes) for j in rivals]
    found = functionals(values, np.concatenate([forms, -forms]), [*hint_rows, *[0] * len(rivals)])
    lower, upper = np.zeros(classes), np.zeros(classes)
    upper[rivals], lower[rivals] = found[: len(rivals)], -found[len(rivals) :]
    return lower, upper


def difference_bounds(prepared: Prepared, ball: Ball, y: int, hints: Witness | None) -> tuple[Array, Array]:
    """`differences` of freshly computed value bounds."""
    return differences(value_bounds(prepared, ball, hints), y)

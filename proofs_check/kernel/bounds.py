"""Rigorous backward bounds of a plain network over a ball, in float64 with every rounding error counted.

R linear forms travel from a node back to the input. Invariant of `_descend`, for every form and every x in the ball:
form(x) <= sum over the frontier's nodes k of forms_k . v_k(x) + constant. Coefficients are exact floats by definition.
Source: Zhang et al. 2018 (CROWN) for the method, Higham 3.1 for the error terms; docs/maths.md 9a. What engines do
alike to send slopes that fit stands in FORMAT.md 11.

Precondition: `prepare` accepted the network; the ball meets its domain; coefficients are exact doubles.
Postcondition: lower <= v_k(x) <= upper (`value_bounds`) and coefficients . z(x) <= upper (`functionals`) for every x
in the ball, in real arithmetic; any number beyond LIMIT is rejected.
Charged: what an interval step rounds, to its radius; what an adjoint and a bias round, per unit of |coefficient|, to
`charges`; what a relaxation's slopes and intercepts round, to its intercepts; what a sum of forms rounds (`_replace`),
and a form's value over a box or a ball (`_concretize`), to the constant. All of them by proven bounds of |v_k|.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.certificate import Float32Array, Norm, PlainNetwork, need
from proofs_check.kernel.layers import KINDS
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.layer import Layer, Nonlinear
from proofs_check.kernel.linear_forms import LinearForms, Shape, add, dot, image, repeated, take, to_dense, unit_forms
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.relaxations import LinearRelaxation
from proofs_check.kernel.rounding import (
    Array,
    centred,
    down,
    need_arithmetic,
    need_bounded,
    product_up,
    sum_error,
    sum_up,
    up,
)
from proofs_check.witness import SHARED_ROW, Witness, difference_row, slope_starts

MAX_CLASSES = 2**12
CHUNK_COEFFICIENTS = 2**19  # coefficients of one node's forms travelling together: bounds memory
MALLOC_THRESHOLD_BYTES = 31 * 2**20  # glibc returns freed blocks to the system unless one as large was freed before


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
    """A network with its weights in float64, node by node. shapes: as images. slope_start: as in `slope_starts`."""

    network: PlainNetwork
    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...]
    slope_start: list[int]


def prepare(network: PlainNetwork) -> Prepared:
    """Rejects a network with weights beyond the error bounds' range."""
    need_arithmetic()
    np.empty(MALLOC_THRESHOLD_BYTES, dtype=np.uint8)  # allocated and freed
    shapes = tuple(image(s) for s in network.shapes)
    with np.errstate(all="ignore"):
        layers = tuple(KINDS[type(n)](n, [shapes[i] for i in inputs_of(n)]) for n in network.nodes)
    fits = all(isinstance(layer, (Affine, Nonlinear)) for layer in layers[1:])
    need(fits, "network", "a node but the first is neither affine nor nonlinear")
    return Prepared(network, layers, shapes, slope_starts(network))


def inputs_of(node: c.Node) -> tuple[int, ...]:
    return () if isinstance(node, c.Input) else node.inputs


# ---------------------------------------------------------------- bounds of every node's value


@dataclass(frozen=True, eq=False)
class Values:
    """Proven bounds of every node's value on the ball, images: lower[k] and upper[k]. They may shrink after later nodes
    were appended; what was derived from the wider ones stays proven. Or on a part of it (`kernel.parts`).

    charges: per affine node, what one unit of |coefficient| may lose to rounding. relaxations: per nonlinear node.
    multipliers: per affine node, images m, m v_k(x) >= 0 cell by cell: added to forms on it, they only raise them.
    known: bounds that appended ones are intersected with. split: per affine node, cells whose sign cuts out the
    part: their other end is refined, too, for where it crosses 0 the part is empty.
    """

    prepared: Prepared
    ball: Ball
    witness: Witness | None
    lower: list[Array] = field(default_factory=lambda: [])
    upper: list[Array] = field(default_factory=lambda: [])
    charges: list[Array | None] = field(default_factory=lambda: [])
    relaxations: list[LinearRelaxation | None] = field(default_factory=lambda: [])
    multipliers: dict[int, Array] = field(default_factory=lambda: {})
    known: Values | None = None
    split: dict[int, NDArray[np.bool_]] = field(default_factory=lambda: {})

    def magnitude(self, k: int) -> Array:
        return np.maximum(np.abs(self.lower[k]), np.abs(self.upper[k]))

    def slope_row(self, wanted: int) -> int:
        """The witness's row for `wanted`, or the nearest it has."""
        return SHARED_ROW if self.witness is None else self.witness.row(wanted, self.prepared.network.classes)

    def append(self, lower: Array, upper: Array, charge: Array | None, relaxation: LinearRelaxation | None) -> None:
        need_bounded(lower, "bounds")
        need_bounded(upper, "bounds")
        if self.known is not None:
            k = len(self.lower)
            lower, upper = np.maximum(lower, self.known.lower[k]), np.minimum(upper, self.known.upper[k])
        self.lower.append(lower)
        self.upper.append(upper)
        self.charges.append(charge)
        self.relaxations.append(relaxation)


def value_bounds(prepared: Prepared, ball: Ball, witness: Witness | None, known: Values | None = None) -> Values:
    """Ensures: lower <= v_k(x) <= upper for every node k and every x in the ball, in real arithmetic; or in the part of
    it whose bounds are `known`. Where that part is empty, lower > upper for some cell.

    Interval arithmetic throughout; inputs of nonlinear nodes are intersected with their backward bounds.
    """
    split = {} if known is None else known.split
    values, affine = Values(prepared, ball, witness, known=known, split=split), [True]  # affine: in the input
    with np.errstate(all="ignore"):
        values.append(*ball.box(), None, None)
        for k, layer in enumerate(prepared.layers[1:], start=1):
            inputs = inputs_of(prepared.network.nodes[k])
            affine.append(isinstance(layer, Affine) and all(affine[i] for i in inputs))
            if isinstance(layer, Nonlinear):
                _append_nonlinear(values, k, layer, inputs[0], affine[inputs[0]])
            else:
                ends = ([bound[i] for i in inputs] for bound in (values.lower, values.upper))
                values.append(*cast("Affine", layer).interval(*ends), None)
    return values


def _append_nonlinear(values: Values, k: int, layer: Nonlinear, i: int, affine_input: bool) -> None:
    """The relaxation of a nonlinear node, over the bounds of its input i after those were refined."""
    done = affine_input and values.known is not None  # nothing below is relaxed: on a part as on the ball
    if isinstance(values.prepared.layers[i], Affine) and not done:
        _refine(values, i, layer, affine_input or layer.both_ends)
    values.append(*layer.interval(values.lower[i], values.upper[i]), None, relaxation_over(values, k, layer, i))


def relaxation_over(values: Values, k: int, layer: Nonlinear, i: int) -> LinearRelaxation:
    """The relaxation of a nonlinear node k over the bounds of its input i as they stand, for any lower slopes."""
    lower, upper = values.lower[i], values.upper[i]
    relaxation = layer.relaxation(lower, upper, _slopes_of(values, k, SHARED_ROW))
    magnitude = values.magnitude(i).max(axis=(1, 2), keepdims=True)
    terms = max(lower.size, math.prod(values.prepared.shapes[k]))  # pooling may have more cells than its input
    return relaxation.charged(magnitude, terms)


def _slopes_of(values: Values, k: int, rows: int | Sequence[int]) -> Array | None:
    """The witness's lower slopes of node k in these of its rows, (C, H, W) or (R, C, H, W); None where it has none."""
    start, stop = values.prepared.slope_start[k : k + 2]
    if values.witness is None or start == stop:
        return None
    slopes = values.witness.slopes[rows, start:stop]
    return slopes.reshape(*slopes.shape[:-1], *values.prepared.shapes[k])


def _refine(values: Values, k: int, layer: Nonlinear, both_ends: bool) -> None:
    """Intersect node k's bounds with backward ones: of the neurons that `layer`, whose input it is, asks for, the
    end nearer to 0, then the other end of those that it still asks for (or of all of them), and of those split."""
    lower, upper = values.lower[k], values.upper[k]
    selected = layer.neurons(lower, upper)
    nearer_end = np.where(upper < -lower, 1.0, -1.0)
    _tighten(values, k, selected, nearer_end)
    again = selected if both_ends else layer.neurons(lower, upper)
    _tighten(values, k, again | values.split[k] if k in values.split else again, -nearer_end)


def _tighten(values: Values, k: int, selected: NDArray[np.bool_], signs: Array) -> None:
    """Intersect one end of the bounds of the neurons `selected` of node k, the upper one where signs is 1, the
    lower one where it is -1, with its backward bound."""
    neurons = np.argwhere(np.moveaxis(selected, 0, -1))  # neighbours travel together
    for chunk in chunks(values.prepared.shapes[: k + 1], len(neurons)):
        at = tuple(neurons[chunk].T[[2, 0, 1]])
        forms = unit_forms(values.prepared.shapes[k], neurons[chunk])
        forms.values[:] *= signs[at][:, None, None, None]
        bound = _descend(values, k, forms, None, False)
        ends = np.where(signs[at] > 0, bound, np.inf), np.where(signs[at] > 0, -np.inf, -bound)
        values.upper[k][at] = np.minimum(values.upper[k][at], ends[0])
        values.lower[k][at] = np.maximum(values.lower[k][at], ends[1])


def chunks(shapes: Sequence[Shape], forms: int) -> Iterator[slice]:
    """Parts of that many forms on nodes of these shapes, small enough to travel together."""
    size = max(1, CHUNK_COEFFICIENTS // max(map(math.prod, shapes)))
    return (slice(first, first + size) for first in range(0, forms, size))


# ---------------------------------------------------------------- the backward pass


Frontier = dict[int, LinearForms]  # of the nodes whose values still stand in the sum
SlopeRows = Sequence[int] | None  # per form, the witness row of its lower slopes; None: that of inner passes


def _descend(values: Values, start: int, forms: LinearForms, slope_rows: SlopeRows, concretize_early: bool) -> Array:
    """(R,) upper bounds of forms . v_start over the ball.

    concretize_early: the least of the bounds met on the way down, over the boxes of the values of the frontier's nodes.
    """
    frontier = {start: forms}
    least, constant = np.full(len(forms.values), np.inf), np.zeros(len(forms.values))
    for k in range(start, 0, -1):
        if k in frontier:
            if k in values.multipliers:  # rounding is monotone: what is really added has the multiplier's sign
                dense = to_dense(frontier[k], values.prepared.shapes[k])
                frontier[k] = LinearForms(dense.values + take(values.multipliers[k], dense), None)
            if concretize_early and (k == start or values.relaxations[k] is not None):
                least = np.minimum(least, _concretize_frontier(values, frontier, constant))
            constant = _replace(values, k, frontier, constant, slope_rows)
    least = np.minimum(least, _concretize_frontier(values, frontier, constant))
    need_bounded(least, "bounds")
    return least


def _concretize_frontier(values: Values, frontier: Frontier, constant: Array) -> Array:
    """(R,) upper bounds from the boxes of the frontier's values."""
    total = constant
    for i, forms in frontier.items():
        total = sum_up(total, _concretize(values, i, forms))
    return total


def _replace(values: Values, k: int, frontier: Frontier, constant: Array, slope_rows: SlopeRows) -> Array:
    """Replace node k's value by its inputs' in the frontier; returns the new constant."""
    parts, cost = _step(values, k, frontier.pop(k), slope_rows)
    constant = sum_up(constant, cost)
    for i, part in zip(inputs_of(values.prepared.network.nodes[k]), parts, strict=True):
        if i in frontier:
            part = add(frontier[i], part, values.prepared.shapes[i])
            rounding = sum_error(2) * values.magnitude(i).max(axis=(1, 2), keepdims=True)
            constant = sum_up(constant, up(dot(np.abs(part.values), take(rounding, part))))
        frontier[i] = part
    return constant


def _step(values: Values, k: int, forms: LinearForms, slope_rows: SlopeRows) -> tuple[Sequence[LinearForms], Array]:
    """Replace node k's value by its inputs': their forms, and what to add to the constant."""
    layer, charge = values.prepared.layers[k], values.charges[k]
    if isinstance(layer, Affine):
        cost = np.zeros(len(forms.values))
        if charge is not None:
            cost = dot(forms.values, take(layer.bias, forms)) + up(dot(np.abs(forms.values), take(charge, forms)))
        return layer.adjoint(forms), up(cost)
    relaxation = cast("LinearRelaxation", values.relaxations[k])
    positive = np.maximum(forms.values, 0.0)
    negative = forms.values - positive
    above, below = take(relaxation.upper_intercept, forms), take(relaxation.lower_intercept, forms)
    cost = dot(positive, above) + dot(negative, below)
    positive, negative = (repeated(v, len(relaxation.upper_slope)) for v in (positive, negative))
    positive *= take(relaxation.upper_slope, forms)
    negative *= _lower_slopes(values, k, forms, relaxation, slope_rows)
    result = LinearForms(positive + negative, forms.corner)  # one of the two is zero: exact
    if relaxation.selection is not None:
        (i,) = inputs_of(values.prepared.network.nodes[k])
        result = relaxation.selection.spread(result, values.prepared.shapes[i])
    return [result], up(cost)


def _lower_slopes(values: Values, k: int, forms: LinearForms, relaxation: LinearRelaxation, rows: SlopeRows) -> Array:
    """Lower slopes of node k at the cells of `forms`, from each form's own witness row where it has one."""
    slopes = None if rows is None else _slopes_of(values, k, rows)
    if slopes is None:
        return take(relaxation.lower_slope, forms)
    layer, (i,) = cast("Nonlinear", values.prepared.layers[k]), inputs_of(values.prepared.network.nodes[k])
    return np.moveaxis(layer.lower_slopes(values.lower[i], values.upper[i], slopes), 1, -1)  # such forms are dense


def _concretize(values: Values, k: int, forms: LinearForms) -> Array:
    """(R,) upper bounds of forms . v_k over the box of node k's value; for the input, also over the ball."""
    lower, upper = values.lower[k], values.upper[k]
    center, radius = centred(lower, upper)
    size = values.magnitude(k).max(axis=(1, 2), keepdims=True)
    sizes = np.abs(forms.values)
    error = 4 * sum_error(lower.size) * dot(sizes, take(size, forms))
    over_box = sum_up(dot(sizes, take(radius, forms)), error, dot(forms.values, take(center, forms)))
    only_box = k > 0 or NORMS[values.ball.norm].is_box
    return over_box if only_box else np.minimum(over_box, _concretize_ball(values, forms))


def _concretize_ball(values: Values, forms: LinearForms) -> Array:
    """(R,) upper bounds of forms . x over the ball where it meets its box: forms . center, and beyond it
    c . (x - center) <= radius * (dual norm of a) + sum of (|c| - a) extent, for any 0 <= a <= |c|, the ball's share;
    extent >= 0: how far the box extends from the center in the direction of c.
    """
    center = values.ball.center.astype(np.float64).reshape(values.lower[0].shape)
    sizes = np.abs(forms.values)
    size = np.abs(center).max(axis=(1, 2), keepdims=True)
    error = 2 * sum_error(center.size) * dot(sizes, take(size, forms))
    above, below = (take(np.maximum(up(v), 0.0), forms) for v in (values.upper[0] - center, center - values.lower[0]))
    flat, box_extent = (v.reshape(len(sizes), -1) for v in (sizes, np.where(forms.values > 0, above, below)))
    norm, radius = NORMS[values.ball.norm], values.ball.radius
    ball_share = norm.share(flat, box_extent, radius)
    by_ball = product_up(norm.dual(ball_share), radius)
    growth = 1 + 2 * sum_error(flat.shape[1])
    by_box = product_up(np.einsum("rx,rx->r", up(flat - ball_share), box_extent), growth)
    return sum_up(by_ball, by_box, error, dot(forms.values, take(center, forms)))


# ---------------------------------------------------------------- functionals of the logits


def functionals(values: Values, coefficients: Array, slope_rows: SlopeRows) -> Array:
    """coefficients (R, K) -> (R,) upper bounds of coefficients . z over the ball, exact coefficients.

    slope_rows: per form, the witness row of its lower slopes. Also bounds over the box of every layer's values.
    """
    need_bounded(coefficients, "bounds")
    forms = coefficients.reshape(len(coefficients), 1, 1, -1).astype(np.float64)
    uppers = np.zeros(len(forms))
    with np.errstate(all="ignore"):
        for chunk in chunks(values.prepared.shapes, len(forms)):
            rows = None if slope_rows is None else slope_rows[chunk]
            uppers[chunk] = _descend(values, len(values.lower) - 1, LinearForms(forms[chunk], None), rows, True)
    return uppers


def difference_forms(classes: int, networks: int, y: int) -> Array:
    """z_j - z_y of so many networks, whose logits stand one behind the other, as forms (K, K) on all K logits."""
    each = classes // networks
    return np.eye(classes) - np.eye(classes)[np.arange(classes) // each * each + y]


def differences(values: Values, y: int, networks: int = 1) -> tuple[Array, Array]:
    """(K,), (K,). Ensures: lower_j <= z_j - z_y <= upper_j over the ball; entry y is 0. networks: how many networks'
    logits stand one behind the other, each with its own z_y."""
    classes = values.prepared.network.classes
    need(classes <= MAX_CLASSES, "bounds", f"{classes} classes: at most {MAX_CLASSES} are compared")
    forms = difference_forms(classes, networks, y)
    rivals = np.flatnonzero(forms.any(axis=1))
    forms = forms[rivals]
    slope_rows = [values.slope_row(difference_row(int(j))) for j in rivals]
    uppers = functionals(values, np.concatenate([forms, -forms]), [*slope_rows, *[SHARED_ROW] * len(rivals)])
    lower, upper = np.zeros(classes), np.zeros(classes)
    upper[rivals], lower[rivals] = uppers[: len(rivals)], -uppers[len(rivals) :]
    return lower, upper


def difference_bounds(prepared: Prepared, ball: Ball, y: int, witness: Witness | None) -> tuple[Array, Array]:
    """`differences` of freshly computed value bounds."""
    return differences(value_bounds(prepared, ball, witness), y)

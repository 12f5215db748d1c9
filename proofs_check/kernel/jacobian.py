"""Rigorous bounds of gradients of logit functionals over a ball, by the chain rule on intervals.

R forms travel from the logits to the input; every rounding widens them. Invariant: each element of Clarke's generalised
Jacobian of the functionals at each x in the ball, with respect to each node of the frontier, lies in the interval
(Clarke 1983, 2.6.6; intervals are convex). The set is convex, so the largest dual norm of the gradient is a Lipschitz
constant on it (mean value theorem). docs/maths.md 4.

Two enclosures are intersected at every nonlinear node. `plain`: interval times interval. `middle` and `drift`: with
slopes M + E, |E| <= R, the chain rule's product telescopes into that of the M alone plus, for each nonlinear node k,
(form at k) E_k P_k, P_k the product of the M below it; no coefficient moves by more than sum_k |form at k| R_k |P_k|.

Precondition: slopes hold every derivative of their node on the set. Postcondition: intervals hold every gradient,
`dual_norms` and `difference_constants` are at least its dual norm there.
Charged: what an affine step, a product with slopes and a sum of forms round, to the radius of each interval, which is
itself rounded up; what a norm sums, to the norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from proofs_check.certificate import Norm, need
from proofs_check.kernel.bounds import Prepared, Values, chunks, inputs_of
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.layer import Nonlinear
from proofs_check.kernel.linear_forms import LinearForms, Shape, add, to_dense, unit_forms
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.rounding import Array, dot_up, down, need_bounded, product_up, sum_error, sum_up, up
from proofs_check.kernel.slopes import Interval, Slopes


def affine_step(layer: Affine, forms: Interval) -> list[Interval]:
    """The forms of each input of an affine node."""
    error = sum_error(layer.terms)
    spread = sum_up(forms.radius, product_up(2 * error, np.abs(forms.centre)))
    centres = layer.adjoint(LinearForms(forms.centre, forms.corner))
    radii = layer.adjoint(LinearForms(spread, forms.corner), absolute=True)
    pairs = zip(centres, radii, strict=True)
    return [Interval(m.values, product_up(r.values, 1 + 2 * error), m.corner) for m, r in pairs]


def sum_of(first: Interval, second: Interval, shape: Shape) -> Interval:
    centre = add(LinearForms(first.centre, first.corner), LinearForms(second.centre, second.corner), shape)
    radius = add(LinearForms(first.radius, first.corner), LinearForms(second.radius, second.corner), shape)
    rounding = product_up(sum_error(2), np.abs(centre.values))
    return Interval(centre.values, sum_up(up(radius.values), rounding), centre.corner)


def slopes_over(values: Values) -> list[Slopes | None]:
    """Per node, over the ball; None for an affine node and the input."""
    result: list[Slopes | None] = []
    for node, layer in zip(values.prepared.network.nodes, values.prepared.layers, strict=True):
        ends = ((values.lower[i], values.upper[i]) for i in inputs_of(node))
        result.append(layer.slopes(*next(ends)) if isinstance(layer, Nonlinear) else None)
    return result


def slopes_everywhere(prepared: Prepared) -> list[Slopes | None]:
    """Per node, over the whole space; None for an affine node and the input."""
    return [layer.slopes_anywhere() if isinstance(layer, Nonlinear) else None for layer in prepared.layers]


# ---------------------------------------------------------------- the backward pass

Frontier = dict[int, Interval]


@dataclass(frozen=True, eq=False)
class Gradients:
    """R gradients with respect to the input: each in `forms`, and each `middle` plus, for every (node, sizes) of
    `uncertain`, the unit forms of the node's cells times coefficients of at most `sizes` (R, h, w, C)."""

    forms: Interval
    middle: Interval
    uncertain: list[tuple[int, Array]]


def gradients(prepared: Prepared, slopes: list[Slopes | None], coefficients: Array) -> Gradients:
    """Of the functionals coefficients . z, coefficients (R, K) exact, for slopes as given."""
    last = len(prepared.layers) - 1
    start = coefficients.reshape(len(coefficients), 1, 1, -1)
    plain, middle = ({last: Interval(start, np.zeros_like(start))} for _ in range(2))
    drift: dict[int, Array] = {}
    uncertain: list[tuple[int, Array]] = []
    with np.errstate(all="ignore"):
        for k in range(last, 0, -1):
            if k not in plain:
                continue
            layer = prepared.layers[k]
            if isinstance(layer, Affine):
                for frontier in (plain, middle):
                    hand_on(prepared, frontier, k, affine_step(layer, frontier.pop(k)))
            else:
                factor = cast("Slopes", slopes[k])
                forms = _intersection(plain.pop(k), middle[k], drift.get(k))
                hand_on(prepared, plain, k, [factor.times(forms, factor.least, factor.most)])
                hand_on(prepared, middle, k, [factor.times(middle.pop(k), factor.middle, factor.middle)])
                (i,) = inputs_of(prepared.network.nodes[k])
                uncertain.append((i, factor.slope_errors(forms)))
                _charge(prepared, slopes, *uncertain[-1], drift)
    return Gradients(_intersection(plain[0], middle[0], drift.get(0)), middle[0], uncertain)


def hand_on(prepared: Prepared, frontier: Frontier, k: int, parts: list[Interval]) -> None:
    """Add the forms of node k's inputs to what the frontier holds there."""
    for i, part in zip(inputs_of(prepared.network.nodes[k]), parts, strict=True):
        need_bounded(part.magnitude(), "jacobian")
        frontier[i] = sum_of(frontier[i], part, prepared.shapes[i]) if i in frontier else part


def _intersection(plain: Interval, middle: Interval, drift: Array | None) -> Interval:
    radius = middle.radius if drift is None else up(middle.radius + drift)
    low = np.maximum(down(plain.centre - plain.radius), down(middle.centre - radius))
    return Interval.between(low, np.minimum(up(plain.centre + plain.radius), up(middle.centre + radius)))


def _charge(prepared: Prepared, slopes: list[Slopes | None], node: int, sizes: Array, drift: dict[int, Array]) -> None:
    """Each cell of `node` has a coefficient of at most `sizes` (R, h, w, C): charge it to `drift` of every nonlinear
    node below and of the input."""
    cells = np.argwhere(sizes.any(axis=0))
    for chunk in chunks(prepared.shapes[: node + 1], len(cells)):
        part = cells[chunk]
        forms, weights = unit_forms(prepared.shapes[node], part), sizes[:, part[:, 0], part[:, 1], part[:, 2]]
        frontier = {node: Interval(forms.values, np.zeros_like(forms.values), forms.corner)}
        for k in range(node, -1, -1):
            if k not in frontier:
                continue
            reached, factor, layer = frontier.pop(k), slopes[k], prepared.layers[k]
            if k == 0 or factor is not None:
                reached = _to_dense(reached, prepared.shapes[k])
                share = _weighted(weights, reached.magnitude())
                drift[k] = up(drift[k] + share) if k in drift else share
            if isinstance(layer, Affine):
                hand_on(prepared, frontier, k, affine_step(layer, reached))
            elif factor is not None:
                hand_on(prepared, frontier, k, [factor.times(reached, factor.middle, factor.middle)])


def _to_dense(forms: Interval, shape: Shape) -> Interval:
    centre, radius = (to_dense(LinearForms(part, forms.corner), shape).values for part in (forms.centre, forms.radius))
    return Interval(centre, radius)


def _weighted(weights: Array, magnitudes: Array) -> Array:
    """(R, U) weights >= 0 of (U, h, w, C) -> (R, h, w, C), rounded up."""
    total = weights @ magnitudes.reshape(len(magnitudes), -1)
    return product_up(total, 1 + 2 * sum_error(len(magnitudes))).reshape(-1, *magnitudes.shape[1:])


# ---------------------------------------------------------------- constants


def dual_norms(prepared: Prepared, slopes: list[Slopes | None], coefficients: Array, norm: Norm) -> Array:
    """(R,) upper bounds of the norm dual to `norm` of the gradients of coefficients . z, for slopes as given."""
    norms = np.zeros(len(coefficients))
    with np.errstate(all="ignore"):
        for chunk in chunks(prepared.shapes, len(coefficients)):
            gradient = gradients(prepared, slopes, coefficients[chunk])
            norms[chunk] = NORMS[norm].dual(gradient.forms.magnitude().reshape(len(norms[chunk]), -1))
            if NORMS[norm].dual_is_sum:
                norms[chunk] = np.minimum(norms[chunk], _sums_of_sizes(prepared, slopes, gradient))
    return norms


def _sums_of_sizes(prepared: Prepared, slopes: list[Slopes | None], gradient: Gradients) -> Array:
    """(R,) upper bounds of sum_i |J_i|, J the gradient.

    For any a: |J_i| <= a_i J_i + b_i, b_i its largest difference at the two ends of J_i (convexity), and a . J is
    a . middle plus the uncertain coefficients times what their cells are of a, carried forward by the middle slopes.
    """
    low, high = down(gradient.forms.centre - gradient.forms.radius), up(gradient.forms.centre + gradient.forms.radius)
    chords, offsets = _chords(low, high)
    sums: list[float] = []
    for r, chord in enumerate(chords):
        carried = _carried(prepared, slopes, np.moveaxis(chord, -1, 0))
        factors = [offsets[r], chord, np.abs(chord), *(sizes[r] for _, sizes in gradient.uncertain)]
        values = [np.ones_like(chord), gradient.middle.centre[r], gradient.middle.radius[r]]
        values += [np.moveaxis(carried[k].magnitude(), 0, -1) for k, _ in gradient.uncertain]
        row, column = (np.concatenate([part.ravel() for part in parts]) for parts in (factors, values))
        sums.append(float(dot_up(row[None], column)[0]))
    return np.array(sums)


def _chords(low: Array, high: Array) -> tuple[Array, Array]:
    """(a, b): |v| <= a v + b wherever low <= v <= high, for any a by convexity; this one is the tightest."""
    width = np.maximum(high - low, 2.0**-400)
    chords = np.where(low > 0, 1.0, np.where(high < 0, -1.0, np.clip((high + low) / width, -1.0, 1.0)))
    ends = (sum_up(np.abs(e) - chords * e, product_up(sum_error(2), np.abs(e))) for e in (low, high))
    return chords, np.maximum(*ends)


def _carried(prepared: Prepared, slopes: list[Slopes | None], value: Array) -> list[Interval]:
    """Every node's image in the linear network of the middle slopes, without offsets, for this input image."""
    images = [Interval(value, np.zeros_like(value))]
    for node, layer, factor in zip(prepared.network.nodes[1:], prepared.layers[1:], slopes[1:], strict=True):
        inputs = [images[i] for i in inputs_of(node)]
        if isinstance(layer, Affine):
            size = layer.apply(*(v.magnitude() for v in inputs), absolute=True)
            radius = layer.apply(*(v.radius for v in inputs), absolute=True)
            centre = layer.apply(*(v.centre for v in inputs))
            images.append(Interval(centre, up(radius + 4 * sum_error(layer.terms) * size)))
        else:
            images.append(cast("Slopes", factor).forward(inputs[0]))
        need_bounded(images[-1].magnitude(), "jacobian")
    return images


def difference_constants(values: Values, y: int) -> Array:
    """(K,) constants L_j: |d_j(a) - d_j(b)| <= L_j ‖a - b‖ for all a, b in the ball, d_j = z_j - z_y; L_y = 0."""
    classes = values.prepared.network.classes
    need(0 <= y < classes, "jacobian", f"class {y} of {classes}")
    rivals = np.delete(np.arange(classes), y)
    forms = np.eye(classes)[rivals] - np.eye(classes)[y]
    constants = np.zeros(classes)
    constants[rivals] = dual_norms(values.prepared, slopes_over(values), forms, values.ball.norm)
    need_bounded(constants, "jacobian")
    return constants

"""Bounds of Jacobians that keep the layers linked: intervals around the chain rule's midpoint, one zonotope per form.

With slopes M ± R, a form c of the logits reaches the input as c A_1 (M_1 + E_1) A_2 (M_2 + E_2) …, |E_k| <= R_k.
Telescoping (Jordan and Dimakis 2021 push zonotopes through the same products):

    gradient = c A_1 M_1 A_2 M_2 …  +  sum over k of  (form at k) E_k P_k,    P_k = A_(k+1) M_(k+1) A_(k+2) …

P_k is exact and common to all forms, and |form at k| is bounded by the same formula for the layers above it, so a
cell's gradient moves by at most sum_k |P_k|ᵀ R_k |form at k|: no absolute weights are multiplied through the layers,
which is what makes interval recursion useless on deep and on residual networks. Both are intersected at every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.lipschitz.jacobian import GradientBounds, Slopes, from_taps, interval_product
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.norms import NORMS

MAX_COEFFICIENTS = 2**24
U = 2.0**-51  # twice the relative rounding error of one operation
Frontier = dict[int, tuple[Tensor, Tensor]]  # node -> forms (centre, radius), or forms and their aggregated error


def linked_gradient_bounds(maps: LinearMaps, slopes: list[Slopes], forms: Tensor) -> GradientBounds:
    """Bounds of the gradients of forms·z, forms (N, R, K) exact, slopes of the same N inputs.

    Ensures: every element of the Clarke Jacobian, for slopes in the given intervals, is inside.
    Time: one backward form per element of uncertain slope (of any input of the batch).
    """
    return _Pass(maps, slopes, forms.shape[0], forms.shape[1]).run(forms.to(torch.float64))


def linked_dual_norms(maps: LinearMaps, slopes: list[Slopes], forms: Tensor, norm: c.Norm) -> Tensor:
    """(N, R) upper bounds of the dual norms of these gradients.

    Where the dual norm is a sum of sizes also sum_i |J_i| <= sum_i (a_i J_i + b_i), b_i the largest |J_i| - a_i J_i
    between the bounds of J_i: one functional of the gradient, which an uncertain slope moves by its size times |P_k a|
    (a carried forward by midpoints), so that its effects on the entries cancel as they do in the gradient.
    """
    work = _Pass(maps, slopes, forms.shape[0], forms.shape[1])
    bounds = work.run(forms.to(torch.float64))
    norms = bounds.dual_norm_upper(norm)
    return torch.minimum(norms, work.sum_of_sizes(bounds)) if NORMS[norm].dual_order == 1 else norms


@dataclass(eq=False)
class _Pass:
    """count inputs, number forms each. Forms travel flattened: (N·R, *shape).

    plain: intervals (centre, radius) of the forms. middle: their midpoint part and its rounding error.
    moved: per node, how far the forms may be from the midpoint part because of uncertain slopes above it.
    uncertain: (node, largest coefficients of its value that uncertain slopes may add), one per nonlinear node.
    """

    maps: LinearMaps
    slopes: list[Slopes]
    count: int
    number: int
    plain: Frontier = field(default_factory=dict)
    middle: Frontier = field(default_factory=dict)
    moved: dict[int, Tensor] = field(default_factory=dict)
    uncertain: list[tuple[int, Tensor]] = field(default_factory=list)

    def run(self, forms: Tensor) -> GradientBounds:
        last = len(self.maps.network.nodes) - 1
        flat = forms.flatten(0, 1)
        self.plain[last] = self.middle[last] = (flat, torch.zeros_like(flat))
        for k in range(last, 0, -1):
            if k not in self.plain:
                continue
            if self.maps.affine(k):
                for frontier in (self.plain, self.middle):
                    self._hand_on(frontier, k, *self.maps.adjoint_step(k, *frontier.pop(k)))
            else:
                self._nonlinear(k)
        low, high = self._interval(0)
        centre = (low + high) / 2
        radius = _up(torch.maximum(_up(high - centre), _up(centre - low)))
        shape = (self.count, self.number, *self.maps.network.input_shape)
        return GradientBounds(centre.reshape(shape), radius.reshape(shape))

    def _interval(self, k: int) -> tuple[Tensor, Tensor]:
        """(lower, upper) of the forms of node k, complete once every node above it has been passed."""
        (centre, radius), (middle, error) = self.plain[k], self.middle[k]
        moved = _up(error + self.moved[k]) if k in self.moved else error
        low = torch.maximum(-_up(radius - centre), -_up(moved - middle))
        return low, torch.minimum(_up(centre + radius), _up(middle + moved))

    def _hand_on(self, frontier: Frontier, k: int, parts: list[Tensor], errors: list[Tensor]) -> None:
        for source, m, r in zip(self.maps.parents(k), parts, errors, strict=True):
            if source in frontier:
                m, r = frontier[source][0] + m, _up(frontier[source][1] + r)
                r = _up(r + U * m.abs())
            frontier[source] = (m, r)

    def _nonlinear(self, k: int) -> None:
        """Forms of a nonlinear node's input, and what its uncertain slopes add to all nodes below."""
        layer, (low, high) = self.maps.nonlinear(k), self._interval(k)
        self.plain.pop(k)
        middle, error = (layer.over_taps(t) for t in self.middle.pop(k))
        self._hand_on(self.plain, k, *interval_product(self.maps, k, self.slopes[k], low, high, self.number))
        slope, doubt = (s.repeat_interleave(self.number, 0) for s in _halves(self.slopes[k]))
        through = middle * slope
        parts, errors = from_taps(layer, through, _up(_up(error * slope.abs()) + U * through.abs()))
        self._hand_on(self.middle, k, parts, errors)
        size = layer.over_taps(torch.maximum(low.abs(), high.abs()))
        # an uncertain share of a window moves one cell: sizes are summed over the windows of that cell
        weights = _up(doubt * size)
        _, (weights,) = from_taps(layer, torch.zeros_like(weights), weights)
        (source,) = self.maps.parents(k)
        self.uncertain.append((source, weights))
        self._spread(source, weights)

    def sum_of_sizes(self, bounds: GradientBounds) -> Tensor:
        """(N, R) upper bounds of sum_i |J_i|, as `linked_dual_norms` says."""
        low, high = ((bounds.centre + sign * _up(bounds.radius)).flatten(0, 1) for sign in (-1, 1))
        low, high = -_up(-low), _up(high)
        chord = ((high + low) / (high - low).clamp(min=2.0**-400)).clamp(-1, 1)
        chord = torch.where(low > 0, 1.0, torch.where(high < 0, -1.0, chord))
        ends = [end.abs() - chord * end + 4 * U * end.abs() for end in (low, high)]
        offset = torch.maximum(*ends)
        middle, error = self.middle[0]
        forward = self._forward(chord)
        terms = [offset, chord * middle, chord.abs() * error]
        for node, weights in self.uncertain:
            centre, radius = forward[node]
            terms.append(weights * _up(centre.abs() + radius))
        total = sum((t.flatten(1).sum(dim=1) for t in terms), torch.zeros(1, dtype=torch.float64, device=low.device))
        size = sum((t.flatten(1).abs().sum(dim=1) for t in terms), torch.zeros_like(total))
        count = sum(t[0].numel() for t in terms) + 16
        return (total + count * U * size).reshape(self.count, self.number)

    def _forward(self, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(centre, rounding) per node of the network linearised at the midpoints, for inputs `value` (N·R, *shape)."""
        values = [(value, torch.zeros_like(value))]
        for k in range(1, len(self.maps.layers)):
            inputs = [values[i] for i in self.maps.parents(k)]
            if self.maps.affine(k):
                values.append(self.maps.linear_step(k, [m for m, _ in inputs], [r for _, r in inputs]))
                continue
            layer, ((centre, radius),) = self.maps.nonlinear(k), inputs
            slope = _halves(self.slopes[k])[0].repeat_interleave(self.number, 0)
            factors = (centre, slope), (centre.abs(), slope.abs()), (radius, slope.abs())
            taps = (layer.at_taps(t) * s for t, s in factors)
            new, size, spread = map(layer.sum_of_taps, taps)
            if layer.taps == 1:
                values.append((new, _up(_up(spread) + U * size)))
            else:
                charge = (layer.taps + 4) * U
                values.append((new, _up(spread * (1 + charge)) + charge * size))
        return values

    def _spread(self, source: int, weights: Tensor) -> None:
        """Add |unit forms of `source`|·weights to `moved` of every nonlinear node below it and of the input."""
        shaped = weights.reshape(self.count, self.number, -1)
        index = torch.nonzero((shaped > 0).any(dim=0).any(dim=0)).flatten()
        widest = max(math.prod(s) for s in self.maps.network.shapes[: source + 1])
        chunk = max(1, MAX_COEFFICIENTS // (widest * self.count))
        for start in range(0, len(index), chunk):
            part = index[start : start + chunk]
            unit = torch.zeros((len(part), shaped.shape[2]), dtype=torch.float64, device=weights.device)
            unit[torch.arange(len(part), device=weights.device), part] = 1.0
            unit = unit.reshape(1, len(part), *weights.shape[1:]).expand(self.count, *[-1] * weights.ndim)
            self._descend(source, unit.flatten(0, 1), shaped[:, :, part])

    def _descend(self, source: int, forms: Tensor, weights: Tensor) -> None:
        """Midpoint forms (N·U, *shape) of `source` down to the input; weights (N, R, U).

        Beside them travels sum_u weight_u |error of form u|, (N·R, *shape): all that is needed of their rounding.
        """
        frontier: Frontier = {source: (forms, torch.zeros(1, dtype=torch.float64, device=forms.device))}
        for k in range(source, -1, -1):
            if k not in frontier:
                continue
            forms, error = frontier.pop(k)
            total = self._weighed(forms, weights)
            error = error.expand_as(total)
            if k == 0 or self.slopes[k] is not None:
                moved = _up(total + error)
                self.moved[k] = _up(self.moved[k] + moved) if k in self.moved else moved
            if k == 0:
                break
            if self.slopes[k] is None:
                parts = self.maps.adjoint(k, forms)
                errors = self.maps.adjoint_step(k, total, error)[1]
            else:
                slope = _halves(self.slopes[k])[0]
                each, summed = (
                    slope.repeat_interleave(weights.shape[2], 0),
                    slope.abs().repeat_interleave(self.number, 0),
                )
                layer = self.maps.nonlinear(k)
                parts = [layer.from_taps(layer.over_taps(forms) * each)]
                size = layer.over_taps(total) * summed
                _, errors = from_taps(layer, size, _up(layer.over_taps(error) * summed) + U * size)
            for i, m, e in zip(self.maps.parents(k), parts, errors, strict=True):
                if i in frontier:
                    m, e = frontier[i][0] + m, _up(frontier[i][1] + e)
                    e = _up(e + U * self._weighed(m, weights))
                frontier[i] = (m, e)

    def _weighed(self, forms: Tensor, weights: Tensor) -> Tensor:
        """sum_u weight_u |form u|, rounded up: (N·U, *shape) -> (N·R, *shape)."""
        flat = forms.abs().reshape(self.count, weights.shape[2], -1)
        total = (weights @ flat) * (1 + (weights.shape[2] + 16) * U)
        return total.reshape(self.count * self.number, *forms.shape[1:])


def _halves(slopes: Slopes) -> tuple[Tensor, Tensor]:
    """M and R: every slope lies in M ± R; R is zero where the slope is known."""
    least, most = slopes  # type: ignore[misc]
    middle = (least + most) / 2
    radius = _up(torch.maximum(most - middle, middle - least))
    return middle, torch.where(least == most, 0.0, radius)


def _up(value: Tensor) -> Tensor:
    """At least every real that an operation rounded to `value`."""
    return value + U * value.abs()

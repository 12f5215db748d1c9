"""Backward CROWN on a plain network, batched over inputs and forms, in torch. Part of the native CROWN engine.

Linear forms go down through the network, through linear relaxations where it is nonlinear, to the input, where they are
bounded over the ball, as FORMAT.md 11 advises. Everything is differentiable in the slopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifiers.crown.frontier import Frontier
from verifiers.crown.network import CrownNetwork, Interval
from verifiers.linear_forms.forms import DenseForms, FormToInput, LinearForms, Summand, consecutive_forms, dot
from verifiers.linear_forms.relaxation import Relaxation
from verifiers.perturbation import BoxedBalls


class AffineValues(NamedTuple):
    """Values (N, *shape) of one node at the balls' centres and at the midpoints of the boxes."""

    center: Tensor
    midpoint: Tensor

    def pick(self, index: Tensor | slice) -> AffineValues:
        """The inputs `index`."""
        return AffineValues(self.center[index], self.midpoint[index])


@dataclass(frozen=True, eq=False)
class IntermediateBounds:
    """values[k]: (lower, upper) of node k, (N, *shape) each, on N balls. slopes: (N, n), row 0 of the witness.

    affine_values[k]: of an affine node, its values at single points.
    """

    net: CrownNetwork
    ball: BoxedBalls
    values: list[Interval]
    affine_values: dict[int, AffineValues]
    slopes: Tensor

    def pick(self, index: Tensor | slice) -> IntermediateBounds:
        """The inputs `index` (possibly repeated)."""
        values = [(a[index], b[index]) for a, b in self.values]
        affine_values = {k: v.pick(index) for k, v in self.affine_values.items()}
        return IntermediateBounds(self.net, self.ball.pick(index), values, affine_values, self.slopes[index])

    def relaxations(self, slopes: Tensor) -> dict[int, Relaxation]:
        """Of every nonlinear node bounded so far, given rows of the witness (one per input)."""
        layers = self.net.layers[: len(self.values)]
        return {k: self._relaxation(k, slopes) for k, layer in enumerate(layers) if not layer.affine}

    def _relaxation(self, k: int, slopes: Tensor) -> Relaxation:
        lower, upper = self.values[self.net.parents(k)[0]]
        layer_slopes = None
        if k in self.net.slope_ranges:
            start, stop = self.net.slope_ranges[k]
            layer_slopes = slopes[:, start:stop].reshape(lower.shape)
        return self.net.layers[k].relaxation(lower, upper, layer_slopes)


# ---------------------------------------------------------------- one backward pass


def backward(
    intermediate_bounds: IntermediateBounds,
    frontier: Mapping[int, Summand],
    form_to_input: FormToInput,
    relaxations: dict[int, Relaxation],
    early: bool,
) -> Tensor:
    """Upper bounds (R,) of sums of forms on several nodes: the least of `concretizations`."""
    return concretizations(intermediate_bounds, frontier, form_to_input, relaxations, early, None).amin(0)


def concretizations(
    intermediate_bounds: IntermediateBounds,
    forms_on_nodes: Mapping[int, Summand],
    form_to_input: FormToInput,
    relaxations: dict[int, Relaxation],
    early: bool,
    stop_after: int | None,
) -> Tensor:
    """Upper bounds (M, R) of sums of forms on several nodes, each convex in the slopes above it.

    relaxations: of every nonlinear node, one per input. early: concretize also on the way, over the boxes of the
    frontier's values, at the start and before every nonlinearity; else only at the input. stop_after: the index of the
    last bound that is wanted.
    """
    net, frontier = intermediate_bounds.net, Frontier(forms_on_nodes)
    start = frontier.last
    constant = torch.zeros((), dtype=net.dtype, device=net.device)
    upper_bounds: list[Tensor] = []
    while not net.affine.issuperset(frontier.nodes):
        k = frontier.last
        layer = net.layers[k]
        if early and (k == start or not layer.affine):
            upper_bounds.append(constant + _concretize_boxes(intermediate_bounds, frontier, form_to_input))
            if stop_after is not None and len(upper_bounds) > stop_after:
                return torch.stack(torch.broadcast_tensors(*upper_bounds))
        forms = frontier.pop(k)
        if layer.affine:
            intercepts = layer.offset(forms)
            frontier.add(net.parents(k), layer.adjoint(forms))
        else:
            below, intercepts = relaxations[k].backward(forms, form_to_input)
            frontier.add(net.parents(k), (below,))
        if intercepts is not None:
            constant = constant + intercepts
    upper_bounds.append(constant + _concretize_ball(intermediate_bounds, frontier, form_to_input))
    return torch.stack(torch.broadcast_tensors(*upper_bounds))


def _concretize_boxes(
    intermediate_bounds: IntermediateBounds, frontier: Frontier, form_to_input: FormToInput
) -> Tensor:
    """Upper bounds (R,) of the frontier's forms from the boxes of the nodes' values."""
    summands = [_through_interval(forms, intermediate_bounds.values[k], form_to_input) for k, forms in frontier.items()]
    return torch.stack(summands).sum(0)


def _through_interval(forms: LinearForms, values: Interval, form_to_input: FormToInput) -> Tensor:
    lower, upper = values
    middle, half_width = (forms.gather(v, form_to_input) for v in ((lower + upper) / 2, (upper - lower) / 2))
    coefficients = forms.grouped(middle)
    return dot(coefficients, middle) + dot(coefficients.abs(), half_width)


# ---------------------------------------------------------------- at the input


def _concretize_ball(intermediate_bounds: IntermediateBounds, frontier: Frontier, form_to_input: FormToInput) -> Tensor:
    """Upper bounds (R,) of forms on affine nodes: over the boxes, or over the balls cut by them if that is smaller."""
    net, ball, values = intermediate_bounds.net, intermediate_bounds.ball, intermediate_bounds.affine_values
    boxes_only = ball.lp.is_box
    at_midpoint = _at_points(frontier, {k: values[k].midpoint for k in frontier.nodes}, form_to_input)
    centers = {k: values[k].center for k in frontier.nodes}
    at_center = at_midpoint if boxes_only else _at_points(frontier, centers, form_to_input)
    root, forms = _to_root(net, frontier)
    (lower, upper), center = intermediate_bounds.values[root], values[root].center
    above, below = (upper - center).clamp(min=0), (center - lower).clamp(min=0)
    half_width = forms.gather((above + below) / 2, form_to_input)
    coefficients = forms.grouped(half_width)
    box = at_midpoint + dot(coefficients.abs(), half_width)
    if boxes_only:
        return box
    shared = FormToInput(torch.zeros_like(form_to_input.index), None)
    unit = forms.gather(net.root_scale(root), shared).abs().flatten(2).flatten(0, 1)
    sizes = coefficients.abs().flatten(2).flatten(0, 1) * unit  # of the coefficients of the input itself
    gathered = (forms.gather(v, form_to_input) for v in (above, below))
    extent = torch.where(coefficients > 0, *gathered).flatten(2).flatten(0, 1)
    extent = extent / unit.clamp(min=torch.finfo(unit.dtype).tiny)
    radius = ball.radius if len(ball.radius) == 1 else ball.radius[form_to_input.index]
    return torch.minimum(box, at_center + ball.lp.reach(sizes, extent, radius))


def _at_points(frontier: Frontier, values: dict[int, Tensor], form_to_input: FormToInput) -> Tensor:
    """(R,): the frontier's forms, each where its node has the value `values[k]` (N, *shape)."""
    gathered = [(forms, forms.gather(values[k], form_to_input)) for k, forms in frontier.items()]
    return torch.stack([dot(forms.grouped(v), v) for forms, v in gathered]).sum(0)


def _to_root(net: CrownNetwork, frontier: Frontier) -> tuple[int, LinearForms]:
    """The sum of forms on affine nodes as forms on one root, which is returned with them. Uses the frontier up."""
    while len(frontier) > 1 or frontier.last not in net.roots:
        k = frontier.last
        frontier.add(net.parents(k), net.layers[k].adjoint(frontier.pop(k)))
    return frontier.last, frontier.pop(frontier.last)


# ---------------------------------------------------------------- functionals of the logits


def functional_upper(intermediate_bounds: IntermediateBounds, coefficients: Tensor, slopes: Tensor | None) -> Tensor:
    """Upper bounds (N, J) of coefficients (N, J, K) . logits on each ball.

    slopes: (N, J, n), those of each form, or None for the shared ones.
    Ensures: the least of the backward pass and of its early concretizations.
    """
    n, j, _ = coefficients.shape
    last = len(intermediate_bounds.net.layers) - 1
    flat = coefficients.flatten(0, 1)
    form_to_input = consecutive_forms(n, j, flat.device)
    if slopes is None:
        relaxations = intermediate_bounds.relaxations(intermediate_bounds.slopes)
        return backward(intermediate_bounds, {last: DenseForms(flat)}, form_to_input, relaxations, True).view(n, j)
    per_form = intermediate_bounds.pick(form_to_input.index)
    relaxations = per_form.relaxations(slopes.reshape(n * j, -1))
    one_each = consecutive_forms(n * j, 1, flat.device)
    return backward(per_form, {last: DenseForms(flat)}, one_each, relaxations, True).view(n, j)

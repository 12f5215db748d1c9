"""Backward CROWN on a plain network, batched over inputs and forms, in torch. Part of the native CROWN engine.

Linear forms go down through the network, through linear relaxations (relaxations.py) where it is nonlinear, to the
input, where they are bounded over the ball, as FORMAT.md 11 advises. Everything is differentiable in the slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.convolution import space_to_depth
from verifiers.crown.linear_forms import (
    FormToInput,
    LinearForm,
    Step,
    add_to_frontier,
    adjoint,
    channels_last,
    consecutive_forms,
    conv_adjoint,
    dot,
    gather,
    grouped_by_input,
    pad_blocks,
    to_dense,
)
from verifiers.crown.network import NONLINEAR, CrownNetwork, Interval
from verifiers.crown.relaxations import (
    LinearRelaxation,
    MaxPoolRelaxation,
    SparseRelaxation,
    max_pool_relaxation,
    relu_relaxation,
    sigmoid_relaxation,
    tanh_relaxation,
)

FIXED_POINT_STEPS = 4  # of the fixed point that splits a form between ball and box


@dataclass(frozen=True, eq=False)
class Ball:
    """center (N, *shape), radius (N,): the balls; lower, upper (N, *shape): boxes around ball and domain."""

    center: Tensor
    radius: Tensor
    norm: c.Norm
    lower: Tensor
    upper: Tensor

    def pick(self, index: Tensor | slice) -> Ball:
        """The balls of the inputs `index`."""
        return Ball(self.center[index], self.radius[index], self.norm, self.lower[index], self.upper[index])


def ball(center: Tensor, radius: Tensor, norm: c.Norm, domain: tuple[float, float] | None) -> Ball:
    """The perturbation set of each input."""
    half_width = radius.view(-1, *(1,) * (center.dim() - 1))
    lower, upper = center - half_width, center + half_width
    if domain is not None:
        lower, upper = lower.clamp(min=domain[0]), upper.clamp(max=domain[1])
    return Ball(center, radius, norm, lower, upper)


Relaxation = LinearRelaxation | MaxPoolRelaxation


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
    ball: Ball
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
        nodes = self.net.nodes[: len(self.values)]
        return {k: self._relaxation(k, slopes) for k, node in enumerate(nodes) if isinstance(node, NONLINEAR)}

    def _relaxation(self, k: int, slopes: Tensor) -> Relaxation:
        node = self.net.nodes[k]
        lower, upper = self.values[self.net.parents(k)[0]]
        match node:
            case c.Relu() | c.LeakyRelu():
                leak = node.slope if isinstance(node, c.LeakyRelu) else 0.0
                start, stop = self.net.slope_ranges[k]
                return relu_relaxation(lower, upper, slopes[:, start:stop].reshape(lower.shape), leak)
            case c.Sigmoid():
                return sigmoid_relaxation(lower, upper)
            case c.Tanh():
                return tanh_relaxation(lower, upper)
            case c.MaxPool2d():
                return max_pool_relaxation(lower, upper, node)
            case _:
                raise TypeError(f"{type(node).__name__} is linear")


# ---------------------------------------------------------------- one backward pass


def backward(
    intermediate_bounds: IntermediateBounds,
    frontier: dict[int, LinearForm],
    form_to_input: FormToInput,
    relaxations: dict[int, Relaxation],
    early: bool,
) -> Tensor:
    """Upper bounds (R,) of sums of forms on several nodes: the least of `concretizations`."""
    return concretizations(intermediate_bounds, frontier, form_to_input, relaxations, early, None).amin(0)


def concretizations(
    intermediate_bounds: IntermediateBounds,
    frontier: dict[int, LinearForm],
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
    net, start = intermediate_bounds.net, max(frontier)
    frontier = dict(frontier)
    constant = torch.zeros((), dtype=net.dtype, device=net.device)
    upper_bounds: list[Tensor] = []
    while not net.affine.issuperset(frontier):
        k = max(frontier)
        node = net.nodes[k]
        if early and (k == start or isinstance(node, NONLINEAR)):
            upper_bounds.append(constant + _concretize_boxes(intermediate_bounds, frontier, form_to_input))
            if stop_after is not None and len(upper_bounds) > stop_after:
                return torch.stack(torch.broadcast_tensors(*upper_bounds))
        forms = frontier.pop(k)
        if k in relaxations:
            step = _through_relaxation(net, k, forms, relaxations[k], form_to_input)
        else:
            step = adjoint(net, k, forms)
        if step.constant is not None:
            constant = constant + step.constant
        add_to_frontier(net, frontier, k, step.inputs)
    upper_bounds.append(constant + _concretize_ball(intermediate_bounds, frontier, form_to_input))
    return torch.stack(torch.broadcast_tensors(*upper_bounds))


def _concretize_boxes(
    intermediate_bounds: IntermediateBounds, frontier: dict[int, LinearForm], form_to_input: FormToInput
) -> Tensor:
    """Upper bounds (R,) of the frontier's forms from the boxes of the nodes' values."""
    shapes = intermediate_bounds.net.network.shapes
    summands = [
        _through_interval(pad_blocks(forms, shapes[k]), intermediate_bounds.values[k], form_to_input)
        for k, forms in frontier.items()
    ]
    return torch.stack(summands).sum(0)


def _through_relaxation(
    net: CrownNetwork, k: int, forms: LinearForm, relaxations: Relaxation, form_to_input: FormToInput
) -> Step:
    """Positive coefficients take the upper line, negative ones the lower."""
    forms = pad_blocks(forms, net.network.shapes[k])
    if isinstance(relaxations, MaxPoolRelaxation):
        return _through_max_pool(net, k, forms, relaxations, form_to_input)
    sparse = relaxations.sparse(forms.block) if forms.patches is None else None
    if sparse is not None:
        return _through_sparse(forms, sparse)
    excess, below, intercept = (
        gather(v, forms, form_to_input)
        for v in (
            relaxations.upper_slope - relaxations.lower_slope,
            relaxations.lower_slope,
            relaxations.upper_intercept,
        )
    )
    coefficients = grouped_by_input(forms.coefficients, below)
    positive = coefficients.clamp(min=0)
    pulled = torch.addcmul(coefficients * below, positive, excess)
    constant = dot(positive, intercept)
    if relaxations.lower_intercept is not None:
        constant = constant + dot(coefficients - positive, gather(relaxations.lower_intercept, forms, form_to_input))
    return Step((forms.with_coefficients(pulled),), constant)


def _through_sparse(forms: LinearForm, sparse: SparseRelaxation) -> Step:
    """Forms on whole images of one input, through ReLUs of which only a few are unstable."""
    coefficients = channels_last(forms.coefficients).flatten(1)
    positive = coefficients.index_select(1, sparse.unstable).clamp(min=0)
    below = coefficients.mul_(sparse.slope) if forms.may_overwrite else coefficients * sparse.slope
    pulled = below.index_add_(1, sparse.unstable, positive * sparse.excess)
    return Step((forms.with_coefficients(pulled),), positive @ sparse.intercept)


def _through_max_pool(
    net: CrownNetwork, k: int, forms: LinearForm, relaxations: MaxPoolRelaxation, form_to_input: FormToInput
) -> Step:
    """Coefficients of pooled values, moved to the selected pixels; positive ones take a constant where these have
    rivals."""
    dense = to_dense(forms, net.network.shapes[k])
    selected, dominates, rival_constant = (
        gather(v, dense, form_to_input)
        for v in (relaxations.selected, relaxations.dominates, relaxations.rival_constant)
    )
    coefficients = grouped_by_input(dense.coefficients, rival_constant)
    positive = coefficients.clamp(min=0)
    moved, selected = (v.movedim(-1, 2).flatten(3) for v in (coefficients - positive + positive * dominates, selected))
    image = moved.new_zeros(*moved.shape[:3], math.prod(relaxations.padded_size))
    spread = image.scatter_add(3, selected.expand_as(moved), moved).flatten(0, 1).unflatten(2, relaxations.padded_size)
    node = net.nodes[k]
    if not isinstance(node, c.MaxPool2d):
        raise TypeError(f"{type(node).__name__} is no max pooling")
    top, left, _, _ = node.padding
    _, height, width = net.network.shapes[node.inputs[0]]
    inside = spread[:, :, top : top + height, left : left + width]
    return Step((LinearForm(inside),), dot(positive, rival_constant))


def _through_interval(forms: LinearForm, values: Interval, form_to_input: FormToInput) -> Tensor:
    lower, upper = values
    middle, half_width = (gather(v, forms, form_to_input) for v in ((lower + upper) / 2, (upper - lower) / 2))
    coefficients = grouped_by_input(forms.coefficients, middle)
    return dot(coefficients, middle) + dot(coefficients.abs(), half_width)


# ---------------------------------------------------------------- at the input


def _concretize_ball(
    intermediate_bounds: IntermediateBounds, frontier: dict[int, LinearForm], form_to_input: FormToInput
) -> Tensor:
    """Upper bounds (R,) of forms on affine nodes: over the boxes, or over the balls cut by them if that is smaller."""
    net, ball = intermediate_bounds.net, intermediate_bounds.ball
    frontier = {k: pad_blocks(forms, net.network.shapes[k]) for k, forms in frontier.items()}
    centers = {k: intermediate_bounds.affine_values[k].center for k in frontier}
    midpoints = {k: intermediate_bounds.affine_values[k].midpoint for k in frontier}
    boxes_only = ball.norm == "Linf"
    at_midpoint = _at_points(frontier, midpoints, form_to_input)
    at_center = at_midpoint if boxes_only else _at_points(frontier, centers, form_to_input)
    root = _to_root(intermediate_bounds, frontier, not boxes_only)
    half_width = gather((root.above + root.below) / 2, root.forms, form_to_input)
    coefficients = grouped_by_input(root.forms.coefficients, half_width)
    box = at_midpoint + dot(coefficients.abs(), half_width)
    if root.scale is None:
        return box
    above, below = (gather(v, root.forms, form_to_input) for v in (root.above, root.below))
    shared = FormToInput(torch.zeros_like(form_to_input.index), None)
    unit = gather(root.scale, root.forms, shared).abs().flatten(2).flatten(0, 1)
    sizes = coefficients.abs().flatten(2).flatten(0, 1) * unit  # of the coefficients of the input itself
    extent = torch.where(coefficients > 0, above, below).flatten(2).flatten(0, 1)
    extent = extent / unit.clamp(min=torch.finfo(unit.dtype).tiny)
    radius = ball.radius if len(ball.radius) == 1 else ball.radius[form_to_input.index]
    ball_share = torch.minimum(sizes, _ball_share(sizes.detach(), extent, radius[:, None], ball.norm))
    dual = ball_share.norm(dim=1) if ball.norm == "L2" else ball_share.amax(1)
    return torch.minimum(box, at_center + radius * dual + ((sizes - ball_share) * extent).sum(1))


def _ball_share(sizes: Tensor, extent: Tensor, radius: Tensor, norm: c.Norm) -> Tensor:
    """Caps a (R, n): c . (x - center) <= radius * (dual norm of min(|c|, a)) + sum of (|c| - min(|c|, a)) extent on
    the ball cut by its box, `extent` being how far the box extends the way the form grows. Best: one number per form in
    L1, by sorting; in L2 `extent` times a number, a fixed point.
    """
    if norm == "L1":
        ordered, order = sizes.sort(dim=1, descending=True)
        spent = extent.gather(1, order).cumsum(1)
        return (ordered * (spent >= radius)).amax(1, keepdim=True).expand_as(sizes)
    cap = sizes
    for _ in range(FIXED_POINT_STEPS):
        cap = extent * (torch.minimum(sizes, cap).norm(dim=1, keepdim=True) / radius.clamp(min=1e-30))
    return cap


def _at_points(frontier: dict[int, LinearForm], values: dict[int, Tensor], form_to_input: FormToInput) -> Tensor:
    """(R,): the frontier's forms, each where its node has the value `values[k]` (N, *shape)."""
    gathered = {k: gather(values[k], forms, form_to_input) for k, forms in frontier.items()}
    return torch.stack([dot(grouped_by_input(frontier[k].coefficients, v), v) for k, v in gathered.items()]).sum(0)


@dataclass(frozen=True, eq=False)
class RootForms:
    """Forms on one root, without their constants, and that root's box: all in the same space-to-depth blocks.

    above, below: (N, *shape) how far the box extends above and below the root's value at the centre. scale: (1, *shape)
    by what the root multiplies the input, or None where it was not wanted.
    """

    forms: LinearForm
    above: Tensor
    below: Tensor
    scale: Tensor | None


def _to_root(intermediate_bounds: IntermediateBounds, frontier: dict[int, LinearForm], with_scale: bool) -> RootForms:
    """The sum of forms on affine nodes, as forms on one root. Uses the frontier up."""
    net, shapes = intermediate_bounds.net, intermediate_bounds.net.network.shapes
    while len(frontier) > 1 or max(frontier) not in net.roots:
        k = max(frontier)
        forms = pad_blocks(frontier.pop(k), shapes[k])
        is_last = not frontier and net.parents(k)[0] in net.roots
        if is_last and isinstance(net.nodes[k], c.Conv2d) and forms.patches is None:
            return _through_first_convolution(intermediate_bounds, k, forms, with_scale)
        add_to_frontier(net, frontier, k, adjoint(net, k, forms).inputs)
    ((root, forms),) = frontier.items()
    return _on_root(intermediate_bounds, root, pad_blocks(forms, shapes[root]), with_scale)


def _through_first_convolution(
    intermediate_bounds: IntermediateBounds, k: int, forms: LinearForm, with_scale: bool
) -> RootForms:
    """Forms on a convolution of a root, left in blocks below it: a box is sooner taken apart than many forms put
    together."""
    net, stride = intermediate_bounds.net, conv_adjoint(intermediate_bounds.net, k).stride
    root = net.parents(k)[0]
    _, height, width = net.network.shapes[root]
    coefficients = conv_adjoint(net, k).blocks(forms.coefficients, (height, width), forms.block)
    on_root = _on_root(intermediate_bounds, root, LinearForm(coefficients), with_scale)
    above, below = (space_to_depth(v, stride) for v in (on_root.above, on_root.below))
    scale = None if on_root.scale is None else space_to_depth(on_root.scale, stride)
    return RootForms(on_root.forms, above, below, scale)


def _on_root(intermediate_bounds: IntermediateBounds, k: int, forms: LinearForm, with_scale: bool) -> RootForms:
    (lower, upper), center = intermediate_bounds.values[k], intermediate_bounds.affine_values[k].center
    scale = intermediate_bounds.net.root_scale(k) if with_scale else None
    return RootForms(forms, (upper - center).clamp(min=0), (center - lower).clamp(min=0), scale)


# ---------------------------------------------------------------- functionals of the logits


def functional_upper(intermediate_bounds: IntermediateBounds, coefficients: Tensor, slopes: Tensor | None) -> Tensor:
    """Upper bounds (N, J) of coefficients (N, J, K) . logits on each ball.

    slopes: (N, J, n), those of each form, or None for the shared ones.
    Ensures: the least of the backward pass and of its early concretizations.
    """
    n, j, _ = coefficients.shape
    last = len(intermediate_bounds.net.nodes) - 1
    flat = coefficients.flatten(0, 1)
    form_to_input = consecutive_forms(n, j, flat.device)
    if slopes is None:
        relaxations = intermediate_bounds.relaxations(intermediate_bounds.slopes)
        return backward(intermediate_bounds, {last: LinearForm(flat)}, form_to_input, relaxations, True).view(n, j)
    per_form = intermediate_bounds.pick(form_to_input.index)
    relaxations = per_form.relaxations(slopes.reshape(n * j, -1))
    one_each = consecutive_forms(n * j, 1, flat.device)
    return backward(per_form, {last: LinearForm(flat)}, one_each, relaxations, True).view(n, j)

"""Backward CROWN on a plain network, batched over inputs and rows, in torch. Part of the native CROWN engine.

Rows of functionals go down through the network, through lines (crown_lines.py) where it is nonlinear, to the input,
where they are bounded over the ball. Everything is differentiable in the slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.convolution import to_phases
from verifiers.crown.linear_forms import (
    Owners,
    Rows,
    Step,
    add,
    adjoint,
    channels_last,
    conv_adjoint,
    dot,
    evenly,
    filled,
    gather,
    grouped,
    whole,
)
from verifiers.crown.network import NONLINEAR, CrownNetwork, Interval
from verifiers.crown.relaxations import (
    Few,
    Lines,
    Selection,
    pool_selection,
    relu_lines,
    sigmoid_lines,
    tanh_lines,
)

STEPS = 4  # of the fixed point that splits a form between ball and box


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
    reach = radius.view(-1, *(1,) * (center.dim() - 1))
    lower, upper = center - reach, center + reach
    if domain is not None:
        lower, upper = lower.clamp(min=domain[0]), upper.clamp(max=domain[1])
    return Ball(center, radius, norm, lower, upper)


Relaxed = Lines | Selection


@dataclass(frozen=True, eq=False)
class Bounds:
    """values[k]: (lower, upper) of node k, (N, *shape) each, on N balls. slopes: (N, n), row 0 of the witness.

    anchors[k]: of an affine node, its values at the balls' centres and at the boxes' middles.
    """

    net: CrownNetwork
    ball: Ball
    values: list[Interval]
    anchors: dict[int, tuple[Tensor, Tensor]]
    slopes: Tensor

    def pick(self, index: Tensor | slice) -> Bounds:
        """The inputs `index` (possibly repeated)."""
        values = [(a[index], b[index]) for a, b in self.values]
        anchors = {k: (a[index], b[index]) for k, (a, b) in self.anchors.items()}
        return Bounds(self.net, self.ball.pick(index), values, anchors, self.slopes[index])

    def lines(self, slopes: Tensor) -> dict[int, Relaxed]:
        """Lines of every nonlinear node bounded so far, given rows of the witness (one per input)."""
        nodes = self.net.nodes[: len(self.values)]
        return {k: self._lines(k, slopes) for k, node in enumerate(nodes) if isinstance(node, NONLINEAR)}

    def _lines(self, k: int, slopes: Tensor) -> Relaxed:
        node = self.net.nodes[k]
        lower, upper = self.values[self.net.parents(k)[0]]
        match node:
            case c.Relu() | c.LeakyRelu():
                leak = node.slope if isinstance(node, c.LeakyRelu) else 0.0
                start, stop = self.net.slope_ranges[k]
                return relu_lines(lower, upper, slopes[:, start:stop].reshape(lower.shape), leak)
            case c.Sigmoid():
                return sigmoid_lines(lower, upper)
            case c.Tanh():
                return tanh_lines(lower, upper)
            case c.MaxPool2d():
                return pool_selection(lower, upper, node)
            case _:
                raise TypeError(f"{type(node).__name__} is linear")


# ---------------------------------------------------------------- one backward pass


def backward(known: Bounds, pending: dict[int, Rows], owners: Owners, lines: dict[int, Relaxed], cuts: bool) -> Tensor:
    """Upper bounds (R,) of sums of rows of several nodes: the least of `cut_bounds`."""
    return cut_bounds(known, pending, owners, lines, cuts, None).amin(0)


def cut_bounds(
    known: Bounds, pending: dict[int, Rows], owners: Owners, lines: dict[int, Relaxed], cuts: bool, last: int | None
) -> Tensor:
    """Upper bounds (M, R) of sums of rows of several nodes, each convex in the slopes above it.

    lines: of every node that has some, one per input. cuts: also the bounds met on the way, over the boxes of the
    pending nodes' values at the start and before every nonlinearity; else only the one at the input. last: stop at
    this one of them.
    """
    net, start = known.net, max(pending)
    pending = dict(pending)
    constant = torch.zeros((), dtype=net.dtype, device=net.device)
    met: list[Tensor] = []
    while not net.affine.issuperset(pending):
        k = max(pending)
        node = net.nodes[k]
        if cuts and (k == start or isinstance(node, NONLINEAR)):
            met.append(constant + _over_boxes(known, pending, owners))
            if last is not None and len(met) > last:
                return torch.stack(torch.broadcast_tensors(*met))
        rows = pending.pop(k)
        step = _through_lines(net, k, rows, lines[k], owners) if k in lines else adjoint(net, k, rows)
        if step.constant is not None:
            constant = constant + step.constant
        for i, part in zip(net.parents(k), step.inputs, strict=True):
            pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
    met.append(constant + _over_ball(known, pending, owners))
    return torch.stack(torch.broadcast_tensors(*met))


def _over_boxes(known: Bounds, pending: dict[int, Rows], owners: Owners) -> Tensor:
    """Upper bounds (R,) of the pending rows from the boxes of the nodes' values."""
    shapes = known.net.network.shapes
    found = [_through_interval(filled(rows, shapes[k]), known.values[k], owners) for k, rows in pending.items()]
    return torch.stack(found).sum(0)


def _through_lines(net: CrownNetwork, k: int, rows: Rows, lines: Relaxed, owners: Owners) -> Step:
    """Positive coefficients take the upper line, negative ones the lower."""
    rows = filled(rows, net.network.shapes[k])
    if isinstance(lines, Selection):
        return _through_selection(net, k, rows, lines, owners)
    few = lines.few(rows.phases) if rows.at is None else None
    if few is not None:
        return _through_few(rows, few)
    excess, below, intercept = (
        gather(v, rows, owners)
        for v in (lines.upper_slope - lines.lower_slope, lines.lower_slope, lines.upper_intercept)
    )
    own = grouped(rows.coefficients, below)
    positive = own.clamp(min=0)
    pulled = torch.addcmul(own * below, positive, excess)
    constant = dot(positive, intercept)
    if lines.lower_intercept is not None:
        constant = constant + dot(own - positive, gather(lines.lower_intercept, rows, owners))
    return Step((rows.of(pulled),), constant)


def _through_few(rows: Rows, few: Few) -> Step:
    """Whole rows about one input, through the lines of ReLUs of which only a few are open."""
    own = channels_last(rows.coefficients).flatten(1)
    positive = own.index_select(1, few.places).clamp(min=0)
    below = own.mul_(few.slope) if rows.writable else own * few.slope
    pulled = below.index_add_(1, few.places, positive * few.excess)
    return Step((rows.of(pulled),), positive @ few.intercept)


def _through_selection(net: CrownNetwork, k: int, rows: Rows, lines: Selection, owners: Owners) -> Step:
    """Coefficients of pooled cells, moved to the selected cells; positive ones take a constant where it has rivals."""
    own_rows = whole(rows, net.network.shapes[k])
    place, wins, top = (gather(v, own_rows, owners) for v in (lines.place, lines.wins, lines.top))
    own = grouped(own_rows.coefficients, top)
    positive = own.clamp(min=0)
    moved, place = (v.movedim(-1, 2).flatten(3) for v in (own - positive + positive * wins, place))
    image = moved.new_zeros(*moved.shape[:3], math.prod(lines.image))
    spread = image.scatter_add(3, place.expand_as(moved), moved).flatten(0, 1).unflatten(2, lines.image)
    node = net.nodes[k]
    if not isinstance(node, c.MaxPool2d):
        raise TypeError(f"{type(node).__name__} is no max pooling")
    top_rows, left, _, _ = node.padding
    _, height, width = net.network.shapes[node.inputs[0]]
    kept = spread[:, :, top_rows : top_rows + height, left : left + width]
    return Step((Rows(kept),), dot(positive, top))


def _through_interval(rows: Rows, values: Interval, owners: Owners) -> Tensor:
    lower, upper = values
    middle, reach = (gather(v, rows, owners) for v in ((lower + upper) / 2, (upper - lower) / 2))
    own = grouped(rows.coefficients, middle)
    return dot(own, middle) + dot(own.abs(), reach)


# ---------------------------------------------------------------- at the input


def _over_ball(known: Bounds, pending: dict[int, Rows], owners: Owners) -> Tensor:
    """Upper bounds (R,) of rows of affine nodes: over the boxes, or over the balls cut by them if that is smaller."""
    pending = {k: filled(rows, known.net.network.shapes[k]) for k, rows in pending.items()}
    boxes_only = known.ball.norm == "Linf"
    in_box = _at_anchors(known, pending, owners, 1)
    at_center = in_box if boxes_only else _at_anchors(known, pending, owners, 0)
    rows, above, below, scale = _at_root(known, pending, not boxes_only)  # uses the pending rows up
    reach = gather((above + below) / 2, rows, owners)
    own = grouped(rows.coefficients, reach)
    box = in_box + dot(own.abs(), reach)
    if scale is None:
        return box
    above, below = (gather(v, rows, owners) for v in (above, below))
    unit = gather(scale, rows, Owners(torch.zeros_like(owners.index), None)).abs().flatten(2).flatten(0, 1)
    sizes = own.abs().flatten(2).flatten(0, 1) * unit  # of the input's own coefficients
    way = torch.where(own > 0, above, below).flatten(2).flatten(0, 1) / unit.clamp(min=torch.finfo(unit.dtype).tiny)
    radius = known.ball.radius if len(known.ball.radius) == 1 else known.ball.radius[owners.index]
    held = torch.minimum(sizes, _held_by_ball(sizes.detach(), way, radius[:, None], known.ball.norm))
    dual = held.norm(dim=1) if known.ball.norm == "L2" else held.amax(1)
    return torch.minimum(box, at_center + radius * dual + ((sizes - held) * way).sum(1))


def _held_by_ball(sizes: Tensor, way: Tensor, radius: Tensor, norm: c.Norm) -> Tensor:
    """Caps a (R, n): c . (x - center) <= radius * (dual norm of min(|c|, a)) + sum of (|c| - min(|c|, a)) way on the
    ball cut by its box, `way` the farthest that the box reaches. Best: one number per row in L1, by sorting; in L2
    `way` times a number, a fixed point.
    """
    if norm == "L1":
        ordered, order = sizes.sort(dim=1, descending=True)
        spent = way.gather(1, order).cumsum(1)
        return (ordered * (spent >= radius)).amax(1, keepdim=True).expand_as(sizes)
    cap = sizes
    for _ in range(STEPS):
        cap = way * (torch.minimum(sizes, cap).norm(dim=1, keepdim=True) / radius.clamp(min=1e-30))
    return cap


def _at_anchors(known: Bounds, pending: dict[int, Rows], owners: Owners, which: int) -> Tensor:
    """The pending rows (R,) at the balls' centres (0) or at the boxes' middles (1)."""
    seen = {k: gather(known.anchors[k][which], rows, owners) for k, rows in pending.items()}
    return torch.stack([dot(grouped(pending[k].coefficients, v), v) for k, v in seen.items()]).sum(0)


def _at_root(known: Bounds, pending: dict[int, Rows], scaled: bool) -> tuple[Rows, Tensor, Tensor, Tensor | None]:
    """Rows of affine nodes as rows of one root (constants are in the anchors), and how far the root's box reaches above
    and below its value at the centre, (N, *shape); if `scaled`, also by what the root multiplies the input (1, *shape).
    All four may be in phases."""
    net = known.net
    while len(pending) > 1 or max(pending) not in net.roots:
        k = max(pending)
        node, rows = net.nodes[k], filled(pending.pop(k), net.network.shapes[k])
        root = net.parents(k)[0]
        if isinstance(node, c.Conv2d) and rows.at is None and root in net.roots and not pending:
            above, below, scale = _root(known, root, scaled)
            pulled = conv_adjoint(net, k).phases(rows.coefficients, (above.shape[2], above.shape[3]), rows.phases)
            split = None if scale is None else to_phases(scale, node.stride)
            return Rows(pulled), to_phases(above, node.stride), to_phases(below, node.stride), split
        for i, part in zip(net.parents(k), adjoint(net, k, rows).inputs, strict=True):
            pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
    ((root, rows),) = pending.items()
    return filled(rows, net.network.shapes[root]), *_root(known, root, scaled)


def _root(known: Bounds, k: int, scaled: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    (lower, upper), center = known.values[k], known.anchors[k][0]
    return (upper - center).clamp(min=0), (center - lower).clamp(min=0), known.net.root_scale(k) if scaled else None


# ---------------------------------------------------------------- functionals of the logits


def functional_upper(known: Bounds, coefficients: Tensor, slopes: Tensor | None) -> Tensor:
    """Upper bounds (N, J) of coefficients (N, J, K) . logits on each ball.

    slopes: (N, J, n), those of each row, or None for the shared ones.
    Ensures: the least of the backward pass and of its cuts at the nonlinearities.
    """
    n, j, _ = coefficients.shape
    last = len(known.net.nodes) - 1
    flat = coefficients.flatten(0, 1)
    owners = evenly(n, j, flat.device)
    if slopes is None:
        return backward(known, {last: Rows(flat)}, owners, known.lines(known.slopes), True).view(n, j)
    own = known.pick(owners.index)
    lines = own.lines(slopes.reshape(n * j, -1))
    return backward(own, {last: Rows(flat)}, evenly(n * j, 1, flat.device), lines, True).view(n, j)

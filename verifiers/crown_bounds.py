"""Backward CROWN on a plain network, batched over inputs and rows, in torch. Part of the native CROWN engine.

Every nonlinearity's input is bounded by interval arithmetic and by backward passes, the tighter of the two, as the
judge does (lines: crown_lines.py). Only rows of elements whose interval straddles zero are propagated. Everything is
differentiable in the slopes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown_convolution import to_phases
from verifiers.crown_lines import (
    Lines,
    Selection,
    default_slopes,
    pool_selection,
    relu_lines,
    sigmoid_lines,
    tanh_lines,
)
from verifiers.crown_network import NONLINEAR, SLOPED, CrownNetwork, Interval, interval
from verifiers.crown_rows import (
    Owners,
    Rows,
    Step,
    add,
    adjoint,
    conv_adjoint,
    dot,
    evenly,
    gather,
    grouped,
    unit_rows,
    whole,
    within,
)

CHUNK = 2**19  # coefficients of one layer propagated at once: a processor's cache
STEPS = 4  # of the fixed point that splits a form between ball and box
ALONE = 0.25  # share of a portion that the rows of one input must fill to be handled alone
MIXING = (c.Linear, c.Conv2d, c.AveragePool2d, c.Add)  # nodes whose elements depend on several elements below


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
    return torch.stack([_through_interval(rows, known.values[k], owners) for k, rows in pending.items()]).sum(0)


def _through_lines(net: CrownNetwork, k: int, rows: Rows, lines: Relaxed, owners: Owners) -> Step:
    """Positive coefficients take the upper line, negative ones the lower."""
    if isinstance(lines, Selection):
        return _through_selection(net, k, rows, lines, owners)
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
    return Step((Rows(pulled.reshape(rows.coefficients.shape), rows.at),), constant)


def _through_selection(net: CrownNetwork, k: int, rows: Rows, lines: Selection, owners: Owners) -> Step:
    """Coefficients of pooled cells, moved to the selected cells; positive ones take a constant where it has rivals."""
    own_rows = whole(rows, net.network.shapes[k])
    place, wins, top = (gather(v, own_rows, owners) for v in (lines.place, lines.wins, lines.top))
    own = grouped(own_rows.coefficients, top)
    positive = own.clamp(min=0)
    moved = (own - positive + positive * wins).flatten(3)
    image = moved.new_zeros(*moved.shape[:3], math.prod(lines.image))
    spread = image.scatter_add(3, place.flatten(3).expand_as(moved), moved).flatten(0, 1).unflatten(2, lines.image)
    node = net.nodes[k]
    if not isinstance(node, c.MaxPool2d):
        raise TypeError(f"{type(node).__name__} is no max pooling")
    top_rows, left, _, _ = node.padding
    _, height, width = net.network.shapes[node.inputs[0]]
    kept = spread[:, :, top_rows : top_rows + height, left : left + width]
    return Step((Rows(kept),), dot(positive, top))


def _through_interval(rows: Rows, values: Interval, owners: Owners) -> Tensor:
    lower, upper = (gather(v, rows, owners) for v in values)
    own = grouped(rows.coefficients, upper)
    return dot(own.clamp(min=0), upper) + dot(own.clamp(max=0), lower)


# ---------------------------------------------------------------- at the input


def _over_ball(known: Bounds, pending: dict[int, Rows], owners: Owners) -> Tensor:
    """Upper bounds (R,) of rows of affine nodes: over the boxes, or over the balls cut by them if that is smaller."""
    in_box = [_at(known.anchors[k][1], rows, owners) for k, rows in pending.items()]
    rows, *ways, scale = _at_root(known, dict(pending), known.ball.norm != "Linf")
    above, below = (gather(v, rows, owners) for v in ways)
    own = grouped(rows.coefficients, above)
    box = torch.stack(in_box).sum(0) + dot(own.abs(), (above + below) / 2)
    if known.ball.norm == "Linf" or scale is None:
        return box
    unit = gather(scale, rows, Owners(torch.zeros_like(owners.index), None)).abs().flatten(2).flatten(0, 1)
    sizes = own.abs().flatten(2).flatten(0, 1) * unit  # of the input's own coefficients
    way = torch.where(own > 0, above, below).flatten(2).flatten(0, 1) / unit.clamp(min=torch.finfo(unit.dtype).tiny)
    radius = known.ball.radius if len(known.ball.radius) == 1 else known.ball.radius[owners.index]
    held = torch.minimum(sizes, _held_by_ball(sizes.detach(), way, radius[:, None], known.ball.norm))
    dual = held.norm(dim=1) if known.ball.norm == "L2" else held.amax(1)
    in_ball = torch.stack([_at(known.anchors[k][0], rows, owners) for k, rows in pending.items()]).sum(0)
    return torch.minimum(box, in_ball + radius * dual + ((sizes - held) * way).sum(1))


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


def _at(values: Tensor, rows: Rows, owners: Owners) -> Tensor:
    seen = gather(values, rows, owners)
    return dot(grouped(rows.coefficients, seen), seen)


def _at_root(known: Bounds, pending: dict[int, Rows], scaled: bool) -> tuple[Rows, Tensor, Tensor, Tensor | None]:
    """Rows of affine nodes as rows of one root (constants are in the anchors), and how far the root's box reaches above
    and below its value at the centre, (N, *shape); if `scaled`, also by what the root multiplies the input (1, *shape).
    All four may be in phases."""
    net = known.net
    while len(pending) > 1 or max(pending) not in net.roots:
        k = max(pending)
        node, rows = net.nodes[k], pending.pop(k)
        root = net.parents(k)[0]
        if isinstance(node, c.Conv2d) and rows.at is None and root in net.roots and not pending:
            above, below, scale = _root(known, root, scaled)
            pulled = conv_adjoint(net, k).phases(rows.coefficients, (above.shape[2], above.shape[3]))
            split = None if scale is None else to_phases(scale, node.stride)
            return Rows(pulled), to_phases(above, node.stride), to_phases(below, node.stride), split
        for i, part in zip(net.parents(k), adjoint(net, k, rows).inputs, strict=True):
            pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
    ((root, rows),) = pending.items()
    return rows, *_root(known, root, scaled)


def _root(known: Bounds, k: int, scaled: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    (lower, upper), center = known.values[k], known.anchors[k][0]
    return (upper - center).clamp(min=0), (center - lower).clamp(min=0), known.net.root_scale(k) if scaled else None


# ---------------------------------------------------------------- all layers


def value_bounds(net: CrownNetwork, ball: Ball, slopes: Tensor | None) -> Bounds:
    """Bounds of every nonlinearity's input. slopes: (N, n), or None for the default rule, which is then returned.

    Ensures: each bound is the tighter of interval arithmetic and backward CROWN.
    """
    n = len(ball.center)
    chosen = torch.zeros(n, net.slopes, dtype=net.dtype, device=net.device) if slopes is None else slopes
    anchors = {0: (ball.center, (ball.lower + ball.upper) / 2)}
    cut = ball.norm != "Linf" and _is_cut(ball)
    known = Bounds(net, ball, [(ball.lower, ball.upper)], anchors, chosen)
    found = known.values
    for k in range(1, len(net.nodes)):
        node, parents = net.nodes[k], net.parents(k)
        bounds = interval(net, k, [found[i] for i in parents])
        if k in net.affine:
            at_center, in_middle = ([anchors[i][j] for i in parents] for j in (0, 1))
            anchors[k] = _anchor(net, k, at_center), _anchor(net, k, in_middle)
        if k in net.preactivations:
            simple = k in net.affine and not cut
            bounds = _around(net, k, bounds, anchors[k][0], ball) if simple else _tightened(known, k, bounds)
        if slopes is None and isinstance(node, SLOPED):
            start, stop = net.slope_ranges[k]
            chosen[:, start:stop] = default_slopes(*found[node.inputs[0]]).flatten(1)
        found.append(bounds)
    return known


def _is_cut(ball: Ball) -> bool:
    """Some ball reaches beyond its box."""
    reach = ball.radius.view(-1, *(1,) * (ball.center.dim() - 1))
    return bool(((ball.lower > ball.center - reach) | (ball.upper < ball.center + reach)).any())


def _anchor(net: CrownNetwork, k: int, inputs: list[Tensor]) -> Tensor:
    """The value of the affine node k at points."""
    return interval(net, k, [(x, x) for x in inputs])[0]


def _around(net: CrownNetwork, k: int, bounds: Interval, center: Tensor, ball: Ball) -> Interval:
    """`bounds` of an affine node, cut to its value at the centre plus and minus the radius times its dual norm."""
    if ball.norm == "Linf" and _layers(net, k) <= 1:
        return bounds  # nothing is shared between the inputs of one layer: interval arithmetic is exact
    reach = ball.radius.view(-1, *(1,) * (center.dim() - 1)) * dual_norms(net, k, ball.norm)
    lower, upper = torch.maximum(bounds[0], center - reach), torch.minimum(bounds[1], center + reach)
    wanted = _wanted(net, k, bounds)
    return torch.where(wanted, lower, bounds[0]), torch.where(wanted, upper, bounds[1])


def _wanted(net: CrownNetwork, k: int, bounds: Interval) -> Tensor:
    """Elements of node k worth more than interval arithmetic: those of open sign, or all, if not only ReLUs use it."""
    users = [node for i, node in enumerate(net.nodes) if k in net.parents(i)]
    if all(isinstance(node, SLOPED) for node in users if isinstance(node, NONLINEAR)):
        return (bounds[0] < 0) & (bounds[1] > 0)
    return bounds[0] < bounds[1]


def _layers(net: CrownNetwork, k: int) -> int:
    """Largest number of mixing nodes on a path from the input to node k."""
    below = max((_layers(net, i) for i in net.parents(k)), default=0)
    return below + isinstance(net.nodes[k], MIXING)


def dual_norms(net: CrownNetwork, k: int, norm: c.Norm) -> Tensor:
    """Dual norm of the gradient of every element of the affine node k, (*shape); computed once."""
    if (k, norm) not in net.memo:
        shape = net.network.shapes[k]
        index = torch.arange(math.prod(shape), device=net.device)
        size = max(1, CHUNK // _footprint(net, k)[0])
        parts = [_gradient(net, k, i).coefficients.flatten(1) for i in index.split(size)]
        order = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}[norm]
        net.memo[k, norm] = torch.cat([torch.linalg.vector_norm(p, order, dim=1) for p in parts]).view(shape)
    return net.memo[k, norm]


def _gradient(net: CrownNetwork, k: int, index: Tensor) -> Rows:
    """Elements `index` of the affine node k as rows of the input."""
    pending = {i: rows for i, (rows, _) in unit_rows(net, k, index).items()}
    while (j := max(pending)) > 0:
        step = adjoint(net, j, pending.pop(j))
        for i, part in zip(net.parents(j), step.inputs, strict=True):
            pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
    return within(pending[0], net.network.shapes[0])


def _tightened(known: Bounds, k: int, bounds: Interval) -> Interval:
    """`bounds` of node k, made tighter by backward passes where a sign is still open (or everywhere, if not ReLU)."""
    lower, upper = bounds
    sample, index = _wanted(known.net, k, bounds).flatten(1).nonzero(as_tuple=True)
    if not len(sample):
        return bounds
    lines, flat = known.lines(known.slopes), sample * lower[0].numel() + index
    portions = list(_portions(known.net, k, sample))
    low, high = (
        torch.cat([_end(known, lines, k, sample[part], index[part], sign) for part in portions]) for sign in (-1, 1)
    )
    return (
        torch.maximum(lower, lower.flatten().scatter(0, flat, -low).view(lower.shape)),
        torch.minimum(upper, upper.flatten().scatter(0, flat, high).view(upper.shape)),
    )


def _portions(net: CrownNetwork, k: int, sample: Tensor) -> Iterator[slice]:
    """Rows about inputs `sample` (R,), ascending, in portions of a bounded size; of one input each where that alone
    fills a portion. Windows are looked up row by row anyway: there the rows of several inputs stay together.
    """
    widest, windows = _footprint(net, k)
    size = max(1, CHUNK // widest)
    counts = torch.unique_consecutive(sample, return_counts=True)[1].tolist()
    if net.device.type != "cpu" or windows or len(sample) <= size * ALONE * len(counts):
        counts = [len(sample)]
    start = 0
    for count in counts:
        yield from (slice(i, min(i + size, start + count)) for i in range(start, start + count, size))
        start += count


def _footprint(net: CrownNetwork, k: int) -> tuple[int, bool]:
    """Most coefficients of one row of node k on its way to the input, and whether they are windows all the way."""
    if k not in net.footprints:
        first = torch.zeros(1, dtype=torch.long, device=net.device)
        pending = {i: rows for i, (rows, _) in unit_rows(net, k, first).items()}
        widest, windows = 1, True
        while pending:
            j = max(pending)
            node, rows = net.nodes[j], pending.pop(j)
            widest, windows = max(widest, rows.coefficients.numel()), windows and rows.at is not None
            if j in net.roots:
                continue
            linear = not isinstance(node, NONLINEAR)
            parts = adjoint(net, j, rows).inputs if linear else (_through_nonlinearity(net, j, rows),)
            for i, part in zip(net.parents(j), parts, strict=True):
                pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
        net.footprints[k] = widest, windows
    return net.footprints[k]


def _through_nonlinearity(net: CrownNetwork, k: int, rows: Rows) -> Rows:
    """Rows of the shape that those of the nonlinear node k have below it."""
    if not isinstance(net.nodes[k], c.MaxPool2d):
        return rows
    return Rows(rows.coefficients.new_zeros(len(rows.coefficients), *net.network.shapes[net.parents(k)[0]]))


def _end(known: Bounds, lines: dict[int, Relaxed], k: int, sample: Tensor, index: Tensor, sign: int) -> Tensor:
    """Upper bounds (R,) of sign times element index[r] of node k on ball sample[r], ascending."""
    present = slice(int(sample[0]), int(sample[-1]) + 1)
    known, lines = known.pick(present), {i: line.pick(present) for i, line in lines.items()}
    owners = Owners(sample - present.start, len(sample) if present.stop == present.start + 1 else None)
    constant = torch.zeros((), dtype=known.net.dtype, device=known.net.device)
    pending: dict[int, Rows] = {}
    for i, (rows, extra) in unit_rows(known.net, k, index).items():
        constant = constant + sign * extra
        pending[i] = rows if sign > 0 else Rows(-rows.coefficients, rows.at)
    return constant + backward(known, pending, owners, lines, False)


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

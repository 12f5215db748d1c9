"""Backward CROWN on a plain network, batched over inputs and rows, in torch. Part of the native CROWN engine.

Every nonlinearity's input is bounded by interval arithmetic and by backward passes, the tighter of the two, as the
judge does; a ReLU's lower line has any slope in [0, 1], its upper line is the chord. Only rows of elements whose
interval straddles zero are propagated. Everything is differentiable in the slopes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown_network import NONLINEAR, SLOPED, CrownNetwork, Interval, interval
from verifiers.crown_rows import Rows, add, adjoint, dot, gather, unit_rows

CHUNK = 2**18  # coefficients of one dense layer propagated at once: a processor's cache
ALONE = 0.25  # share of a portion that the rows of one input must fill to be handled alone
MIXING = (c.Linear, c.Conv2d, c.AveragePool2d, c.Add)  # nodes whose elements depend on several elements below
OPAQUE = (c.Sigmoid, c.Tanh, c.MaxPool2d)  # bounded by their interval alone


@dataclass(frozen=True, eq=False)
class Ball:
    """center (N, *shape), radius (N,): the balls; lower, upper (N, *shape): boxes around ball and domain."""

    center: Tensor
    radius: Tensor
    norm: c.Norm
    lower: Tensor
    upper: Tensor

    def pick(self, index: Tensor) -> Ball:
        """The balls of the inputs `index`."""
        return Ball(self.center[index], self.radius[index], self.norm, self.lower[index], self.upper[index])


def ball(center: Tensor, radius: Tensor, norm: c.Norm, domain: tuple[float, float] | None) -> Ball:
    """The perturbation set of each input."""
    reach = radius.view(-1, *(1,) * (center.dim() - 1))
    lower, upper = center - reach, center + reach
    if domain is not None:
        lower, upper = lower.clamp(min=domain[0]), upper.clamp(max=domain[1])
    return Ball(center, radius, norm, lower, upper)


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines over each element's interval: (upper slope, upper intercept, lower slope) of a ReLU-like node, (N, *shape).

    The lower line passes through the origin.
    """

    upper_slope: Tensor
    upper_intercept: Tensor
    lower_slope: Tensor

    def pick(self, index: Tensor) -> Lines:
        """The inputs `index`."""
        return Lines(self.upper_slope[index], self.upper_intercept[index], self.lower_slope[index])


def default_slopes(lower: Tensor, upper: Tensor) -> Tensor:
    """1 where the upper end is the larger, else 0: the smaller triangle."""
    return (upper > -lower).to(lower.dtype)


def relu_lines(lower: Tensor, upper: Tensor, slopes: Tensor, leak: float) -> Lines:
    """Of max(y, leak y): the chord above, below a line of slope in [leak, 1]; exact where the sign is known."""
    active, known = lower >= 0, (lower >= 0) | (upper <= 0)
    width = torch.where(known, torch.ones_like(lower), upper - lower)
    exact = torch.where(active, torch.ones_like(lower), torch.full_like(lower, leak))
    above = torch.where(known, exact, (upper - leak * lower) / width)
    intercept = torch.where(known, torch.zeros_like(lower), (leak - 1) * lower * upper / width)
    return Lines(above, intercept, torch.where(known, exact, slopes.clamp(leak, 1) if leak else slopes))


@dataclass(frozen=True, eq=False)
class Bounds:
    """values[k]: (lower, upper) of node k, (N, *shape) each, on N balls. slopes: (N, n), row 0 of the witness."""

    net: CrownNetwork
    ball: Ball
    values: list[Interval]
    slopes: Tensor

    def pick(self, index: Tensor) -> Bounds:
        """The inputs `index` (possibly repeated)."""
        values = [(a[index], b[index]) for a, b in self.values]
        return Bounds(self.net, self.ball.pick(index), values, self.slopes[index])

    def lines(self, slopes: Tensor) -> dict[int, Lines]:
        """Lines of every Relu and LeakyRelu node bounded so far, given rows of the witness (one per input)."""
        found: dict[int, Lines] = {}
        for k, (start, stop) in self.net.slope_ranges.items():
            if k < len(self.values):
                node = self.net.nodes[k]
                lower, upper = self.values[self.net.parents(k)[0]]
                leak = node.slope if isinstance(node, c.LeakyRelu) else 0.0
                found[k] = relu_lines(lower, upper, slopes[:, start:stop].reshape(lower.shape), leak)
        return found


# ---------------------------------------------------------------- one backward pass


def concretise(rows: Rows, ball: Ball, sample: Tensor) -> Tensor:
    """Upper bound (R,) of each row over its input's ball: over the ball or over the box, whichever is smaller."""
    middle, reach = (ball.upper + ball.lower) / 2, (ball.upper - ball.lower) / 2
    at, around = gather((middle, reach), rows, sample)
    found = dot(rows.coefficients, at) + dot(rows.coefficients.abs(), around)
    if ball.norm == "Linf":
        return found
    flat = rows.coefficients.flatten(1)
    dual = flat.norm(dim=1) if ball.norm == "L2" else flat.abs().amax(1)
    radius = ball.radius if len(ball.radius) == 1 else ball.radius[sample]
    (center,) = gather((ball.center,), rows, sample)
    return torch.minimum(found, dot(rows.coefficients, center) + radius * dual)


def backward(known: Bounds, pending: dict[int, Rows], sample: Tensor, lines: dict[int, Lines], cuts: bool) -> Tensor:
    """Upper bounds (R,) of sums of rows of several nodes: the least of `cut_bounds`."""
    return cut_bounds(known, pending, sample, lines, cuts, None).amin(0)


def cut_bounds(
    known: Bounds, pending: dict[int, Rows], sample: Tensor, lines: dict[int, Lines], cuts: bool, last: int | None
) -> Tensor:
    """Upper bounds (M, R) of sums of rows of several nodes, each convex in the slopes above it.

    sample: (R,) the input of each row. lines: of every ReLU-like node, one per input. cuts: also the bounds met on
    the way, over the boxes of the pending nodes' values at the start and before every nonlinearity; else only the
    one at the input. last: stop at this one of them.
    """
    net, start = known.net, max(pending)
    pending = dict(pending)
    constant = torch.zeros((), dtype=net.dtype, device=net.device)
    met: list[Tensor] = []
    while pending and (k := max(pending)) > 0:
        node = net.nodes[k]
        if cuts and (k == start or isinstance(node, NONLINEAR)):
            met.append(_reach(known, pending, constant, sample))
            if last is not None and len(met) > last:
                return torch.stack(torch.broadcast_tensors(*met))
        rows = pending.pop(k)
        if isinstance(node, SLOPED):
            pulled, extra = _through_lines(rows, lines[k], sample)
            parts: tuple[Rows, ...] = (pulled,)
        elif isinstance(node, OPAQUE):
            parts, extra = (), _through_interval(rows, known.values[k], sample)
        else:
            step = adjoint(net, k, rows)
            parts, extra = step.inputs, step.constant
        if extra is not None:
            constant = constant + extra
        for i, part in zip(net.parents(k), parts, strict=False):
            pending[i] = add(pending[i], part, net.network.shapes[i]) if i in pending else part
    met.append(_reach(known, pending, constant, sample))
    return torch.stack(torch.broadcast_tensors(*met))


def _reach(known: Bounds, pending: dict[int, Rows], constant: Tensor, sample: Tensor) -> Tensor:
    """Upper bounds from the boxes of the pending nodes' values; of the input, also from the ball."""
    for k, rows in pending.items():
        if k:
            constant = constant + _through_interval(rows, known.values[k], sample)
        else:
            constant = constant + concretise(rows, known.ball, sample)
    return constant


def _through_lines(rows: Rows, lines: Lines, sample: Tensor) -> tuple[Rows, Tensor]:
    """Positive coefficients take the upper line, negative ones the lower."""
    excess, below, intercept = gather(
        (lines.upper_slope - lines.lower_slope, lines.lower_slope, lines.upper_intercept), rows, sample
    )
    positive = rows.coefficients.clamp(min=0)
    pulled = torch.addcmul(rows.coefficients * below, positive, excess)
    return Rows(pulled, rows.corner), dot(positive, intercept)


def _through_interval(rows: Rows, values: Interval, sample: Tensor) -> Tensor:
    lower, upper = gather(values, rows, sample)
    return dot(rows.coefficients.clamp(min=0), upper) + dot(rows.coefficients.clamp(max=0), lower)


# ---------------------------------------------------------------- all layers


def value_bounds(net: CrownNetwork, ball: Ball, slopes: Tensor | None) -> Bounds:
    """Bounds of every nonlinearity's input. slopes: (N, n), or None for the default rule, which is then returned.

    Ensures: each bound is the tighter of interval arithmetic and backward CROWN.
    """
    n = len(ball.center)
    chosen = torch.zeros(n, net.slopes, dtype=net.dtype, device=net.device) if slopes is None else slopes
    known = Bounds(net, ball, [(ball.lower, ball.upper)], chosen)
    found = known.values
    centers: dict[int, Tensor] = {0: ball.center}
    for k in range(1, len(net.nodes)):
        node, parents = net.nodes[k], net.parents(k)
        bounds = interval(net, k, [found[i] for i in parents])
        if k in net.affine:
            centers[k] = interval(net, k, [(centers[i], centers[i]) for i in parents])[0]
        if k in net.preactivations:
            bounds = _around(net, k, bounds, centers[k], ball) if k in net.affine else _tightened(known, k, bounds)
        if slopes is None and isinstance(node, SLOPED):
            start, stop = net.slope_ranges[k]
            chosen[:, start:stop] = default_slopes(*found[node.inputs[0]]).flatten(1)
        found.append(bounds)
    return known


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
        parts = [_gradient(net, k, i).coefficients.flatten(1) for i in index.split(_rows_at_once(net, k) * 2)]
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
    return pending[0]


def _tightened(known: Bounds, k: int, bounds: Interval) -> Interval:
    """`bounds` of node k, made tighter by backward passes where a sign is still open (or everywhere, if not ReLU)."""
    lower, upper = bounds
    sample, index = _wanted(known.net, k, bounds).flatten(1).nonzero(as_tuple=True)
    if not len(sample):
        return bounds
    lines = known.lines(known.slopes)
    parts = [_both_ends(known, lines, k, s, i) for s, i in _portions(known.net, k, sample, index)]
    flat = sample * lower[0].numel() + index
    low = lower.flatten().scatter(0, flat, torch.cat([p[0] for p in parts])).view(lower.shape)
    high = upper.flatten().scatter(0, flat, torch.cat([p[1] for p in parts])).view(upper.shape)
    return torch.maximum(lower, low), torch.minimum(upper, high)


def _portions(net: CrownNetwork, k: int, sample: Tensor, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in portions of a bounded size; of one input each where that alone fills a portion (`sample` ascending)."""
    size = _rows_at_once(net, k)
    counts = torch.unique_consecutive(sample, return_counts=True)[1]
    if net.device.type == "cpu" and len(sample) > size * ALONE * len(counts):
        for s, i in zip(sample.split(counts.tolist()), index.split(counts.tolist()), strict=True):
            yield from zip(s.split(size), i.split(size), strict=True)
    else:
        yield from zip(sample.split(size), index.split(size), strict=True)


def _rows_at_once(net: CrownNetwork, k: int) -> int:
    return max(1, CHUNK // (2 * max(math.prod(shape) for shape in net.network.shapes[:k])))


def _both_ends(known: Bounds, lines: dict[int, Lines], k: int, sample: Tensor, index: Tensor) -> Interval:
    """Lower and upper bounds (R,) of elements index[r] of node k on ball sample[r]."""
    if bool((sample == sample[0]).all()):  # one input: nothing to look up per row
        lines = {i: line.pick(sample[:1]) for i, line in lines.items()}
        known, sample = known.pick(sample[:1]), torch.zeros_like(sample)
    summands = unit_rows(known.net, k, index)
    constant = sum((extra for _, extra in summands.values()), torch.zeros((), dtype=known.net.dtype))
    pending = {i: _with_negative(rows) for i, (rows, _) in summands.items()}
    high, low = backward(known, pending, torch.cat([sample, sample]), lines, False).chunk(2)
    return constant - low, constant + high


def _with_negative(rows: Rows) -> Rows:
    corner = None if rows.corner is None else torch.cat([rows.corner, rows.corner])
    return Rows(torch.cat([rows.coefficients, -rows.coefficients]), corner)


# ---------------------------------------------------------------- functionals of the logits


def functional_upper(known: Bounds, coefficients: Tensor, slopes: Tensor | None) -> Tensor:
    """Upper bounds (N, J) of coefficients (N, J, K) . logits on each ball.

    slopes: (N, J, n), those of each row, or None for the shared ones.
    Ensures: the least of the backward pass and of its cuts at the nonlinearities.
    """
    n, j, _ = coefficients.shape
    last = len(known.net.nodes) - 1
    flat = coefficients.flatten(0, 1)
    sample = torch.arange(n, device=flat.device).repeat_interleave(j)
    if slopes is None:
        return backward(known, {last: Rows(flat)}, sample, known.lines(known.slopes), True).view(n, j)
    own = known.pick(sample)
    rows = torch.arange(n * j, device=flat.device)
    return backward(own, {last: Rows(flat)}, rows, own.lines(slopes.reshape(n * j, -1)), True).view(n, j)

"""Bounds of every node's value over balls, in float64 torch, batched over inputs: intervals tightened by CROWN.

Untrusted, yet with every rounding error charged as in the judge: an affine form L·v + c keeps exact float
coefficients and pays for the rounding of its coefficients in the constant (Zhang et al. 2018 for CROWN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.network.linear_maps import AFFINE, ELEMENTWISE, LinearMaps, scatter_windows, windows

MAX_ROW_ELEMENTS = 2**24


@dataclass(frozen=True, eq=False)
class Balls:
    """ℓp balls around a batch: center (N, *shape) float64, radius (N,) float64; domain: a box or None."""

    center: Tensor
    radius: Tensor
    norm: c.Norm
    domain: tuple[float, float] | None

    def box(self) -> tuple[Tensor, Tensor]:
        """The smallest box around the set, rounded outward."""
        radius = self.radius.reshape(-1, *[1] * (self.center.ndim - 1))
        lower = torch.nextafter(self.center - radius, torch.full_like(self.center, -math.inf))
        upper = torch.nextafter(self.center + radius, torch.full_like(self.center, math.inf))
        if self.domain is None:
            return lower, upper
        return lower.clamp(*self.domain), upper.clamp(*self.domain)


@dataclass(frozen=True, eq=False)
class ValueBounds:
    """lower[k], upper[k]: (N, *shapes[k]) float64 bounds of node k's value on each ball."""

    maps: LinearMaps
    balls: Balls
    lower: tuple[Tensor, ...]
    upper: tuple[Tensor, ...]


def value_bounds(maps: LinearMaps, balls: Balls, crown: bool = True) -> ValueBounds:
    """Requires: balls.radius >= 0, center exactly the inputs. Ensures: every reachable value is inside.

    crown: tighten the inputs of nonlinear nodes and the logits by backward bounds (time: one backward row
    per unstable element).
    """
    lower, upper = [balls.box()[0]], [balls.box()[1]]
    nodes = maps.network.nodes
    wanted = {i for n in nodes if isinstance(n, (*ELEMENTWISE, c.MaxPool2d)) for i in n.inputs} | {len(nodes) - 1}
    for k, node in enumerate(nodes[1:], start=1):
        low, up = _interval(maps, k, [lower[i] for i in node.inputs], [upper[i] for i in node.inputs])  # type: ignore[union-attr]
        lower.append(low)
        upper.append(up)
        if crown and k in wanted:
            lower[k], upper[k] = _tighten(ValueBounds(maps, balls, tuple(lower), tuple(upper)), k)
    return ValueBounds(maps, balls, tuple(lower), tuple(upper))


def _interval(maps: LinearMaps, k: int, lower: list[Tensor], upper: list[Tensor]) -> tuple[Tensor, Tensor]:
    node = maps.network.nodes[k]
    if isinstance(node, c.MaxPool2d):
        shape = (len(lower[0]), *maps.network.shapes[k])
        cells = (windows(b, node, -math.inf).amax(dim=2).reshape(shape) for b in (lower[0], upper[0]))
        return tuple(cells)  # type: ignore[return-value]
    if isinstance(node, ELEMENTWISE):
        return _activate(node, lower[0], -1), _activate(node, upper[0], 1)
    centres = [(lo + up) / 2 for lo, up in zip(lower, upper, strict=True)]
    radii = [torch.maximum(up - m, m - lo) for lo, up, m in zip(lower, upper, centres, strict=True)]
    centre, radius = maps.step(k, centres, radii)
    return centre - radius * (1 + maps.growth), centre + radius * (1 + maps.growth)


def _activate(node: c.Node, x: Tensor, direction: int) -> Tensor:
    """The activation's value, rounded in `direction` (monotone functions: the ends of an interval suffice)."""
    if isinstance(node, c.Relu):
        return x.clamp(min=0)
    if isinstance(node, c.LeakyRelu):
        return torch.where(x >= 0, x, node.slope * x + direction * 2.0**-50 * x.abs())
    value = torch.sigmoid(x) if isinstance(node, c.Sigmoid) else torch.tanh(x)
    return value + direction * 2.0**-48 * value.abs()


def _tighten(known: ValueBounds, k: int) -> tuple[Tensor, Tensor]:
    """The interval bounds of node k, improved by backward rows of the elements whose sign is not known."""
    lower, upper = known.lower[k], known.upper[k]
    flat_lower, flat_upper = lower.flatten(1).clone(), upper.flatten(1).clone()
    last = k == len(known.maps.network.nodes) - 1
    rows = torch.nonzero(((flat_lower < 0) & (flat_upper > 0)).any(dim=0) | last).flatten()
    if any(isinstance(n, (c.Sigmoid, c.Tanh, c.MaxPool2d)) and k in n.inputs for n in known.maps.network.nodes):
        rows = torch.arange(flat_lower.shape[1], device=lower.device)
    widest = max(math.prod(s) for s in known.maps.network.shapes[: k + 1])
    chunk = max(1, MAX_ROW_ELEMENTS // (2 * widest * len(lower)))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        unit = torch.zeros((2 * len(part), flat_lower.shape[1]), dtype=torch.float64, device=lower.device)
        index = torch.arange(len(part), device=lower.device)
        unit[index, part], unit[index + len(part), part] = 1.0, -1.0
        unit = unit.reshape(1, 2 * len(part), *lower.shape[1:]).expand(len(lower), *[-1] * lower.ndim)
        bound = functional_upper(known, k, unit)
        flat_upper[:, part] = torch.minimum(flat_upper[:, part], bound[:, : len(part)])
        flat_lower[:, part] = torch.maximum(flat_lower[:, part], -bound[:, len(part) :])
    return flat_lower.reshape(lower.shape), flat_upper.reshape(upper.shape)


def functional_upper(known: ValueBounds, k: int, rows: Tensor) -> Tensor:
    """(N, R) upper bounds of rows·v_k on each ball; rows (N, R, *shapes[k]) taken as exact.

    Requires: known holds bounds of every node before k.
    """
    maps, (count, number) = known.maps, rows.shape[:2]
    pending: dict[int, Tensor] = {k: rows.to(torch.float64)}
    constant = torch.zeros((count, number), dtype=torch.float64, device=rows.device)
    for i in range(k, 0, -1):
        if i not in pending:
            continue
        row = pending.pop(i)
        back, offset = _backward(known, i, row)
        constant = constant + offset
        for source, part in zip(maps.network.nodes[i].inputs, back, strict=True):  # type: ignore[union-attr]
            if source in pending:
                part = pending[source] + part
                # the sum of two rows is rounded once: 2^-52 |row| |v|
                constant = constant + 2.0**-52 * _dot(part.abs(), _magnitude(known, source))
            pending[source] = part
    return _concretise(known.balls, pending[0], constant, maps.growth)


def _magnitude(known: ValueBounds, k: int) -> Tensor:
    return torch.maximum(known.lower[k].abs(), known.upper[k].abs())


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """(N, R) products of rows (N, R, *shape) with values (N, *shape)."""
    return torch.einsum("nrd,nd->nr", rows.flatten(2), values.flatten(1))


def _backward(known: ValueBounds, k: int, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Rows of node k's inputs, and a constant, whose affine form is an upper bound of rows·v_k."""
    maps, node = known.maps, known.maps.network.nodes[k]
    if isinstance(node, AFFINE):
        sources = [_magnitude(known, i) for i in node.inputs]
        zero = [torch.zeros((1, *s.shape[1:]), dtype=torch.float64, device=s.device) for s in sources]
        bias = maps.forward(k, zero)
        size = maps.forward(k, sources, absolute=True) + bias.abs() + maps.bias_magnitude(k)
        count, number = rows.shape[:2]
        flat = maps.adjoint(k, rows.reshape(count * number, *rows.shape[2:]))
        back = [b.reshape(count, number, *b.shape[1:]) for b in flat]
        offset = _dot(rows, bias.expand_as(known.lower[k]))
        # |fl(Aᵀrow) - Aᵀrow|·|v| <= growth |row|·(|A||v| + |b|), and the same for row·b
        return back, offset + (4 * maps.growth) * _dot(rows.abs(), size) + TINY_CHARGE
    if isinstance(node, c.MaxPool2d):
        return _backward_max(known, node, rows)
    lower, upper = known.lower[node.inputs[0]], known.upper[node.inputs[0]]  # type: ignore[union-attr]
    slope_up, slope_low = slopes(node, lower, upper)
    size = torch.maximum(lower.abs(), upper.abs())
    intercept_up, intercept_low = _intercepts(node, lower, upper, slope_up, slope_low)
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    back = positive * slope_up[:, None] + negative * slope_low[:, None]
    offset = _dot(positive, intercept_up) + _dot(negative, intercept_low)
    growth = (4 + math.prod(lower.shape[1:])) * 2.0**-51
    size = size + intercept_up.abs() + intercept_low.abs()
    return [back], offset + growth * _dot(rows.abs(), size)


TINY_CHARGE = 2.0**-800


def slopes(node: c.Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of an upper and a lower line of an activation on [lower, upper]; any slopes are sound."""
    if isinstance(node, (c.Relu, c.LeakyRelu)):
        low = 0.0 if isinstance(node, c.Relu) else node.slope
        width = (upper - lower).clamp(min=1e-300)
        chord = (upper.clamp(min=0) + low * (-lower).clamp(min=0)) / width
        chord = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, low, chord.clamp(low, 1.0)))
        below = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, low, torch.where(upper > -lower, 1.0, low)))
        return chord, below
    far = torch.maximum(lower.abs(), upper.abs())
    least = 1 - torch.tanh(far) ** 2 if isinstance(node, c.Tanh) else torch.sigmoid(far) * torch.sigmoid(-far)
    return least, least


def _intercepts(node: c.Node, lower: Tensor, upper: Tensor, up: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """max of f(v) - up·v and min of f(v) - low·v over [lower, upper], rounded outward.

    ReLU, LeakyReLU: convex, and f - kv piecewise linear: its extremes are at the ends or at 0. Sigmoid, tanh:
    k is the least derivative there, so f - kv is nondecreasing up to k's rounding, which is charged.
    """
    ends = [lower, upper]
    if isinstance(node, (c.Relu, c.LeakyRelu)):
        ends = [*ends, torch.zeros_like(lower).clamp(lower, upper)]
    high = torch.stack([_activate(node, e, 1) - up * e for e in ends])
    deep = torch.stack([_activate(node, e, -1) - low * e for e in ends])
    charge = 2.0**-46 * (1 + torch.maximum(lower.abs(), upper.abs()))
    if isinstance(node, (c.Relu, c.LeakyRelu)):
        charge = 2.0**-50 * torch.maximum(lower.abs(), upper.abs())
    return high.amax(0) + charge, deep.amin(0) - charge


def _backward_max(known: ValueBounds, node: c.MaxPool2d, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Max pooling: below by the cell with the largest lower bound; above by it if it dominates, else by a constant."""
    source = node.inputs[0]
    lower, upper = windows(known.lower[source], node, -math.inf), windows(known.upper[source], node, -math.inf)
    best = lower.argmax(dim=2, keepdim=True)
    rest = upper.scatter(2, best, -math.inf).amax(dim=2)
    dominates = lower.amax(dim=2) >= rest
    count, number = rows.shape[:2]
    row = rows.flatten(3)  # (N, R, C, windows)
    through = row.clamp(max=0) + row.clamp(min=0) * dominates[:, None]
    cells = torch.zeros((count, number, *lower.shape[1:]), dtype=torch.float64, device=rows.device)
    cells.scatter_(3, best[:, None].expand(-1, number, -1, -1, -1), through[:, :, :, None])
    shape = known.maps.network.shapes[source]
    back = scatter_windows(cells.flatten(0, 1), node, shape).reshape(count, number, *shape)
    constant = torch.where(dominates, 0.0, upper.amax(dim=2))
    offset = torch.einsum("nrcw,ncw->nr", row.clamp(min=0), constant)
    size = torch.maximum(lower.amax(dim=2).abs(), upper.amax(dim=2).abs())
    charge = torch.einsum("nrcw,ncw->nr", row.abs(), size)
    return [back], offset + (constant[0].numel() + 64) * 2.0**-51 * charge


def _concretise(balls: Balls, rows: Tensor, constant: Tensor, growth: float) -> Tensor:
    """max of rows·x over ball and domain, plus the constant, rounded up: the better of the ball and its box."""
    flat = rows.flatten(2)
    number = flat.shape[2] + 16
    growth = max(growth, number * 2.0**-51)
    order = {"Linf": 1, "L2": 2, "L1": math.inf}[balls.norm]
    dual = torch.linalg.vector_norm(flat, ord=order, dim=2)
    value = _dot(rows, balls.center)
    by_ball = value + balls.radius[:, None] * dual
    charge = growth * (_dot(rows.abs(), balls.center.abs()) + balls.radius[:, None] * dual)
    lower, upper = balls.box()
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    by_box = _dot(rows, middle) + _dot(rows.abs(), half)
    charge_box = growth * _dot(rows.abs(), middle.abs() + half)
    total = torch.minimum(by_ball + 2 * charge, by_box + 2 * charge_box)
    return total + constant + 8 * 2.0**-51 * (constant.abs() + total.abs())

"""Bounds of every layer, in order: interval arithmetic, and a backward pass for each element worth one.

Every nonlinearity's input is bounded by the tighter of the two, as the judge does. Part of the native CROWN engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.backward import Ball, Bounds
from verifiers.crown.linear_forms import Rows, add, adjoint, unit_rows, within
from verifiers.crown.network import NONLINEAR, SLOPED, CrownNetwork, Interval, interval, value
from verifiers.crown.neurons import footprint, portion, tightened
from verifiers.crown.relaxations import default_slopes

MIXING = (c.Linear, c.Conv2d, c.AveragePool2d, c.Add)  # nodes whose elements depend on several elements below


@dataclass(frozen=True, eq=False)
class Known:
    """What is already known of the nonlinearities' inputs: bounds (N, *shape) of some nodes, of larger balls around
    the same centres. enough: nothing tighter is wanted, interval arithmetic apart."""

    values: dict[int, Interval]
    enough: bool

    def cut(self, k: int, bounds: Interval) -> Interval:
        """`bounds` of node k, cut to what is known."""
        if k not in self.values:
            return bounds
        return torch.maximum(bounds[0], self.values[k][0]), torch.minimum(bounds[1], self.values[k][1])


NOTHING = Known({}, False)


def value_bounds(net: CrownNetwork, ball: Ball, slopes: Tensor | None, before: Known = NOTHING) -> Bounds:
    """Bounds of every nonlinearity's input. slopes: (N, n), or None for the default rule, which is then returned.

    Ensures: each bound is the tightest of interval arithmetic, of what is known `before` and, unless that is enough or
    settles the sign, of backward CROWN.
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
            at_center, in_middle = (value(net, k, [anchors[i][j] for i in parents]) for j in (0, 1))
            anchors[k] = at_center, in_middle
        if k in net.preactivations:
            bounds = before.cut(k, bounds)
            if k in net.affine and not cut:
                bounds = _around(net, k, bounds, anchors[k][0], ball)
            elif not before.enough:
                signs = _only_signs(net, k) and k not in net.affine
                bounds = tightened(known, k, bounds, _wanted(net, k, bounds), signs)
        if slopes is None and isinstance(node, SLOPED):
            start, stop = net.slope_ranges[k]
            chosen[:, start:stop] = default_slopes(*found[node.inputs[0]]).flatten(1)
        found.append(bounds)
    return known


def _is_cut(ball: Ball) -> bool:
    """Some ball reaches beyond its box."""
    reach = ball.radius.view(-1, *(1,) * (ball.center.dim() - 1))
    return bool(((ball.lower > ball.center - reach) | (ball.upper < ball.center + reach)).any())


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
    return (bounds[0] < 0) & (bounds[1] > 0) if _only_signs(net, k) else bounds[0] < bounds[1]


def _only_signs(net: CrownNetwork, k: int) -> bool:
    """Only ReLUs use node k, of all nonlinearities: elements of known sign need no more bounding."""
    users = (node for i, node in enumerate(net.nodes) if k in net.parents(i))
    return all(isinstance(node, SLOPED) for node in users if isinstance(node, NONLINEAR))


def _layers(net: CrownNetwork, k: int) -> int:
    """Largest number of mixing nodes on a path from the input to node k."""
    below = max((_layers(net, i) for i in net.parents(k)), default=0)
    return below + isinstance(net.nodes[k], MIXING)


def dual_norms(net: CrownNetwork, k: int, norm: c.Norm) -> Tensor:
    """Dual norm of the gradient of every element of the affine node k, (*shape); computed once."""
    if (k, norm) not in net.memo:
        shape = net.network.shapes[k]
        index = torch.arange(math.prod(shape), device=net.device)
        size = portion(footprint(net, k)[0])
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

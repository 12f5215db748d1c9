"""Bounds of every layer, in order: interval arithmetic, and a backward pass for each neuron worth one.

Every nonlinearity's input is bounded by the tighter of the two, as the judge does (FORMAT.md 11). Part of the native
CROWN engine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.backward import AffineValues, IntermediateBounds
from verifiers.crown.frontier import Frontier, unit_forms
from verifiers.crown.network import CrownNetwork, Interval
from verifiers.crown.neurons import chunk_size, footprint, tightened
from verifiers.engine import NOTHING_KNOWN, Constraints
from verifiers.linear_forms.forms import FormToInput, LinearForms
from verifiers.norms import NORMS
from verifiers.perturbation import BoxedBalls


def value_bounds(
    net: CrownNetwork, ball: BoxedBalls, slopes: Tensor | None, known: Constraints = NOTHING_KNOWN
) -> IntermediateBounds:
    """Bounds of every nonlinearity's input. slopes: (N, n), or None for the default rule, which is then returned.

    Ensures: each bound is the tightest of interval arithmetic, of what is `known` and, unless these are all that is
    wanted or settle the sign, of backward CROWN.
    """
    n = len(ball.center)
    chosen = torch.zeros(n, net.slopes, dtype=net.dtype, device=net.device) if slopes is None else slopes
    affine_values = {0: AffineValues(ball.center, (ball.lower + ball.upper) / 2)}
    domain_cuts = not ball.lp.is_box and _is_cut(ball)
    intermediate_bounds = IntermediateBounds(net, ball, [(ball.lower, ball.upper)], affine_values, chosen)
    values = intermediate_bounds.values
    for k in range(1, len(net.layers)):
        layer, parents = net.layers[k], net.parents(k)
        bounds = layer.interval(*(values[i] for i in parents))
        if k in net.affine:
            at_center = layer.at(*(affine_values[i].center for i in parents))
            affine_values[k] = AffineValues(at_center, layer.at(*(affine_values[i].midpoint for i in parents)))
        if k in net.preactivations:
            bounds = _within(bounds, known.values.get(k))
            if k in net.affine and not domain_cuts:
                bounds = _by_dual_norm(net, k, bounds, affine_values[k].center, ball)
            elif not known.final:
                signs = _only_signs(net, k) and k not in net.affine
                bounds = tightened(intermediate_bounds, k, bounds, _worth_bounding(net, k, bounds), signs)
        if slopes is None and k in net.slope_ranges:
            start, stop = net.slope_ranges[k]
            chosen[:, start:stop] = layer.default_slopes(*values[parents[0]]).flatten(1)
        values.append(bounds)
    return intermediate_bounds


def _within(bounds: Interval, known: Interval | None) -> Interval:
    """`bounds`, cut to what is known of the same values."""
    if known is None:
        return bounds
    return torch.maximum(bounds[0], known[0]), torch.minimum(bounds[1], known[1])


def _is_cut(ball: BoxedBalls) -> bool:
    """Some ball reaches beyond its box."""
    half_width = ball.radius.view(-1, *(1,) * (ball.center.dim() - 1))
    return bool(((ball.lower > ball.center - half_width) | (ball.upper < ball.center + half_width)).any())


def _by_dual_norm(net: CrownNetwork, k: int, bounds: Interval, center: Tensor, ball: BoxedBalls) -> Interval:
    """`bounds` of an affine node, cut to its value at the centre plus and minus the radius times its dual norm."""
    if ball.lp.is_box and _layers(net, k) <= 1:
        return bounds  # nothing is shared between the inputs of one layer: interval arithmetic is exact
    half_width = ball.radius.view(-1, *(1,) * (center.dim() - 1)) * dual_norms(net, k, ball.norm)
    lower, upper = torch.maximum(bounds[0], center - half_width), torch.minimum(bounds[1], center + half_width)
    worth = _worth_bounding(net, k, bounds)
    return torch.where(worth, lower, bounds[0]), torch.where(worth, upper, bounds[1])


def _worth_bounding(net: CrownNetwork, k: int, bounds: Interval) -> Tensor:
    """Neurons of node k that some nonlinearity gains from bounding more tightly than by interval arithmetic."""
    worth = torch.zeros_like(bounds[0], dtype=torch.bool)
    for user in net.users(k):
        worth = worth | user.neurons(*bounds)
    return worth


def _only_signs(net: CrownNetwork, k: int) -> bool:
    """Only ReLUs use node k, of all nonlinearities: stable neurons need no more bounding."""
    return all(user.affine or user.slope_range is not None for user in net.users(k))


def _layers(net: CrownNetwork, k: int) -> int:
    """Largest number of mixing nodes on a path from the input to node k."""
    below = max((_layers(net, i) for i in net.parents(k)), default=0)
    return below + net.layers[k].mixes


def dual_norms(net: CrownNetwork, k: int, norm: c.Norm) -> Tensor:
    """Dual norm of the gradient of every neuron of the affine node k, (*shape); computed once."""
    if (k, norm) not in net.dual_norms:
        shape = net.network.shapes[k]
        index = torch.arange(math.prod(shape), device=net.device)
        size = chunk_size(footprint(net, k)[0])
        parts = (_gradient(net, k, i).coefficients.flatten(1) for i in index.split(size))
        norms = [NORMS[norm].dual(p) for p in parts]
        net.dual_norms[k, norm] = torch.cat(norms).view(shape)
    return net.dual_norms[k, norm]


def _gradient(net: CrownNetwork, k: int, index: Tensor) -> LinearForms:
    """Neurons `index` of the affine node k as forms on the input; its elements may be in another order."""
    frontier = Frontier({i: forms for i, (forms, _) in unit_forms(net, k, index).items()})
    while (j := frontier.last) > 0 and not (len(frontier) == 1 and j in net.roots and net.layers[j].permutes):
        frontier.add(net.parents(j), net.layers[j].adjoint(frontier.pop(j)))
    forms = frontier.pop(j).masked()
    if j == 0:
        return forms
    scale = forms.gather(net.root_scale(j), FormToInput(torch.zeros_like(index), None))
    return forms.with_grouped(forms.grouped(scale) * scale)

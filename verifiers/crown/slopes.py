"""Tuning of the lower slopes for the judge's own formula, and their export as a witness.

Two kinds of slopes: those of the last pass, a set of their own per row (a row is one functional of the logits of one
input), tuned with every interval fixed; and the shared set of an input, used by the passes before, tuned through all
of them. Part of the native CROWN engine.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.backward import Ball, Bounds, backward, cut_bounds, functional_upper
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.linear_forms import Rows, evenly
from verifiers.crown.network import CrownNetwork
from verifiers.crown.relaxations import Lines

ROWS = 2**19  # coefficients of the widest layer tuned at once
CUTS = 4  # bounds tuned per row
LEVELS = 255  # a slope travels as a byte


@dataclass(frozen=True)
class Tuning:
    """steps: gradient steps, each a forward and a backward sweep; first, last: step sizes, shrinking geometrically."""

    steps: int
    first: float = 1.0
    last: float = 0.05

    def size(self, step: int) -> float:
        """Step size of step 0, 1, … (slopes are in [0, 1])."""
        return self.first * (self.last / self.first) ** (step / max(1, self.steps - 1))


def quantised(slopes: Tensor) -> Tensor:
    """The slopes as the judge will read them: multiples of 1/255."""
    return (slopes * LEVELS).round() / LEVELS


def tune_rows(
    known: Bounds, coefficients: Tensor, start: Tensor | None, goal: Tensor | None, tuning: Tuning
) -> tuple[Tensor, Tensor]:
    """Smaller upper bounds (N, J) of coefficients (N, J, K) . logits, and the quantised slopes (N, J, n) behind them.

    start: slopes to start from (None: the shared ones). goal: (N, J), rows below it are not tuned further.
    Ensures: no bound is above that of the shared slopes or of `start`.
    """
    n, j, classes = coefficients.shape
    flat = coefficients.reshape(n * j, classes)
    sample = torch.arange(n, device=flat.device).repeat_interleave(j)
    first = quantised(known.slopes[sample] if start is None else start.reshape(n * j, -1))
    best = functional_upper(known, coefficients, first.view(n, j, -1)).reshape(-1)
    slopes = first.clone()
    shared = functional_upper(known, coefficients, None).reshape(-1)
    worse = shared < best
    best, slopes[worse] = torch.minimum(best, shared), quantised(known.slopes[sample][worse])
    left = torch.full_like(best, -torch.inf) if goal is None else goal.reshape(-1)
    open_rows = (best >= left).nonzero().flatten() if tuning.steps else sample[:0]
    size = max(1, ROWS // max(math.prod(s) for s in known.net.network.shapes))
    for rows in open_rows.split(size):
        for cuts in _cuts(known.pick(sample[rows]), flat[rows], slopes[rows]):
            for cut in cuts.unique().tolist():
                some = rows[(cuts == cut) & (best[rows] >= left[rows])]
                if len(some):
                    own = known.pick(sample[some])
                    best[some], slopes[some] = _tune(own, flat[some], slopes[some], best[some], left[some], tuning, cut)
    return best.view(n, j), slopes.view(n, j, -1)


def _cuts(own: Bounds, coefficients: Tensor, slopes: Tensor) -> Tensor:
    """(C, R) which of the bounds met on the way to tune, row by row: the one at the input, then those that are smallest
    as it stands. What a row is given never depends on the others.

    The least of all is what counts, but its gradient sees only the slopes above the cut that is least just now; a cut
    is convex in its slopes, so each is tuned by itself.
    """
    rows = evenly(len(coefficients), 1, coefficients.device)
    last = len(own.net.nodes) - 1
    met = cut_bounds(own, {last: Rows(coefficients)}, rows, own.lines(slopes), True, None)
    order = met[1:-1].argsort(0) + 1
    at_input = torch.full((1, met.shape[1]), len(met) - 1, device=met.device)
    return torch.cat([at_input, order])[:CUTS]


def _tune(
    own: Bounds, coefficients: Tensor, slopes: Tensor, best: Tensor, goal: Tensor, tuning: Tuning, cut: int
) -> tuple[Tensor, Tensor]:
    """Descent on slopes (R, n) of rows (R, K), one row per ball of `own`, all intervals fixed; quantised at the end.

    cut: the bound whose gradient is followed.
    """
    net = own.net
    last = len(net.nodes) - 1
    rows = evenly(len(coefficients), 1, coefficients.device)
    fixed = own.lines(slopes)
    tuned = {k: line for k, line in fixed.items() if k in net.slope_ranges and isinstance(line, Lines)}
    movers = {k: Mover(line.lower_slope, _free(own, k), _leak(net.nodes[k])) for k, line in tuned.items()}
    kept = {k: m.value for k, m in movers.items()}
    lowest = best.clone()
    for step in range(tuning.steps):
        leaves = {k: m.value.detach().requires_grad_() for k, m in movers.items()}
        moved = {k: dataclasses.replace(line, lower_slope=leaves[k]) for k, line in tuned.items()}
        with torch.enable_grad():
            met = cut_bounds(own, {last: Rows(coefficients)}, rows, {**fixed, **moved}, True, cut)
            if not met[cut].requires_grad:  # no slope above this cut
                return best, slopes
            gradients = torch.autograd.grad(met[cut].sum(), list(leaves.values()), allow_unused=True)
        found = met.detach().amin(0)
        better = (found < lowest) & (lowest >= goal)  # a row that is good enough stays as it is
        lowest = torch.where(better, found, lowest)
        kept = {k: torch.where(_like(better, m.value), m.value, kept[k]) for k, m in movers.items()}
        if bool((lowest < goal).all()):
            break
        for mover, gradient in zip(movers.values(), gradients, strict=True):
            mover.move(gradient, tuning.size(step))
    found_slopes = quantised(torch.cat([kept[k].flatten(1) for k in net.slope_ranges], 1))
    after = backward(own, {last: Rows(coefficients)}, rows, own.lines(found_slopes), True)
    better = after < best
    return torch.where(better, after, best), torch.where(better[:, None], found_slopes, slopes)


def tune_shared(net: CrownNetwork, ball: Ball, coefficients: Tensor, start: Tensor | None, tuning: Tuning) -> Bounds:
    """Bounds of every layer, shared slopes tuned through all passes for each input's largest row of (N, J, K).

    start: (N, n) or None for the default rule. Ensures: no input's largest row bound is above that of `start`.
    """
    known = value_bounds(net, ball, start)
    best = _soft_largest(functional_upper(known, coefficients, None))
    slopes = known.slopes
    mover = Mover(slopes, torch.ones_like(slopes), 0.0)
    for step in range(tuning.steps):
        leaf = mover.value.detach().requires_grad_()
        with torch.enable_grad():
            found = _soft_largest(functional_upper(value_bounds(net, ball, leaf), coefficients, None))
            (gradient,) = torch.autograd.grad(found.sum(), [leaf])
        better = found.detach() < best
        best = torch.where(better, found.detach(), best)
        slopes = torch.where(better[:, None], leaf.detach(), slopes)
        mover.move(gradient, tuning.size(step))
    rounded = value_bounds(net, ball, quantised(slopes))
    worse = _soft_largest(functional_upper(rounded, coefficients, None)) > _soft_largest(
        functional_upper(known, coefficients, None)
    )
    return (
        value_bounds(net, ball, torch.where(worse[:, None], known.slopes, rounded.slopes))
        if bool(worse.any())
        else rounded
    )


def _soft_largest(upper: Tensor) -> Tensor:
    """A smooth stand-in (N,) for the largest of each input's row bounds (N, J)."""
    return torch.logsumexp(upper, 1)


# ---------------------------------------------------------------- descent


@dataclass(eq=False)
class Mover:
    """Adam without bias correction (large first steps) on slopes in [leak, 1]. free: 1 where they move."""

    value: Tensor
    free: Tensor
    leak: float
    mean: Tensor | None = None
    square: Tensor | None = None

    def move(self, gradient: Tensor | None, size: float) -> None:
        if gradient is None:
            return
        gradient = gradient * self.free
        self.mean = 0.2 * gradient if self.mean is None else 0.8 * self.mean + 0.2 * gradient
        self.square = 0.01 * gradient**2 if self.square is None else 0.99 * self.square + 0.01 * gradient**2
        self.value = (self.value - size * self.mean / (self.square.sqrt() + 1e-20)).clamp(self.leak, 1.0)


def _free(own: Bounds, k: int) -> Tensor:
    """1 where a slope of node k matters: the element's sign is open."""
    lower, upper = own.values[own.net.parents(k)[0]]
    return ((lower < 0) & (upper > 0)).to(lower.dtype)


def _leak(node: c.Node) -> float:
    return node.slope if isinstance(node, c.LeakyRelu) else 0.0


def _like(flags: Tensor, value: Tensor) -> Tensor:
    return flags.view(-1, *(1,) * (value.dim() - 1))

"""Tuning of the lower slopes for the judge's own formula (FORMAT.md 11), and their export as a witness.

Two kinds of slopes: those of the last pass, a set per linear form (on the logits of one input), tuned with every
interval fixed; and the shared set of an input, used by the passes before, tuned through all of them. Part of the native
CROWN engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check.witness import LEVELS
from verifiers.crown.backward import IntermediateBounds, backward, concretizations, functional_upper
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.network import CrownNetwork
from verifiers.linear_forms.forms import DenseForms, consecutive_forms
from verifiers.linear_forms.relaxation import LinearRelaxation
from verifiers.perturbation import BoxedBalls

CHUNK_COEFFICIENTS = 2**19  # of the widest layer, tuned at once
MAX_TUNED = 4  # concretizations of each form


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


def tune_forms(
    intermediate_bounds: IntermediateBounds,
    coefficients: Tensor,
    start: Tensor | None,
    goal: Tensor | None,
    tuning: Tuning,
) -> tuple[Tensor, Tensor]:
    """Smaller upper bounds (N, J) of coefficients (N, J, K) . logits, and the quantised slopes (N, J, n) behind them.

    start: slopes to start from (None: the shared ones). goal: (N, J), forms below it are not tuned further.
    Ensures: no bound is above that of the shared slopes or of `start`.
    """
    n, j, classes = coefficients.shape
    flat = coefficients.reshape(n * j, classes)
    batch_index = torch.arange(n, device=flat.device).repeat_interleave(j)
    best, slopes = _untuned(intermediate_bounds, coefficients, start)
    flat_goal = torch.full_like(best, -torch.inf) if goal is None else goal.reshape(-1)
    above_goal = (best >= flat_goal).nonzero().flatten() if tuning.steps else batch_index[:0]
    size = max(1, CHUNK_COEFFICIENTS // max(math.prod(s) for s in intermediate_bounds.net.network.shapes))
    for chunk in above_goal.split(size):
        choices = _concretizations_to_tune(intermediate_bounds.pick(batch_index[chunk]), flat[chunk], slopes[chunk])
        for which, chosen in _by_choice(choices, chunk):
            forms = chosen[best[chosen] >= flat_goal[chosen]]
            if len(forms):
                picked = intermediate_bounds.pick(batch_index[forms])
                best[forms], slopes[forms] = _tune(
                    picked, flat[forms], slopes[forms], best[forms], flat_goal[forms], tuning, which
                )
    return best.view(n, j), slopes.view(n, j, -1)


def _untuned(
    intermediate_bounds: IntermediateBounds, coefficients: Tensor, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Upper bounds (N * J,) at the better of the shared slopes and `start`, form by form, and these slopes."""
    n, j, _ = coefficients.shape
    shared_slopes = intermediate_bounds.slopes.repeat_interleave(j, 0)
    slopes = quantised(shared_slopes if start is None else start.reshape(n * j, -1))
    best = functional_upper(intermediate_bounds, coefficients, slopes.view(n, j, -1)).reshape(-1)
    shared = functional_upper(intermediate_bounds, coefficients, None).reshape(-1)
    worse = shared < best
    slopes[worse] = quantised(shared_slopes[worse])
    return torch.minimum(best, shared), slopes


def _concretizations_to_tune(intermediate_bounds: IntermediateBounds, coefficients: Tensor, slopes: Tensor) -> Tensor:
    """(C, R) which concretizations to tune, form by form: the one at the input, then those that are smallest as it
    stands. What a form is given never depends on the others.

    The least of all is what counts, but its gradient sees only the slopes above the one that is least just now; a
    concretization is convex in its slopes, so each is tuned by itself.
    """
    form_to_input = consecutive_forms(len(coefficients), 1, coefficients.device)
    frontier = {len(intermediate_bounds.net.layers) - 1: DenseForms(coefficients)}
    relaxations = intermediate_bounds.relaxations(slopes)
    upper_bounds = concretizations(intermediate_bounds, frontier, form_to_input, relaxations, True, None)
    early = upper_bounds[1:-1].argsort(0) + 1
    at_input = torch.full((1, upper_bounds.shape[1]), len(upper_bounds) - 1, device=upper_bounds.device)
    return torch.cat([at_input, early])[:MAX_TUNED]


def _by_choice(choices: Tensor, forms: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For choice after choice (C, R) of the `forms` (R,): each concretization, with the forms that chose it."""
    for choice in choices:
        for which in choice.unique().tolist():
            yield which, forms[choice == which]


def _tune(
    intermediate_bounds: IntermediateBounds,
    coefficients: Tensor,
    slopes: Tensor,
    best: Tensor,
    goal: Tensor,
    tuning: Tuning,
    which: int,
) -> tuple[Tensor, Tensor]:
    """Descent on slopes (R, n) of forms (R, K), one form per ball, all intervals fixed; quantised at the end.

    which: the concretization whose gradient is followed.
    """
    net = intermediate_bounds.net
    frontier = {len(net.layers) - 1: DenseForms(coefficients)}
    form_to_input = consecutive_forms(len(coefficients), 1, coefficients.device)
    fixed = intermediate_bounds.relaxations(slopes)
    tuned = {k: r for k, r in fixed.items() if k in net.slope_ranges and isinstance(r, LinearRelaxation)}
    descents = {k: Descent(r.lower_slope, _free(intermediate_bounds, k), *_range(net, k)) for k, r in tuned.items()}
    best_slopes = {k: d.value for k, d in descents.items()}
    lowest = best.clone()
    for step in range(tuning.steps):
        leaves = {k: d.value.detach().requires_grad_() for k, d in descents.items()}
        moved = {k: dataclasses.replace(r, lower_slope=leaves[k]) for k, r in tuned.items()}
        with torch.enable_grad():
            upper_bounds = concretizations(
                intermediate_bounds, frontier, form_to_input, {**fixed, **moved}, True, which
            )
            if not upper_bounds[which].requires_grad:  # no slope above this one
                return best, slopes
            gradients = torch.autograd.grad(upper_bounds[which].sum(), list(leaves.values()), allow_unused=True)
        least = upper_bounds.detach().amin(0)
        better = (least < lowest) & (lowest >= goal)  # a form that is good enough stays as it is
        lowest = torch.where(better, least, lowest)
        best_slopes = {k: torch.where(_per_form(better, d.value), d.value, best_slopes[k]) for k, d in descents.items()}
        if bool((lowest < goal).all()):
            break
        for descent, gradient in zip(descents.values(), gradients, strict=True):
            descent.move(gradient, tuning.size(step))
    rounded = quantised(torch.cat([best_slopes[k].flatten(1) for k in net.slope_ranges], 1))
    after = backward(intermediate_bounds, frontier, form_to_input, intermediate_bounds.relaxations(rounded), True)
    better = after < best
    return torch.where(better, after, best), torch.where(better[:, None], rounded, slopes)


def tune_shared(
    net: CrownNetwork, ball: BoxedBalls, coefficients: Tensor, start: Tensor | None, tuning: Tuning
) -> IntermediateBounds:
    """Bounds of every layer, shared slopes tuned through all passes for each input's largest form of (N, J, K).

    start: (N, n) or None for the default rule. Ensures: the largest bound of no input is above that of `start`.
    """
    intermediate_bounds = value_bounds(net, ball, start)
    best = _soft_largest(functional_upper(intermediate_bounds, coefficients, None))
    slopes = intermediate_bounds.slopes
    descent = Descent(slopes, torch.ones_like(slopes), 0.0, 1.0)
    for step in range(tuning.steps):
        leaf = descent.value.detach().requires_grad_()
        with torch.enable_grad():
            largest = _soft_largest(functional_upper(value_bounds(net, ball, leaf), coefficients, None))
            (gradient,) = torch.autograd.grad(largest.sum(), [leaf])
        better = largest.detach() < best
        best = torch.where(better, largest.detach(), best)
        slopes = torch.where(better[:, None], leaf.detach(), slopes)
        descent.move(gradient, tuning.size(step))
    rounded = value_bounds(net, ball, quantised(slopes))
    worse = _soft_largest(functional_upper(rounded, coefficients, None)) > _soft_largest(
        functional_upper(intermediate_bounds, coefficients, None)
    )
    if not bool(worse.any()):
        return rounded
    return value_bounds(net, ball, torch.where(worse[:, None], intermediate_bounds.slopes, rounded.slopes))


def _soft_largest(upper: Tensor) -> Tensor:
    """A smooth stand-in (N,) for the largest of each input's bounds (N, J)."""
    return torch.logsumexp(upper, 1)


# ---------------------------------------------------------------- descent


@dataclass(eq=False)
class Descent:
    """Adam without bias correction (large first steps) on slopes in [least, most]. free: 1 where they move."""

    value: Tensor
    free: Tensor
    least: float
    most: float
    mean: Tensor | None = None
    square: Tensor | None = None

    def move(self, gradient: Tensor | None, size: float) -> None:
        if gradient is None:
            return
        gradient = gradient * self.free
        self.mean = 0.2 * gradient if self.mean is None else 0.8 * self.mean + 0.2 * gradient
        self.square = 0.01 * gradient**2 if self.square is None else 0.99 * self.square + 0.01 * gradient**2
        self.value = (self.value - size * self.mean / (self.square.sqrt() + 1e-20)).clamp(self.least, self.most)


def _free(intermediate_bounds: IntermediateBounds, k: int) -> Tensor:
    """1 where a slope of node k matters: the neuron is unstable."""
    net = intermediate_bounds.net
    lower, upper = intermediate_bounds.values[net.parents(k)[0]]
    return net.layers[k].neurons(lower, upper).to(lower.dtype)


def _range(net: CrownNetwork, k: int) -> tuple[float, float]:
    """Of the slopes of node k."""
    layer = net.layers[k]
    return layer.refuse("slopes", "they cannot be tuned") if layer.slope_range is None else layer.slope_range


def _per_form(flags: Tensor, value: Tensor) -> Tensor:
    return flags.view(-1, *(1,) * (value.dim() - 1))

"""Estimates of local Lipschitz constants: the largest difference quotient and gradient an attack can find.

Lower bounds of the constant (Yang et al. 2020, "A closer look at accuracy vs. robustness", 4.1), so what a
theorem makes of them is an estimate and no certificate: their type is accepted by no certifying function.
The search may run in float32 on a GPU; its best points are evaluated again in float64 with every rounding
error counted, so that an estimate never exceeds the true constant.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check.certificate import Norm
from verifiers.lipschitz.jacobian import gradient_bounds, slope_intervals
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.value_bounds import point_values
from verifiers.network.module import PlainModule
from verifiers.norms import NORMS
from verifiers.perturbation import Balls

INSIDE = 1 - 2.0**-30


@dataclass(frozen=True, eq=False)
class LipschitzEstimate:
    """(N, R) lower bounds, rounded down, of the constants of forms·z on each ball; points (N, R, *shape) attain them.

    quotient: |f(x') - f(x)| / ‖x' - x‖, x the centre; gradient: the dual norm of f's gradient at a point.
    """

    quotient: Tensor
    gradient: Tensor
    points: Tensor

    @property
    def best(self) -> Tensor:
        return torch.maximum(self.quotient, self.gradient)


@dataclass(frozen=True)
class Search:
    """Projected gradient ascent: `restarts` random starts of `steps` steps, in `dtype`."""

    steps: int = 20
    restarts: int = 10
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be >= 1, got {self.steps} and {self.restarts}")


def estimate(
    maps: LinearMaps, balls: Balls, forms: Tensor, search: Search, samples: Tensor | None = None
) -> LipschitzEstimate:
    """Attack the constant of each form (N, R, K) on the logits on each ball of positive radius.

    samples: (S, N, *shape) further points of the balls, or None. Ensures: each figure is a lower bound of the Lipschitz
    constant of that form on ball and domain; none is below `sampled` at `samples`.
    """
    if not bool((balls.radius > 0).all()):
        raise ValueError(f"radius must be > 0, got {float(balls.radius.min())}")
    candidates = list(_search(maps, balls, forms, search))
    if samples is not None:
        candidates += [_for_each_form(points, forms) for points in _inside(samples, balls)]
    return functools.reduce(_better, (_evaluated(maps, balls, forms, points) for points in candidates))


def sampled(maps: LinearMaps, balls: Balls, forms: Tensor, samples: Tensor) -> Tensor:
    """(N, R) largest difference quotients |forms·(z(x') - z(x))| / ‖x' - x‖ at samples (S, N, *shape), rounded down."""
    quotients = [_counted(maps, balls, forms, _for_each_form(points, forms))[0] for points in _inside(samples, balls)]
    return torch.stack(quotients).amax(dim=0)


def _inside(samples: Tensor, balls: Balls) -> list[Tensor]:
    """(N, *shape) each, moved into the balls where they lie outside."""
    return [_project(points, balls.center, balls.radius, balls) for points in samples]


def _for_each_form(points: Tensor, forms: Tensor) -> Tensor:
    return points[:, None].expand(-1, forms.shape[1], *points.shape[1:])


def _evaluated(maps: LinearMaps, balls: Balls, forms: Tensor, points: Tensor) -> LipschitzEstimate:
    quotient, _ = _counted(maps, balls, forms, points)
    return LipschitzEstimate(quotient, _counted_gradient(maps, balls, forms, points), points)


def _better(first: LipschitzEstimate, second: LipschitzEstimate) -> LipschitzEstimate:
    """The larger figures, and the points of the larger gradients."""
    wins = (second.gradient > first.gradient).reshape(*first.gradient.shape, *[1] * (first.points.ndim - 2))
    return LipschitzEstimate(
        torch.maximum(first.quotient, second.quotient),
        torch.maximum(first.gradient, second.gradient),
        torch.where(wins, second.points, first.points),
    )


def probability_gradients(maps: LinearMaps, balls: Balls, points: Tensor, temperature: float) -> Tensor:
    """(N, K) lower bounds, rounded down, of sup ‖grad h_i‖ on each ball: the largest dual norm at `points`.

    h = softmax(temperature z), grad h_i = T h_i sum_k (1[k = i] - h_k) grad z_k; points (N, R, *shape) of the balls.
    """
    count, number = points.shape[:2]
    values = point_values(maps, points.flatten(0, 1))
    low, up = values[-1]
    h = torch.softmax(temperature * (low + up) / 2, dim=1)
    eye = torch.eye(h.shape[1], dtype=torch.float64, device=h.device)
    forms = temperature * h[:, :, None] * (eye - h[:, None, :])
    slopes = slope_intervals(maps, values)
    norms = gradient_bounds(maps, slopes, forms).dual_norm_lower(balls.norm)
    # relative error of each h_k, from the width of z and the rounding of softmax
    doubt = torch.expm1(4 * temperature * (up - low).amax(dim=1)) + 2.0**-40
    alone = gradient_bounds(maps, slopes, eye.expand(len(h), -1, -1)).dual_norm_upper(balls.norm)
    wrong = torch.einsum("nik,nk->ni", temperature * h[:, :, None] * (eye + h[:, None, :]), alone)
    return (norms - 4 * doubt[:, None] * wrong).clamp(min=0).reshape(count, number, -1).amax(dim=1)


@dataclass(frozen=True, eq=False)
class MoveEstimate:
    """(N, K) lower bounds, rounded down, of how far probabilities move within each ball: h_y(x) - h_y(x') in column y,
    else h_i(x') - h_i(x), largest over x'. points (N, K, *shape) attain them."""

    moved: Tensor
    points: Tensor


def estimate_moves(
    maps: LinearMaps, balls: Balls, predicted: Tensor, temperature: float, search: Search, samples: Tensor | None = None
) -> MoveEstimate:
    """Attack the fall of h_y and the rise of each other h_i = softmax(temperature z)_i within balls of positive radius.

    These are the relaxed local constants of the paper's Theorem 3.5, times the radius (Yang et al. 2020, of
    probabilities). samples: (N, S, *shape) further points. Ensures: each figure is a lower bound of the true move; none
    is below that at any of the samples.
    """
    if not bool((balls.radius > 0).all()):
        raise ValueError(f"radius must be > 0, got {float(balls.radius.min())}")
    own = torch.arange(maps.network.classes, device=maps.device) == predicted.to(maps.device)[:, None]
    signs = torch.where(own, -1.0, 1.0).to(torch.float64)
    best = _evaluated_moves(maps, balls, signs, temperature, _search_moves(maps, balls, signs, temperature, search))
    if samples is None:
        return best
    for points in samples.unbind(1):
        inside = _project(points, balls.center, balls.radius, balls)
        best = _larger(best, _evaluated_moves(maps, balls, signs, temperature, _for_each_form(inside, signs)))
    return best


def _search_moves(maps: LinearMaps, balls: Balls, signs: Tensor, temperature: float, search: Search) -> Tensor:
    """(N, K, *shape) float64: where projected ascent of sign · log-odds of h_i ends up highest, over all restarts.

    The first restart starts at the centre. Log-odds move as the probability does, and are never flat.
    """
    count, classes = signs.shape
    shape = (count * classes, *balls.center.shape[1:])
    model = PlainModule(maps.network).to(maps.device, search.dtype)
    center, radius = balls.center.repeat_interleave(classes, 0), balls.radius.repeat_interleave(classes, 0)
    mine = torch.eye(classes, dtype=torch.bool, device=maps.device).repeat(count, 1)
    sign = signs.flatten().to(search.dtype)
    generator = torch.Generator().manual_seed(search.seed)
    best = (torch.full((shape[0],), -torch.inf, dtype=search.dtype, device=maps.device), center.clone())
    for restart in range(search.restarts):
        points = center
        if restart:
            move = torch.randn(shape, generator=generator, dtype=torch.float64).to(maps.device)
            points = _project(center + radius.reshape(-1, *[1] * (move.ndim - 1)) * move, center, radius, balls)
        for step in range(search.steps + 1):
            x = points.to(search.dtype, copy=True).requires_grad_()
            logits = temperature * model(x)
            rest = logits.masked_fill(mine, -torch.inf).logsumexp(dim=1)
            score = sign * (logits[mine] - rest)
            (gradient,) = torch.autograd.grad(score.sum(), x)
            best = _keep(best, score.detach(), points)
            length = radius * (1.5 / math.sqrt(step + 1))
            points = _project(points + _steepest(gradient.double(), balls.norm, length), center, radius, balls)
    return best[1].reshape(count, classes, *shape[1:])


def _evaluated_moves(maps: LinearMaps, balls: Balls, signs: Tensor, temperature: float, points: Tensor) -> MoveEstimate:
    """The moves at points (N, K, *shape), every rounding error counted against them."""
    count, classes = signs.shape
    far, near = point_values(maps, points.flatten(0, 1))[-1], point_values(maps, balls.center)[-1]
    (low_far, high_far), (low_near, high_near) = (_probabilities(*z, temperature) for z in (far, near))
    each = torch.arange(classes, device=maps.device)
    low, high = (h.reshape(count, classes, classes)[:, each, each] for h in (low_far, high_far))
    return MoveEstimate(torch.where(signs > 0, low - high_near, low_near - high).clamp(min=0) * (1 - 2.0**-50), points)


def _probabilities(lower: Tensor, upper: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(N, K) bounds of softmax(temperature z)_i for lower <= z <= upper (N, K), its own rounding counted (2^-40)."""
    own = torch.eye(lower.shape[1], dtype=torch.bool, device=lower.device)
    odds = (
        (temperature * (mine[:, :, None] - others[:, None])).masked_fill(own, torch.inf).neg().logsumexp(dim=2).neg()
        for mine, others in ((lower, upper), (upper, lower))
    )
    low, high = (torch.sigmoid(one) for one in odds)
    return low * (1 - 2.0**-40), high * (1 + 2.0**-40) + 1e-300


def _larger(first: MoveEstimate, second: MoveEstimate) -> MoveEstimate:
    wins = second.moved > first.moved
    mask = wins.reshape(*wins.shape, *[1] * (first.points.ndim - 2))
    return MoveEstimate(torch.maximum(first.moved, second.moved), torch.where(mask, second.points, first.points))


def _search(maps: LinearMaps, balls: Balls, forms: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """(N, R, *shape) float64 points with the largest quotient and the largest gradient."""
    count, number = forms.shape[:2]
    shape = (count * number, *balls.center.shape[1:])
    model = PlainModule(maps.network).to(maps.device, search.dtype)
    center = balls.center.repeat_interleave(number, 0)
    radius = balls.radius.repeat_interleave(number, 0)
    functional = forms.reshape(count * number, -1).to(search.dtype)
    generator = torch.Generator().manual_seed(search.seed)
    best = [(torch.full((shape[0],), -1.0, dtype=search.dtype, device=maps.device), center.clone()) for _ in range(2)]
    with torch.no_grad():
        base = (model(center.to(search.dtype)) * functional).sum(1)
    for _ in range(search.restarts):
        move = torch.randn(shape, generator=generator, dtype=torch.float64).to(maps.device)
        scale = torch.rand(shape[0], generator=generator, dtype=torch.float64).to(maps.device)
        points = _project(center + move, center, radius * scale.clamp(min=0.01), balls)
        for step in range(search.steps):
            x = points.to(search.dtype, copy=True).requires_grad_()
            gap = (model(x) * functional).sum(1)
            (gradient,) = torch.autograd.grad(gap.sum(), x)
            gap = (gap - base).detach()
            size = NORMS[balls.norm].size((points - center).flatten(1))
            quotient = gap.abs() / size.clamp(min=1e-30).to(search.dtype)
            dual = NORMS[balls.norm].dual(gradient.flatten(1))
            best = [_keep(b, v, points) for b, v in zip(best, (quotient, dual), strict=True)]
            ascent = gradient.double() * torch.where(gap >= 0, 1.0, -1.0).reshape(-1, *[1] * (x.ndim - 1))
            length = radius * (1.5 / math.sqrt(step + 1))
            points = _project(points + _steepest(ascent, balls.norm, length), center, radius, balls)
    return best[0][1].reshape(count, number, *shape[1:]), best[1][1].reshape(count, number, *shape[1:])


def _keep(best: tuple[Tensor, Tensor], value: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    better = value > best[0]
    mask = better.reshape(-1, *[1] * (points.ndim - 1))
    return torch.where(better, value, best[0]), torch.where(mask, points, best[1])


def _steepest(gradient: Tensor, norm: Norm, length: Tensor) -> Tensor:
    """The step of this length along which the linearised value grows most."""
    return (NORMS[norm].steepest(gradient.flatten(1)) * length[:, None]).reshape(gradient.shape)


def _project(points: Tensor, center: Tensor, radius: Tensor, balls: Balls) -> Tensor:
    """Into ball and domain, a hair inside so that rounding cannot leave the ball."""
    move, flat = (points - center).flatten(1), center.flatten(1)
    low, high = balls.domain or (-math.inf, math.inf)
    move = NORMS[balls.norm].closest(move, low - flat, high - flat, radius * INSIDE)
    return center + (move * INSIDE).reshape(center.shape)  # the shrinking pays for the rounding of the additions


def _counted(maps: LinearMaps, balls: Balls, forms: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """(N, R) quotients |forms·(z(point) - z(centre))| / ‖point - centre‖, rounded down, and the distances."""
    count, number = forms.shape[:2]
    far, near = point_values(maps, points.flatten(0, 1))[-1], point_values(maps, balls.center)[-1]
    low = far[0].reshape(forms.shape) - near[1][:, None]
    high = far[1].reshape(forms.shape) - near[0][:, None]
    middle, half = (low + high) / 2, (high - low) / 2
    growth = (forms.shape[2] + 16) * 2.0**-51
    value = (forms * middle).sum(2)
    doubt = (forms.abs() * half).sum(2) + growth * (forms.abs() * (low.abs() + high.abs())).sum(2)
    move = (points - balls.center[:, None]).flatten(2)
    size = NORMS[balls.norm].size(move)
    size = size * (1 + (move.shape[2] + 16) * 2.0**-51) + 2.0**-52 * _rounding(balls, points)
    quotient = ((value.abs() - doubt).clamp(min=0) / size.clamp(min=1e-300)) * (1 - 2.0**-51)
    return torch.where(size > 0, quotient, 0.0).reshape(count, number), size


def _rounding(balls: Balls, points: Tensor) -> Tensor:
    """ℓp size of the vectors whose relative rounding enters point - centre."""
    total = (points.abs() + balls.center.abs()[:, None]).flatten(2)
    return 2 * NORMS[balls.norm].size(total)


def _counted_gradient(maps: LinearMaps, balls: Balls, forms: Tensor, points: Tensor) -> Tensor:
    """(N, R) dual norms of the gradients at the points, rounded down; an undecided activation counts as an interval."""
    count, number = forms.shape[:2]
    slopes = slope_intervals(maps, point_values(maps, points.flatten(0, 1)))
    flat = forms.reshape(count * number, 1, -1)
    return gradient_bounds(maps, slopes, flat).dual_norm_lower(balls.norm).reshape(count, number)

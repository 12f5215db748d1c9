"""Finders of counterexamples: each proposes points of the claimed balls; exact arithmetic decides about them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certmix.testing.claims import Claims
from certmix.testing.problem import exponent

LARGEST_ATTACKED_RADIUS = 2.0**70
MOST_CORNERS = 9


@dataclass(frozen=True, eq=False)
class AttackProposal:
    """Points worth an exact look, (input, point), the most suspicious first; `tried`: how many were evaluated."""

    points: list[tuple[int, NDArray[Any]]]
    tried: int


def claimed_rows(claims: Claims) -> NDArray[np.int64]:
    """The inputs about which something is claimed."""
    return np.flatnonzero(claims.radius > 0)


def by_sampling(claims: Claims, seed: int, count: int = 96) -> AttackProposal:
    """Random points of each ball: its inside, its surface, its corners, its axes, at scattered scales."""
    inputs = claimed_rows(claims)
    return _ranked(claims, inputs, _random_points(claims, inputs, seed, count))


def at_corners(claims: Claims, seed: int) -> AttackProposal:
    """Every corner of the ball (sign vectors and axes scaled onto the surface) for small inputs."""
    inputs = claimed_rows(claims)
    size = claims.problem.inputs[0].size
    axes = np.concatenate([np.eye(size), -np.eye(size)])
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=size))) if size <= MOST_CORNERS else axes[:0]
    directions = torch.from_numpy(np.concatenate([axes, signs]))
    p = exponent(claims.problem.norm)
    unit = directions / torch.linalg.vector_norm(directions, p, -1, keepdim=True)
    return _ranked(claims, inputs, _place(claims, inputs, unit.expand(len(inputs), -1, -1), 1 - 2.0**-40))


def by_gradient(claims: Claims, seed: int, count: int = 12, steps: int = 7) -> AttackProposal:
    """Projected gradient descent on the slack from the centre and random starts, with shrinking steps."""
    inputs = claimed_rows(claims)
    points = _random_points(claims, inputs, seed, count)
    centers = claims.problem.centers64[inputs][:, None]
    points[:, :1] = centers + (points[:, :1] - centers) * 1e-3
    everything = [points]
    for step in range(steps):
        points = points.detach().requires_grad_(True)
        slack = claims.slack(inputs, points)
        (gradient,) = torch.autograd.grad(slack.sum(), points) if slack.requires_grad else (torch.zeros_like(points),)
        points = _descend(claims, inputs, points.detach(), gradient, 0.5 ** (step // 2))
        everything.append(points)
    return _ranked(claims, inputs, torch.cat(everything, 1))


def at_suspects(claims: Claims, seed: int) -> AttackProposal:
    """The points the problem was built around, whatever floating point thinks of them, and the input itself."""
    suspects = [s.astype(np.float64) for s in claims.problem.suspects]
    points: list[tuple[int, NDArray[Any]]] = []
    for batch_index in claimed_rows(claims):
        center = claims.problem.inputs[batch_index].astype(np.float64)
        points += [(int(batch_index), point) for point in (*suspects, center)]
    return AttackProposal(points, len(points))


def _descend(claims: Claims, inputs: NDArray[np.int64], points: Tensor, gradient: Tensor, share: float) -> Tensor:
    """One steepest-descent step of length share * radius in the norm, projected back to ball and domain."""
    p = exponent(claims.problem.norm)
    centers = claims.problem.centers64[inputs][:, None].flatten(2)
    radius = _finite_radius(claims, inputs)[:, None, None]
    g = torch.nan_to_num(gradient.flatten(2))
    if p == math.inf:
        direction = g.sign()
    elif p == 1:
        direction = torch.zeros_like(g).scatter(-1, g.abs().argmax(-1, keepdim=True), 1.0) * g.sign()
    else:
        dual = p / (p - 1)
        scaled = g / (g.abs().amax(-1, keepdim=True) + 1e-300)
        direction = scaled.sign() * scaled.abs() ** (dual - 1)
        direction = direction / (torch.linalg.vector_norm(direction, p, -1, keepdim=True) + 1e-300)
    delta = points.flatten(2) - share * radius * direction - centers
    if p == math.inf:
        delta = delta.clamp(-radius * (1 - 2.0**-40), radius * (1 - 2.0**-40))
    else:
        length = torch.linalg.vector_norm(delta, p, -1, keepdim=True)
        delta = delta * torch.clamp(radius * (1 - 2.0**-40) / (length + 1e-300), max=1.0)
    return _clip(claims, (centers + delta).reshape(points.shape))


def _random_points(claims: Claims, inputs: NDArray[np.int64], seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    p = exponent(claims.problem.norm)
    shape = (len(inputs), count, claims.problem.inputs[0].size)
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    direction[:, 1::3] = direction[:, 1::3].sign()
    sparse = torch.zeros(shape, dtype=torch.float64)
    axis = torch.randint(shape[-1], shape[:2], generator=generator)[..., None]
    sparse.scatter_(-1, axis, direction.gather(-1, axis).sign())
    direction[:, 2::3] = sparse[:, 2::3]
    unit = direction / (torch.linalg.vector_norm(direction, p, -1, keepdim=True) + 1e-300)
    share = torch.rand(shape[:2], generator=generator, dtype=torch.float64)[..., None]
    share[:, : count // 2] = 1 - 2.0**-40
    share[:, -(count // 8) :] **= 12  # close to the centre
    return _place(claims, inputs, unit, share)


def _place(claims: Claims, inputs: NDArray[np.int64], unit: Tensor, share: Tensor | float) -> Tensor:
    """Centre + share * radius * unit direction, clipped to the domain, (n, M, *shape)."""
    centers = claims.problem.centers64[inputs][:, None].flatten(2)
    points = centers + unit * (share * _finite_radius(claims, inputs)[:, None, None])
    return _clip(claims, points.reshape(*points.shape[:2], *claims.problem.inputs.shape[1:]))


def _finite_radius(claims: Claims, inputs: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.minimum(claims.radius[inputs], LARGEST_ATTACKED_RADIUS))


def _clip(claims: Claims, points: Tensor) -> Tensor:
    domain = claims.problem.domain
    return points if domain is None else points.clamp(*domain)


def _ranked(claims: Claims, inputs: NDArray[np.int64], points: Tensor, most: int = 3) -> AttackProposal:
    """The points of least slack, at most `most` per input, those that look refuted or nearly so."""
    if len(inputs) == 0:
        return AttackProposal([], 0)
    with torch.no_grad():
        slack = torch.nan_to_num(claims.slack(inputs, points), nan=math.inf)
    worst, index = slack.topk(min(most, slack.shape[1]), -1, largest=False)
    order = sorted((float(worst[n, k]), n, int(index[n, k])) for n in range(len(inputs)) for k in range(worst.shape[1]))
    chosen = [(int(inputs[n]), points[n, m].numpy()) for value, n, m in order if value < claims.closeness]
    return AttackProposal(chosen, slack.numel())

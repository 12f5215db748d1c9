"""Projected gradient ascent in a ball: fixed or adaptive steps, random restarts, targeted restarts.

Every candidate lies exactly in ball and box (see `ball.py`). Attacks may refute, never prove.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from certmix.attacks.ball import Ball
from certmix.attacks.objectives import Objective
from certmix.attacks.random_search import random_search
from certmix.errors import UsageError

MOMENTUM = 0.75
DECAY = 0.0115
EVALUATIONS = 4  # of a search at random, for each gradient of the budget


@dataclass(frozen=True, eq=False)
class Candidates:
    """points: (N, …) float32 in ball and box; found: (N,) bool, the float32 classifier leaves the class there."""

    points: Tensor
    found: Tensor


@dataclass(frozen=True)
class Schedule:
    """Budget and steps. One step is one gradient; each restart spends `steps`.

    step: "fixed" repeats steps of relative_step · radius (0: 2.5 / steps) and ends at the last iterate;
    "decay" starts at 2 · radius and shrinks geometrically, to about 1 % of it at the end;
    "adaptive" is APGD (Croce & Hein 2020): from 2 · radius, halved where progress stops, ends at the best iterate.
    random_start: restarts begin at random points, else the first begins at the centre. keep_going: spend the whole
    budget on inputs that are broken already (a transfer attack wants the strongest point, not the first).
    """

    steps: int = 20
    restarts: int = 1
    step: Literal["fixed", "decay", "adaptive"] = "adaptive"
    relative_step: float = 0.0
    random_start: bool = True
    keep_going: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise UsageError(f"steps and restarts must be >= 1, got {self.steps} and {self.restarts}")
        if self.relative_step < 0:
            raise UsageError(f"relative_step must be >= 0, got {self.relative_step}")


def pgd(
    objective: Objective,
    ball: Ball,
    labels: Tensor,
    schedule: Schedule,
    targets: Tensor | None = None,
    start: Tensor | None = None,
) -> Candidates:
    """Climb `objective` in `ball`, away from `labels` (N,); where a model has no gradient, search at random, too.

    targets: (N, R) the class that restart k aims at; R then replaces schedule.restarts. start: (N, …) points the
    first restart begins at (projected). Ensures: candidates lie exactly in ball and box; found inputs are lost
    in the arithmetic of the module. Equal arguments give equal results.
    """
    generator = torch.Generator().manual_seed(schedule.seed)
    rounds = schedule.restarts if targets is None else targets.shape[1]
    if start is not None:
        points = ball.project(start)
    else:
        points = ball.random(generator) if schedule.random_start else ball.center.clone()
    success = torch.zeros(len(ball), dtype=torch.bool, device=points.device)
    any_class = torch.full_like(labels, -1)
    for restart in range(rounds if objective.climbs else 0):
        remaining = (torch.ones_like(success) if schedule.keep_going else ~success).nonzero().squeeze(1)
        if len(remaining) == 0:
            break
        aims = any_class if targets is None else targets[:, restart]
        begin = points if restart == 0 else ball.random(generator)
        climb = _adaptive if schedule.step == "adaptive" else _fixed
        result = climb(objective, ball.pick(remaining), labels[remaining], aims[remaining], begin[remaining], schedule)
        better = result.found | ~success[remaining]
        points[remaining[better]] = result.points[better]
        success[remaining] |= result.found
    if objective.blind:
        remaining = (torch.ones_like(success) if schedule.keep_going else ~success).nonzero().squeeze(1)
        searched, y = ball.pick(remaining), labels[remaining]
        evaluations = EVALUATIONS * rounds * schedule.steps
        points[remaining] = random_search(objective, searched, y, points[remaining], evaluations, generator)
        success[remaining] = objective.broken(points[remaining], y)
    return Candidates(points, success)


def _fixed(
    objective: Objective, ball: Ball, labels: Tensor, targets: Tensor, begin: Tensor, schedule: Schedule
) -> Candidates:
    points, result = begin.clone(), begin.clone()
    inputs = torch.arange(len(ball), device=points.device)
    success = torch.zeros(len(ball), dtype=torch.bool, device=points.device)
    decay = schedule.step == "decay"
    size = ball.radius * (2.0 if decay else schedule.relative_step or 2.5 / schedule.steps)
    for _ in range(schedule.steps):
        ascent = objective.ascent(points, labels, targets)
        broken = None if schedule.keep_going else ascent.broken
        if broken is not None and bool(broken.any()):
            result[inputs[broken]], success[inputs[broken]] = points[broken], True
            stay = ~broken
            inputs, points, ball, size = inputs[stay], points[stay], ball.pick(stay), size[stay]
            labels, targets, ascent = labels[stay], targets[stay], replace(ascent, gradient=ascent.gradient[stay])
            if len(inputs) == 0:
                return Candidates(result, success)
        points = ball.step(points, ascent.gradient, size)
        size = size * DECAY ** (1 / schedule.steps) if decay else size
    result[inputs], success[inputs] = points, objective.broken(points, labels)
    return Candidates(result, success)


@dataclass(frozen=True, eq=False)
class _State:
    """Per input that still goes on: where APGD stands. inputs: their positions in the batch.

    `wins` counts the steps since the checkpoint that raised the score.
    """

    inputs: Tensor
    labels: Tensor
    targets: Tensor
    points: Tensor
    previous: Tensor
    score: Tensor
    gradient: Tensor
    best: Tensor
    best_score: Tensor
    best_gradient: Tensor
    size: Tensor
    wins: Tensor
    halved: Tensor
    score_at_checkpoint: Tensor

    def subset(self, index: Tensor) -> _State:
        return _State(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def _adaptive(
    objective: Objective, ball: Ball, labels: Tensor, targets: Tensor, begin: Tensor, schedule: Schedule
) -> Candidates:
    result = begin.clone()
    success = torch.zeros(len(ball), dtype=torch.bool, device=begin.device)
    ascent = objective.ascent(begin, labels, targets)
    state = _State(
        torch.arange(len(ball), device=begin.device), labels, targets, begin, begin,
        ascent.score, ascent.gradient, begin, ascent.score, ascent.gradient,
        2 * ball.radius, torch.zeros(len(ball), device=begin.device),
        torch.zeros(len(ball), dtype=torch.bool, device=begin.device), ascent.score,
    )  # fmt: skip
    broken, points = ascent.broken, begin
    checkpoints, last = _checkpoints(schedule.steps), 0
    for step in range(1, schedule.steps + 1):
        if not schedule.keep_going and bool(broken.any()):
            # the broken iterate itself: a best iterate need not be broken, where score and class disagree
            result[state.inputs[broken]], success[state.inputs[broken]] = points[broken], True
            state, ball = state.subset(~broken), ball.pick(~broken)
            if len(state.inputs) == 0:
                return Candidates(result, success)
        if step - 1 in checkpoints:
            state, last = _checked(ball, state, step - 1 - last), step - 1
        points = _moved(ball, state, first=step == 1)
        if step == schedule.steps:
            # the last iterate needs no gradient
            broken = objective.broken(points, state.labels)
            break
        ascent = objective.ascent(points, state.labels, state.targets)
        broken = ascent.broken
        state = _advanced(ball, state, points, ascent.score, ascent.gradient)
    ends = torch.where(ball.column(broken), points, state.best)
    result[state.inputs] = ends
    success[state.inputs] = broken if not schedule.keep_going else objective.broken(ends, state.labels)
    return Candidates(result, success)


def _checkpoints(steps: int) -> frozenset[int]:
    """Steps at which APGD reconsiders its step size: shares .22, then gaps shrinking by .03 to .06."""
    shares, gap = [0.0, 0.22], 0.22
    while shares[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        shares.append(shares[-1] + gap)
    return frozenset(max(1, round(share * steps)) for share in shares[1:])


def _moved(ball: Ball, state: _State, first: bool) -> Tensor:
    ahead = ball.step(state.points, state.gradient, state.size)
    if first:
        return ahead
    drift = MOMENTUM * (ahead - state.points) + (1 - MOMENTUM) * (state.points - state.previous)
    return ball.project(state.points + drift)


def _advanced(ball: Ball, state: _State, points: Tensor, score: Tensor, gradient: Tensor) -> _State:
    better = score > state.best_score
    column = ball.column(better)
    return replace(
        state,
        points=points,
        previous=state.points,
        wins=state.wins + (score > state.score),
        score=score,
        gradient=gradient,
        best=torch.where(column, points, state.best),
        best_score=torch.where(better, score, state.best_score),
        best_gradient=torch.where(column, gradient, state.best_gradient),
    )


def _checked(ball: Ball, state: _State, interval: int) -> _State:
    """Halve the step and return to the best iterate where fewer than 3/4 of the steps won, or nothing moved."""
    stuck = ~state.halved & (state.best_score <= state.score_at_checkpoint)
    halve = (state.wins < MOMENTUM * interval) | stuck
    column = ball.column(halve)
    return replace(
        state,
        size=torch.where(halve, state.size / 2, state.size),
        points=torch.where(column, state.best, state.points),
        previous=torch.where(column, state.best, state.previous),
        gradient=torch.where(column, state.best_gradient, state.gradient),
        score=torch.where(halve, state.best_score, state.score),
        wins=torch.zeros_like(state.wins),
        halved=halve,
        score_at_checkpoint=state.best_score,
    )

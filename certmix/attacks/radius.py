"""The attack radius: the smallest radius at which an attack was seen to succeed, per input.

An upper limit of every certified radius. Not a claim that nothing smaller exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.attacks.ball import Ball, make_ball, size_up
from certmix.attacks.objectives import ClassifierObjective, FloorObjective, Objective
from certmix.attacks.pgd import Schedule, pgd
from certmix.errors import UsageError
from certmix.mixing.mixed import MixedClassifier
from proofs_check.certificate import Norm

LINE_STEPS = 12


@dataclass(frozen=True, eq=False)
class AttackRadius:
    """radius: (N,) float64; points: (N, …) float32, within exactly that radius of the input; found: (N,) bool.

    Where `found`, the mix (in float32) prefers another class at the point; elsewhere no attack succeeded within
    `radius`, which then is the limit of the search.
    """

    radius: Tensor
    points: Tensor
    found: Tensor


def attack_radius(
    mix: MixedClassifier,
    inputs: Tensor,
    predicted: Tensor,
    norm: Norm,
    domain: tuple[float, float] | None,
    limit: float,
    tolerance: float = 0.01,
    steps: int = 20,
    seed: int = 0,
    known: Tensor | None = None,
) -> AttackRadius:
    """Bisect on the radius, the whole batch at once, each attack starting from the last point found.

    inputs: (N, …) float32; predicted (N,): the class to leave; limit: largest radius tried, raw units; tolerance:
    relative; known: (N,) float64 radii within which no attack exists, such as certified ones: only larger ones are
    tried, beginning at twice as much. Ensures: ‖points − inputs‖ ≤ radius exactly. Where found at radius r, r is also
    the size of the offset itself (rounded up), after a search along the segment to the input.
    """
    if not limit > 0:
        raise UsageError(f"limit must be > 0, got {limit}")
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance must lie in (0, 1), got {tolerance}")
    state = _Search(mix, inputs, predicted, norm, domain)
    at_center = ClassifierObjective(mix, "margin").broken(inputs, predicted)
    points = inputs.clone()
    low, high = torch.zeros(len(inputs), dtype=torch.float64), torch.full((len(inputs),), limit, dtype=torch.float64)
    low, high = low.to(inputs.device), high.to(inputs.device)
    if known is not None:
        low = known.to(low).clamp(max=limit)
    high[at_center] = 0.0
    success = at_center.clone()
    trial = torch.where(low > 0, (2 * low).minimum(high), high)
    while True:
        searched = ((high > low * (1 + tolerance)) & ~at_center).nonzero().squeeze(1)
        if len(searched) == 0:
            return AttackRadius(high, points, success)
        hit, where, size = state.try_radius(searched, trial[searched], points[searched], seed, steps)
        reached = searched[hit]
        points[reached], high[reached], success[reached] = where[hit], size[hit], True
        missed = searched[~hit]
        low[missed] = trial[missed]
        # a success below a failure: attacks are not monotone in the radius
        low = torch.minimum(low, high)
        # the geometric mean once a lower end exists
        trial = torch.where(low > 0, (low * high).sqrt(), high / 2)


@dataclass(frozen=True, eq=False)
class _Search:
    mix: MixedClassifier
    inputs: Tensor
    predicted: Tensor
    norm: Norm
    domain: tuple[float, float] | None

    def try_radius(
        self, inputs: Tensor, radius: Tensor, start: Tensor, seed: int, steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(hit, points, size of the offset) for `inputs`, by position: margin, then the floor, from `start`."""
        ball = make_ball(self.inputs[inputs], radius, self.norm, self.domain)
        labels = self.predicted[inputs]
        schedule = Schedule(steps, random_start=False, seed=seed)
        points, hit = ball.center.clone(), torch.zeros(len(inputs), dtype=torch.bool, device=start.device)
        objectives: tuple[Objective, ...] = (ClassifierObjective(self.mix, "margin"), FloorObjective(self.mix))
        for objective in objectives:
            remaining = (~hit).nonzero().squeeze(1)
            if len(remaining) == 0:
                break
            result = pgd(objective, ball.pick(remaining), labels[remaining], schedule, start=start[remaining])
            points[remaining[result.found]] = result.points[result.found]
            hit[remaining] = result.found
        points[hit] = self._nearer(ball.pick(hit), points[hit], labels[hit])
        return hit, points, torch.minimum(size_up(points, ball.center, self.norm), radius)

    def _nearer(self, ball: Ball, points: Tensor, labels: Tensor) -> Tensor:
        """The nearest lost point found by bisection along the segment from each input to its point."""
        if len(points) == 0:
            return points
        objective = ClassifierObjective(self.mix, "margin")
        kept, lost = torch.zeros_like(ball.radius), torch.ones_like(ball.radius)
        best = points
        for _ in range(LINE_STEPS):
            middle = (kept + lost) / 2
            offset = ball.column(middle) * (points.double() - ball.center.double())
            trial = ball.project(ball.center.double() + offset)
            broken = objective.broken(trial, labels)
            best = torch.where(ball.column(broken), trial, best)
            kept, lost = torch.where(broken, kept, middle), torch.where(broken, middle, lost)
        return best

"""certmix's randomised smoothing, judged by how often its certificates are false.

`certify` draws its own votes (protocol "smoothed") and returns what the judge accepted; `from_votes` takes the same
steps from given vote tables (protocol "counts").
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certmix.provers.certify import certify as certify_mix
from certmix.provers.smoothing import plan as planning
from certmix.provers.smoothing.plan import Plan
from certmix.provers.smoothing.prover import RADIUS_SLACK
from certmix.records.outcomes import Certified
from certmix.settings import Settings, SmoothingSettings
from certmix.theorems.smoothing import required_margin
from verifiers.smoothing import confidence

SELECTION = 50
VOTES = 400
GRID_STEPS_PER_DEVIATION = 2048  # of the noise: the boundary of votes is off by 2^-12 of a standard deviation
LARGEST_GRID = 65536
DRAWS_AT_ONCE = 65536


def certify(
    base: nn.Module, x: Tensor, alpha: float, noise_std: float = 1.0, failure_probability: float = 0.001
) -> list[tuple[int, float] | None]:
    """Hard votes of `base`, smoothed; every radius accepted by the judge. The seed is drawn from torch's generator."""
    seed = int(torch.randint(2**31 - 1, ()))
    grid = min(LARGEST_GRID, max(1, round(GRID_STEPS_PER_DEVIATION / noise_std)))
    smoothing = SmoothingSettings(
        noise_std=noise_std, samples=VOTES, selection_samples=SELECTION, failure_probability=failure_probability,
        base="hard", looks=(0.5, 1.0), grid=grid, draw_batch=DRAWS_AT_ONCE,
    )  # fmt: skip
    settings = Settings(
        alpha, norm="L2", domain=None, method="smoothing", attack_steps=0, seed=seed, smoothing=smoothing
    )
    outcomes = certify_mix(base, base, x, alpha=alpha, settings=settings)
    return [(o.predicted, o.radius) if isinstance(o, Certified) else None for o in outcomes]


def from_votes(
    selection: NDArray[np.float64],
    counts: NDArray[np.float64],
    alpha: float,
    noise_std: float = 1.0,
    failure_probability: float = 0.001,
) -> list[tuple[int, float] | None]:
    """The plan of each row of `selection`, its confidence bounds from the row of `counts`, and their radius."""
    if alpha <= 0.5:
        return [None] * len(counts)
    budget = planning.share_of(failure_probability, 0.0)
    draws = int(counts[0].sum())

    @functools.cache  # many rows are alike
    def plan_of(row: tuple[int, ...]) -> Plan:
        return _plan(row, draws, budget, alpha)

    answers: list[tuple[int, float] | None] = []
    for chosen, votes in zip(selection, counts, strict=True):
        plan = plan_of(tuple(int(n) for n in chosen))
        radius = noise_std * _shift(plan, votes.astype(np.int64), budget, alpha) * (1 - RADIUS_SLACK)
        answers.append((plan.predicted, radius) if radius > 0 else None)
    return answers


certify.certmix_protocol = "smoothed"  # type: ignore[attr-defined]
from_votes.certmix_protocol = "counts"  # type: ignore[attr-defined]


def _plan(votes: tuple[int, ...], draws: int, budget: float, alpha: float) -> Plan:
    outputs = np.repeat(np.eye(len(votes)), votes, axis=0)
    return planning.choose(outputs, "best", draws, budget, alpha, required_margin(alpha))


def _shift(plan: Plan, votes: NDArray[np.int64], budget: float, alpha: float) -> float:
    """Radius / sigma that votes (K,) certify."""
    eye = np.eye(len(votes))
    tails = [
        np.sum([n * s.counts(eye[k : k + 1], plan.predicted) for k, n in enumerate(votes)], axis=0)
        for s in plan.statistics
    ]
    share = confidence.split(budget, plan.statements)
    lower = planning.lower_bounds(plan, tails, int(votes.sum()), share)
    return planning.largest_shift(plan, lower, alpha, required_margin(alpha))

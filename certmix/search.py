"""Largest radius that passes a test, for a batch of inputs at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Test = Callable[[Tensor, Tensor], Tensor]


def largest_passing(passes: Test, count: int, limit: float, tolerance: float) -> Tensor:
    """(count,) float64: for each input the largest radius found to pass, 0 where none above limit * 2^-24 did.

    passes(indices (M,) int64, radii (M,) float64) -> (M,) bool, true at smaller radii where it is true at larger
    ones (where it is not, the result still passed). Brackets by doubling from limit / 64, then bisects until the
    bracket is narrower than `tolerance` relative to its upper end; every step is one batched call.
    """
    low = torch.zeros(count, dtype=torch.float64)
    high = torch.full((count,), float("inf"), dtype=torch.float64)
    trial = torch.full((count,), limit / 64, dtype=torch.float64)
    active = torch.arange(count)
    while len(active):
        good = passes(active, trial[active])
        low[active[good]] = trial[active[good]]
        high[active[~good]] = trial[active[~good]]
        trial = _next(low, high, limit)
        narrow = torch.isfinite(high) & (high - low <= tolerance * high)
        finished = (low >= limit) | (high <= limit * 2.0**-24) | narrow
        active = active[~finished[active]]
    return low


def _next(low: Tensor, high: Tensor, limit: float) -> Tensor:
    doubled = torch.clamp(low * 2, max=limit)
    middle = torch.where(low > 0, (low + high) / 2, high / 4)
    return torch.where(torch.isinf(high), doubled, middle)

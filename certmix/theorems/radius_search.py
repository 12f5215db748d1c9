"""Largest radius that passes a test, for a batch of inputs at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Test = Callable[[Tensor, Tensor], Tensor]
SECANT_BRACKET_RATIO = 1.6  # failed to passed radius: below it, a line between their slacks says where to look next
MOST_HALVINGS = 20.0  # of the limit, for the first trial
TRIALS_PER_HALVING = 8  # one trial in so many halves the bracket, whatever the slacks are


def largest_passing(passes: Test, count: int, limit: float, tolerance: float) -> Tensor:
    """(count,) float64: for each input the largest radius found to pass, 0 where none above limit * 2^-24 did.

    passes(indices (M,) int64, radii (M,) float64) -> (M,) bool, true at smaller radii where it is true at larger
    ones (where it is not, the result still passed). Brackets by doubling from limit / 64, then bisects until the
    bracket is narrower than `tolerance` relative to its upper end; every step is one batched call.
    """

    def endless(indices: Tensor, radii: Tensor) -> Tensor:
        return torch.where(passes(indices, radii), torch.inf, -torch.inf)

    return largest_positive(endless, count, limit, tolerance)


def largest_positive(slack: Test, count: int, limit: float, tolerance: float, guesses: Tensor | None = None) -> Tensor:
    """The same where the test is slack(indices, radii) -> (M,) > 0: where slacks are finite, the line through those at
    the ends of the bracket says where to look next, so that far fewer trials are needed. guesses: (count,) about where
    to begin, in place of limit / 64."""
    state = _Brackets.start(count, limit, guesses)
    active, trials = torch.arange(count), 0
    while len(active):
        trials += 1
        state.record(active, slack(active, state.trial[active]))
        state.advance(limit, tolerance, trials % TRIALS_PER_HALVING == 0)
        active = active[~state.finished(limit, tolerance)[active]]
    return state.low


@dataclass(eq=False)
class _Brackets:
    """(count,) float64 each: low passed (or is 0), high failed (or is inf), with their slacks; trial comes next.

    at_low, at_high: the slacks, cut whenever the other end moves twice running (Anderson and Björck 1973); nan: none.
    rose: 1 where the last trial passed, -1 where it failed.
    """

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    trial: Tensor
    rose: Tensor

    @staticmethod
    def start(count: int, limit: float, guesses: Tensor | None) -> _Brackets:
        def full(value: float) -> Tensor:
            return torch.full((count,), value, dtype=torch.float64)

        halvings = full(6.0) if guesses is None else -torch.floor(torch.log2(guesses.double().cpu() / limit))
        first = limit * torch.exp2(-torch.nan_to_num(halvings, nan=6.0).clamp(0.0, MOST_HALVINGS))
        return _Brackets(full(0.0), full(torch.inf), full(torch.nan), full(torch.nan), first, full(0.0))

    def record(self, active: Tensor, slack: Tensor) -> None:
        slack = slack.double().to(self.low.device)
        passed = slack > 0
        up, down = active[passed], active[~passed]
        self.at_high[up] *= torch.where(self.rose[up] > 0, _share(slack[passed], self.at_low[up]), 1.0)
        self.at_low[down] *= torch.where(self.rose[down] < 0, _share(slack[~passed], self.at_high[down]), 1.0)
        self.rose[up], self.rose[down] = 1.0, -1.0
        self.low[up], self.at_low[up] = self.trial[up], slack[passed]
        self.high[down], self.at_high[down] = self.trial[down], slack[~passed]

    def advance(self, limit: float, tolerance: float, halve: bool) -> None:
        """Next trials. All lie on one dyadic grid, as fine as the bracket must come to: which of them is the largest to
        pass does not depend on the way there, nor on the last bits of a slack."""
        grid = limit * torch.exp2(torch.floor(torch.log2(tolerance * self.high / limit)))
        guess = self._middle() if halve else self._guess()
        steps = torch.round((guess - self.low) / grid)
        last = torch.round((self.high - self.low) / grid) - 1
        inside = torch.where(self.low > 0, self.low + grid * steps.clamp(min=1).minimum(last), self.high / 4)
        self.trial = torch.where(torch.isinf(self.high), torch.clamp(self.low * 2, max=limit), inside)

    def finished(self, limit: float, tolerance: float) -> Tensor:
        # a hair wider than the tolerance: rounding must not keep open a bracket that has no grid point inside
        narrow = torch.isfinite(self.high) & (self.high - self.low <= tolerance * self.high * (1 + 2.0**-40))
        return (self.low >= limit) | (self.high <= limit * 2.0**-24) | narrow

    def _middle(self) -> Tensor:
        return (self.low + self.high) / 2

    def _guess(self) -> Tensor:
        """Where the line through the slacks at both ends of a narrow bracket vanishes, else the middle."""
        share = self.at_low / (self.at_low - self.at_high)
        guess = self.low + share * (self.high - self.low)
        trusted = torch.isfinite(guess) & (self.high < SECANT_BRACKET_RATIO * self.low)
        return torch.where(trusted, guess, self._middle())


def _share(new: Tensor, old: Tensor) -> Tensor:
    """Of the slack kept at the end that did not move, when the other end's went from `old` to `new`."""
    share = 1 - new / old
    return torch.where((share > 0) & (share < 1), share, 0.5)

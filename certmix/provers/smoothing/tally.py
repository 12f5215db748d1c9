"""Counts of certifying draws, for one input under one or more plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certmix.provers.smoothing.plan import Counts, Plan
from proofs_check.rules import smoothing as rule
from proofs_check.rules import stopped
from verifiers.smoothing.sampling import Outputs

Array = NDArray[np.float64]
Evidence = rule.SmoothedDistribution | rule.SmoothedMeans | stopped.StoppedMeans

BLOCK_COUNT = 4  # counts are kept for so many equal runs of draws, so that a replay can redo one of them


@dataclass(frozen=True, eq=False)
class Tally:
    """counts[p][s]: (BLOCK_COUNT, thresholds) of plan p's statistic s. mean: (K,) of the selection draws."""

    batch_index: int
    mean: Array
    plans: tuple[Plan, ...]
    counts: tuple[tuple[Counts, ...], ...]

    @staticmethod
    def start(batch_index: int, mean: Array, plans: Sequence[Plan]) -> Tally:
        zero = tuple(tuple(np.zeros((BLOCK_COUNT, len(s.thresholds)), np.int64) for s in p.statistics) for p in plans)
        return Tally(batch_index, mean, tuple(plans), zero)

    def add(self, first: int, outputs: Outputs, block: int) -> None:
        """Count draws first, first + 1, …; `block` draws make a block."""
        while len(outputs):
            b = first // block
            size = min(len(outputs), (b + 1) * block - first)
            for plan, counts in zip(self.plans, self.counts, strict=True):
                for statistic, table in zip(plan.statistics, counts, strict=True):
                    table[b] += statistic.counts(outputs[:size], plan.predicted)
            first, outputs = first + size, outputs[size:]

    def totals(self, plan: int) -> list[Counts]:
        return [table.sum(axis=0) for table in self.counts[plan]]

    def evidence(
        self, plan: int, taken: rule.Sample | stopped.Stopped, lower: Sequence[Array], share: float, blocks: int
    ) -> Evidence:
        """The judge's form of the counts. lower: as from plan.lower_bounds; share: of each statement."""
        chosen = self.plans[plan]
        tables = [tuple(tuple(int(c) for c in block) for block in table[:blocks]) for table in self.counts[plan]]
        counted = list(zip(chosen.statistics, tables, lower, strict=True))
        if isinstance(taken, rule.Sample) and chosen.rule == "smoothed_distribution":
            tails = [rule.Tail(s.thresholds, t, tuple(map(float, p)), share) for s, t, p in counted]
            return rule.SmoothedDistribution(taken, tuple(map(rule.Rivals, chosen.groups, tails)))
        means = [rule.Mean(s.thresholds, t, s.bets, float(p[0]), share) for s, t, p in counted]
        of_rivals = means[1:] or [None] * len(chosen.groups)
        groups = tuple(map(rule.RivalMean, chosen.groups, of_rivals))
        if isinstance(taken, stopped.Stopped):
            return stopped.StoppedMeans(taken, means[0], groups)
        return rule.SmoothedMeans(taken, means[0], groups)


def block_size(samples: int) -> int:
    """Draws in each of the (at most BLOCK_COUNT) runs that counts are kept for."""
    return -(-samples // BLOCK_COUNT)

"""What to count on the certifying draws, decided from the selection draws alone.

A plan names the class, the rivals' groups, the thresholds and the stakes. Candidates are compared by the radius
they would reach if the certifying draws looked like the selection draws; choosing costs nothing, because no
certifying draw takes part in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from certmix.theorems import smoothing as theorem
from verifiers.smoothing import confidence

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Bound = Literal["best", "distributional", "direct", "theorem_3_7", "theorem_3_5", "theorem_3_5_paper"]
MeanKind = Literal["predicted", "complement"]
BOUNDS: tuple[Bound, ...] = ("best", "distributional", "direct", "theorem_3_7", "theorem_3_5", "theorem_3_5_paper")
MIX_BOUNDS: tuple[Bound, ...] = ("best", "distributional", "direct")  # where g is smoothed too

SINGLE_RIVALS = (0, 9)  # the strongest so many rivals are counted singly, the others by their maximum
THRESHOLD_COUNTS = (6, 16, 40)
MEAN_LEVELS = 48
MAX_RADIUS_LOSS = 0.005  # share of the expected radius that is given up for a shorter certificate
MAX_UNEASED_STATEMENTS = 12
EASED_SHARE = 0.9  # of the share, used where statements are more: their proofs then need no incomplete beta function
THRESHOLDS_PER_UNIT = 1e5  # thresholds are rounded down to five decimals


@dataclass(frozen=True)
class Statistic:
    """A number per draw, and the thresholds it is counted at (increasing).

    "difference": v̄_y − max of v̄ over classes, in [−1, 1]; "predicted": v̄_y; "complement": 1 − max of v̄ over classes.
    bets: stakes for a mean of values in [0, 1]; empty: Clopper–Pearson for each threshold.
    """

    kind: Literal["difference", "predicted", "complement"]
    classes: tuple[int, ...]
    thresholds: tuple[float, ...]
    bets: tuple[float, ...] = ()

    def counts(self, outputs: Array | Tensor, predicted: int) -> Counts:
        """Draws at or above each threshold: (k,). outputs: (B, K); a tensor is counted on its device."""
        if isinstance(outputs, Tensor):
            return self._counts_on_device(outputs, predicted)
        levels = np.searchsorted(self.thresholds, values(self.kind, outputs, predicted, self.classes), side="right")
        per_level = np.bincount(levels, minlength=len(self.thresholds) + 1)
        return np.cumsum(per_level[::-1])[::-1][1:]

    def _counts_on_device(self, outputs: Tensor, predicted: int) -> Counts:
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64, device=outputs.device)
        found = outputs[:, predicted]
        if self.kind != "predicted":
            top = outputs[:, list(self.classes)].amax(dim=1)
            found = found - top if self.kind == "difference" else 1 - top
        levels = torch.searchsorted(thresholds, found.contiguous(), right=True)
        per_level = torch.bincount(levels, minlength=len(self.thresholds) + 1)
        return per_level.flip(0).cumsum(0).flip(0)[1:].cpu().numpy()


def values(kind: str, outputs: Array, predicted: int, classes: tuple[int, ...]) -> Array:
    """The statistic's value of every draw, (B,)."""
    if kind == "predicted":
        return outputs[:, predicted]
    top = outputs[:, list(classes)].max(axis=1)
    return outputs[:, predicted] - top if kind == "difference" else 1 - top


@dataclass(frozen=True)
class Plan:
    """One candidate. rule "smoothed_distribution": statistics[g] is of groups[g]. "smoothed_means": statistics[0]
    is of v̄_y and statistics[1 + g] of groups[g]; without the latter the rivals are bounded by 1 − v_y. "stopped_means":
    likewise, by bets alone."""

    rule: Literal["smoothed_distribution", "smoothed_means", "stopped_means"]
    bound: Bound
    predicted: int
    groups: tuple[tuple[int, ...], ...]
    statistics: tuple[Statistic, ...]

    @property
    def statements(self) -> int:
        """How many confidence statements share the failure probability."""
        return sum(1 if s.bets else len(s.thresholds) for s in self.statistics)


def lower_bounds(plan: Plan, counts: Sequence[Counts], draws: int, share: float) -> list[Array]:
    """Per statistic: lower bounds of its tails (k,), or of its mean (1,). share: of each statement."""
    eased = sum(len(s.thresholds) for s in plan.statistics if not s.bets) > MAX_UNEASED_STATEMENTS
    result: list[Array] = []
    for statistic, tail in zip(plan.statistics, counts, strict=True):
        if statistic.bets:
            per_level = -np.diff(np.concatenate([[draws], tail, [0]]))
            levels = np.concatenate([[0.0], statistic.thresholds])
            result.append(np.array([confidence.betting_lower(levels, per_level, statistic.bets, share)]))
        else:
            result.append(confidence.clopper_pearson_lower(tail, draws, EASED_SHARE * share if eased else share))
    return result


def largest_shift(plan: Plan, lower: Sequence[Array], alpha: float, required: float) -> float:
    """The largest radius / σ that the plan's bound certifies from `lower`; -inf (or <= 0) if none."""
    if plan.rule == "smoothed_distribution":
        margin = theorem.distributional_margin([s.thresholds for s in plan.statistics], lower)
        return theorem.largest_shift(margin, required)
    of_y = float(lower[0][0])
    of_rivals = min((float(b[0]) for b in lower[1:]), default=of_y)
    if plan.bound == "theorem_3_7":
        return float(theorem.theorem_3_7_radius(of_y, 1 - of_rivals, alpha, 1.0))
    if plan.bound in ("theorem_3_5", "theorem_3_5_paper"):
        constant = "tight" if plan.bound == "theorem_3_5" else "paper"
        return float(theorem.theorem_3_5_radius(of_y, 1 - of_rivals, alpha, 1.0, constant))
    return theorem.direct_radius(of_y, of_rivals, required, 1.0)


def choose(outputs: Array, bound: Bound, draws: int, budget: float, alpha: float, required: float) -> Plan:
    """The shortest candidate within MAX_RADIUS_LOSS of the largest radius to be expected.

    outputs: (n0, K), selection draws.
    """
    plans = candidates(outputs, bound, draws, budget)
    expected = [expected_shift(p, outputs, draws, budget, alpha, required) for p in plans]
    largest = max(expected)
    least = largest - MAX_RADIUS_LOSS * abs(largest) if math.isfinite(largest) else largest
    return min((p for p, e in zip(plans, expected, strict=True) if e >= least), key=lambda p: p.statements)


def expected_shift(plan: Plan, outputs: Array, draws: int, budget: float, alpha: float, required: float) -> float:
    """The shift `plan` would reach on `draws` draws distributed like `outputs`, a little shrunk."""
    n = len(outputs)
    counts = [
        np.floor((s.counts(outputs, plan.predicted) * n / (n + 0.5)) * (draws / n)).astype(np.int64)
        for s in plan.statistics
    ]
    lower = lower_bounds(plan, counts, draws, confidence.split(budget, plan.statements))
    return largest_shift(plan, lower, alpha, required)


def candidates(outputs: Array, bound: Bound, draws: int, budget: float) -> list[Plan]:
    """Every plan for y = argmax of the mean output that `bound` allows; never empty."""
    mean = outputs.mean(axis=0)
    predicted = int(mean.argmax())
    rivals = [int(i) for i in np.argsort(-mean, kind="stable") if i != predicted]
    groupings = {_grouping(rivals, singles): None for singles in SINGLE_RIVALS}
    plans: list[Plan] = []
    if bound != "distributional":
        name: Bound = "direct" if bound == "best" else bound
        plans += [
            _means(outputs, predicted, g, own_bounds, name, draws, budget)
            for own_bounds in (False, True)
            for g in groupings
        ]
    if bound in ("best", "distributional"):
        plans += [_distribution(outputs, predicted, g, k) for g in groupings for k in THRESHOLD_COUNTS]
    return plans


def _grouping(rivals: list[int], singles: int) -> tuple[tuple[int, ...], ...]:
    others = tuple(rivals[singles:])
    return (*((i,) for i in rivals[:singles]), *((others,) if others else ()))


def _distribution(outputs: Array, predicted: int, groups: tuple[tuple[int, ...], ...], count: int) -> Plan:
    statistics = tuple(
        Statistic("difference", g, _thresholds(values("difference", outputs, predicted, g), count, -1.0))
        for g in groups
    )
    return Plan("smoothed_distribution", "distributional", predicted, groups, statistics)


def _means(
    outputs: Array,
    predicted: int,
    groups: tuple[tuple[int, ...], ...],
    own_bounds: bool,
    bound: Bound,
    draws: int,
    budget: float,
) -> Plan:
    """own_bounds: every group has its own bound, else all share 1 − v_y."""
    if not own_bounds:
        groups = (tuple(i for g in groups for i in g),)
    kinds: list[tuple[MeanKind, tuple[int, ...]]] = [("predicted", ())]
    if own_bounds:
        kinds.extend(("complement", g) for g in groups)
    statistics: list[Statistic] = []
    for kind, classes in kinds:
        of_draws = values(kind, outputs, predicted, classes)
        if bool(np.isin(of_draws, (0.0, 1.0)).all()):
            statistics.append(Statistic(kind, classes, (1.0,)))
        else:
            levels = _thresholds(of_draws, MEAN_LEVELS, 0.0)
            bets = confidence.choose_bets(of_draws, draws, confidence.split(budget, len(kinds)))
            statistics.append(Statistic(kind, classes, levels, bets))
    return Plan("smoothed_means", bound, predicted, groups, tuple(statistics))


def stopping(outputs: Array, shift: float, draws: int, budget: float, required: float) -> Plan:
    """The plan by bets that is expected to reach `shift` (radius / σ) in the fewest of at most `draws` draws, wherever
    it may then stop. outputs: (n0, K), selection draws."""
    mean = outputs.mean(axis=0)
    predicted = int(mean.argmax())
    rivals = [int(i) for i in np.argsort(-mean, kind="stable") if i != predicted]
    together, singly = (_grouping(rivals, singles) for singles in SINGLE_RIVALS)
    plans: dict[Plan, float] = {}
    for groups, own in ((together, False), (together, True), (singly, True)):
        kinds: list[tuple[MeanKind, tuple[int, ...]]] = [("predicted", ())]
        kinds.extend(("complement", g) for g in groups if own)
        samples = [values(kind, outputs, predicted, classes) for kind, classes in kinds]
        share = confidence.split(budget, len(kinds))
        statistics: list[Statistic] = []
        needed = 0.0
        for (kind, classes), sample, null in zip(kinds, samples, _nulls(samples, shift, required), strict=True):
            levels = (1.0,) if bool(np.isin(sample, (0.0, 1.0)).all()) else _thresholds(sample, MEAN_LEVELS, 0.0)
            counted = np.concatenate([[0.0], levels])[np.searchsorted(levels, sample, side="right")]
            bets, growth = confidence.bets_against(counted, null, draws, share)
            statistics.append(Statistic(kind, classes, levels, bets))
            needed = max(needed, math.log(1 / share) / max(growth, 1e-12))
        plans[Plan("stopped_means", "direct", predicted, groups, tuple(statistics))] = needed
    return min(plans, key=lambda p: plans[p])


def _nulls(samples: Sequence[Array], shift: float, required: float) -> list[float]:
    """What the means must be proven to exceed, so that ψ of the first plus ψ of any other (of itself, where there is no
    other), less 1, is `required`: for the tightest pair equally many standard deviations below the samples' means."""
    first, others = samples[0], samples[1:] or samples[:1]

    def mean(x: Array, t: float) -> float:
        return float(np.clip(x.mean() - t * (x.std() + 1e-3), 1e-9, 1 - 1e-9))

    def sunk(p: float) -> float:
        return float(ndtr(ndtri(p) - shift))

    low, high = 0.0, 1e4
    for _ in range(60):
        t = (low + high) / 2
        low, high = (
            (t, high) if sunk(mean(first, t)) + min(sunk(mean(x, t)) for x in others) - 1 > required else (low, t)
        )
    of_first = mean(first, low)
    of_others = float(ndtr(ndtri(np.clip(1 + required - sunk(of_first), 1e-9, 1 - 1e-9)) + shift))
    return [of_first, *[min(of_others, 1 - 1e-9)] * (len(samples) - 1)]


def _thresholds(sample: Array, count: int, start: float) -> tuple[float, ...]:
    """At most `count` quantiles of the sample, dense where nearly all draws exceed them; in (start, 1]."""
    order = np.sort(sample)
    n = len(order)
    exceeding = ndtr(np.linspace(-2.2, 3.3, count))  # P[value >= threshold] aimed at
    picked = order[np.minimum(np.floor((1 - exceeding) * n).astype(int), n - 1)]
    rounded = np.unique(np.floor(picked * THRESHOLDS_PER_UNIT) / THRESHOLDS_PER_UNIT)
    above_start = tuple(float(s) for s in rounded if s > start)
    return above_start or ((1.0 + start) / 2,)


def share_of(probability: float, reserved: float) -> float:
    """What is left of the failure probability, rounded down."""
    return math.nextafter((probability - reserved) * (1 - 2**-40), 0.0)

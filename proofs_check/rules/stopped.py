"""Randomised smoothing whose draws may stop at any time (docs/maths.md 5d): means that bets prove at all times at once.

Notation and grid as in rules/smoothing.py. No look costs a share: by Ville's inequality the capital of bets against the
true mean ever reaches 1/share with probability at most share, however many draws there are, and whatever ends them.

Precondition: a claim about a smoothed classifier; shares and bets fixed beforehand, the number of draws not.
Postcondition: it holds but with probability β, given the assumptions returned. Charged: nothing is rounded but inside
Arb balls; shares are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from flint import arb

from proofs_check.certificate import Assumption, Claim, need
from proofs_check.rules.case import Case
from proofs_check.rules.smoothing import ASSUMPTIONS, Mean, RivalMean, need_cover, need_margin, need_mean, scope, sunk


@dataclass(frozen=True)
class Stopped:
    """The certifying draws: the first `samples` of at most `most`. The others as in smoothing.Sample."""

    seed: int
    selection: int
    precision: Literal["float32", "bfloat16"]
    samples: int
    most: int
    sampler_share: float


@dataclass(frozen=True)
class StoppedMeans:
    """(5a) from bounds of the means, all by bets; `predicted` speaks of v̄_y."""

    sample: Stopped
    predicted: Mean
    groups: tuple[RivalMean, ...]


def stopped_means(claim: Claim, evidence: StoppedMeans, case: Case) -> frozenset[Assumption]:
    """v_y − v_i >= ψ(v_y) − (1 − ψ(1 − v_i)) on the ball, wherever sampling stopped."""
    smoothing, shift = scope(claim, case)
    need_cover(claim, case, [g.classes for g in evidence.groups])
    means = [evidence.predicted, *(g.complement for g in evidence.groups if g.complement is not None)]
    taken, total = evidence.sample, sum(Fraction(m.share) for m in means)
    positive = all(m.share > 0 for m in means) and taken.sampler_share >= 0
    need(positive, "split", "every share must be > 0, sampler_share >= 0")
    within = total + Fraction(taken.sampler_share) <= Fraction(smoothing.failure_probability)
    need(within, "split", "shares add up to more than failure_probability")
    need(1 <= taken.samples <= taken.most <= 2**40, "samples", "must lie in [1, most], most in [1, 2^40]")
    for mean in means:
        need(len(mean.bets) > 0, "confidence", "only bets prove a mean at all times at once")
        need_mean(mean, taken.samples)
    of_y = sunk(arb(evidence.predicted.lower), shift)
    for group in evidence.groups:
        need_margin(claim, of_y + (of_y if group.complement is None else sunk(arb(group.complement.lower), shift)) - 1)
    return ASSUMPTIONS

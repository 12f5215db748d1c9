"""Randomised smoothing (docs/maths.md 5, 6): from counts of noisy outputs to the claim, except with probability β.

Notation: y the predicted class, ψ(p) = Φ(Φ⁻¹(p) − s) with s = (radius + distance of x to the noise's grid) / σ:
what a probability p at the grid point can sink to on the ball. v̄ is the smoothed base output: h̄, or
(1−α)ḡ + αh̄ where both networks are smoothed. Every comparison is of Arb balls or of exact fractions.

Why the grid: h̄∘q is a function of the rounded point only and the centre is on the grid, so rounding the noise
instead of the sum changes nothing, and no floating-point sum ever decides a draw.

Precondition: a claim about a smoothed classifier; shares and looks fixed beforehand. Postcondition: it holds but with
probability β, given the assumptions returned. Charged: nothing is rounded but inside Arb balls; shares are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
from flint import arb, ctx

from proofs_check.certificate import Assumption, Claim, RejectedError, Smoothing, need
from proofs_check.kernel.norms import NORMS
from proofs_check.kernel.rounding import normal_cdf, normal_quantile
from proofs_check.rules.case import Case, signature


@dataclass(frozen=True)
class Look:
    """A point at which sampling might have stopped, fixed beforehand: draws so far, its share of β."""

    samples: int
    share: float


@dataclass(frozen=True)
class Sample:
    """The certifying draws: all of looks[look]. sampler_share: of β, for a sampler that is not quite exact.

    seed, selection (draws that fixed the plan), precision: what a replay needs.
    """

    seed: int
    selection: int
    precision: Literal["float32", "bfloat16"]
    looks: tuple[Look, ...]
    look: int
    sampler_share: float


@dataclass(frozen=True)
class Tail:
    """counts[b][k]: draws of block b with value >= thresholds[k]. Stated: P[value >= thresholds[k]] >= lower[k],
    each at its own `share` of β. Blocks (equal runs of draws) exist for replay; only their sum matters here."""

    thresholds: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    lower: tuple[float, ...]
    share: float


@dataclass(frozen=True)
class Rivals:
    """The value counted: v̄_y − max of v̄ over `classes`, in [−1, 1]."""

    classes: tuple[int, ...]
    tail: Tail


@dataclass(frozen=True)
class SmoothedDistribution:
    """(5b) per group of rivals; hard votes with thresholds 0 and 1 are (5a)."""

    sample: Sample
    groups: tuple[Rivals, ...]


@dataclass(frozen=True)
class Mean:
    """Stated: E value >= lower at `share` of β, value in [0, 1]; counts as in Tail.

    bets: stakes λ fixed beforehand; the mean of the capitals Π(1 + λ(value − lower)) has reached 1/share.
    """

    thresholds: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    bets: tuple[float, ...]
    lower: float
    share: float


@dataclass(frozen=True)
class RivalMean:
    """complement: of the value 1 − max of v̄ over `classes`; None: Σ v̄ = 1 bounds them by 1 − v_y."""

    classes: tuple[int, ...]
    complement: Mean | None


@dataclass(frozen=True)
class SmoothedMeans:
    """(5a) from bounds of the means; `predicted` speaks of v̄_y."""

    sample: Sample
    predicted: Mean
    groups: tuple[RivalMean, ...]


ASSUMPTIONS = frozenset({Assumption.SAMPLES_IID, Assumption.COUNTS_TRUSTED, Assumption.REAL_ARITHMETIC_BASE})
MAX_BETS = 2**6  # each costs as many logarithms as there are thresholds
BITS = 64  # of an incomplete beta function: ten times faster than rounding.PRECISION, and as rigorous


def smoothed_distribution(claim: Claim, evidence: SmoothedDistribution, case: Case) -> frozenset[Assumption]:
    """(5b): v_y − v_i >= −1 + Σ_k (s_k − s_{k−1}) ψ(T_i(s_k)) on the ball, s_0 = −1."""
    smoothing, shift = scope(claim, case)
    need_cover(claim, case, [g.classes for g in evidence.groups])
    tails = [g.tail for g in evidence.groups]
    draws = _need_split(smoothing, evidence.sample, [Fraction(t.share) * len(t.thresholds) for t in tails])
    for tail in tails:
        totals = _totals(tail.thresholds, tail.counts, draws, -1.0)
        need(len(tail.lower) == len(totals), "counts", "one lower bound per threshold")
        for count, lower in zip(totals, tail.lower, strict=True):
            _need_tail(count, draws, lower, tail.share)
        steps = [arb(b) - arb(a) for a, b in pairwise((-1.0, *tail.thresholds))]
        terms = [step * sunk(arb(p), shift) for step, p in zip(steps, tail.lower, strict=True)]
        need_margin(claim, sum(terms, arb(-1)))
    return ASSUMPTIONS


def smoothed_means(claim: Claim, evidence: SmoothedMeans, case: Case) -> frozenset[Assumption]:
    """(5a): v_y − v_i >= ψ(v_y) − (1 − ψ(1 − v_i)) on the ball. Implies Theorems 3.5 (Gaussian) and 3.7."""
    smoothing, shift = scope(claim, case)
    need_cover(claim, case, [g.classes for g in evidence.groups])
    means = [evidence.predicted, *(g.complement for g in evidence.groups if g.complement is not None)]
    draws = _need_split(smoothing, evidence.sample, [Fraction(m.share) for m in means])
    for mean in means:
        need_mean(mean, draws)
    of_y = sunk(arb(evidence.predicted.lower), shift)
    for group in evidence.groups:
        need_margin(claim, of_y + (of_y if group.complement is None else sunk(arb(group.complement.lower), shift)) - 1)
    return ASSUMPTIONS


def scope(claim: Claim, case: Case) -> tuple[Smoothing, arb]:
    """Hypotheses of every smoothing rule, and s."""
    if claim.smoothing is None:
        raise RejectedError("smoothing", "the claim speaks of no smoothed classifier")
    need(NORMS[claim.norm].euclidean, "norm", f"Gaussian smoothing certifies l2 balls, got {claim.norm}")
    if claim.smoothing.networks == "both":
        need(None not in (claim.standard, case.g), "standard", "must be named and at hand to be smoothed")
        need(claim.class_of == "mix", "class_of", "smoothing both networks certifies the mix's class")
    return claim.smoothing, _shift(claim, claim.smoothing, case)


def _shift(claim: Claim, smoothing: Smoothing, case: Case) -> arb:
    """(radius + ‖x − m/grid‖₂) / σ, m = rint(x grid): the product of 24 by 17 bits and the rest are exact doubles."""
    scaled = case.input.astype(np.float64).ravel() * smoothing.grid
    off_grid = scaled - np.rint(scaled)
    distance = sum((arb(float(v)) ** 2 for v in off_grid[off_grid != 0]), arb(0)).sqrt() / smoothing.grid
    return (arb(claim.radius) + distance) / arb(smoothing.noise_std)


def need_cover(claim: Claim, case: Case, groups: list[tuple[int, ...]]) -> None:
    """The groups name every rival of y, and nothing else."""
    rivals, classes = {i for group in groups for i in group}, signature(case.h).classes
    exact = len(rivals) == classes - 1 and claim.predicted not in rivals and all(0 <= i < classes for i in rivals)
    need(exact and all(groups), "groups", f"must name exactly the rivals of {claim.predicted}")


def _need_split(smoothing: Smoothing, sample: Sample, shares: list[Fraction]) -> int:
    """Union bound over looks, and over the statements made at the look taken. The number of draws."""
    looks = sample.looks
    need(0 <= sample.look < len(looks), "split", f"look {sample.look} is not one of the {len(looks)} planned")
    positive = all(s > 0 for s in (*shares, *(x.share for x in looks))) and sample.sampler_share >= 0
    need(positive, "split", "every share must be > 0, sampler_share >= 0")
    need(sum(shares) <= Fraction(looks[sample.look].share), "split", "statements use more than their look's share")
    total = sum((Fraction(x.share) for x in looks), Fraction(sample.sampler_share))
    need(total <= Fraction(smoothing.failure_probability), "split", "shares add up to more than failure_probability")
    need(1 <= looks[sample.look].samples <= 2**40, "samples", "must lie in [1, 2^40]")
    return looks[sample.look].samples


def _totals(thresholds: tuple[float, ...], counts: tuple[tuple[int, ...], ...], draws: int, start: float) -> list[int]:
    """Draws at or above each threshold; start < thresholds, increasing, <= 1; counts decrease from `draws`."""
    rising = all(a < b for a, b in pairwise((start, *thresholds))) and start < max(thresholds, default=start) <= 1
    need(rising, "thresholds", f"must be there and increase from {start} to 1 at most")
    need(len(counts) > 0 and all(len(c) == len(thresholds) for c in counts), "counts", "one per threshold and block")
    need(all(a >= b >= 0 for c in counts for a, b in zip(c, (*c[1:], 0), strict=True)), "counts", "must not increase")
    totals = [sum(column) for column in zip(*counts, strict=True)]
    need(totals[0] <= draws, "counts", f"{totals[0]} exceeds the {draws} draws")
    return totals


def _need_tail(count: int, draws: int, lower: float, share: float) -> None:
    """Clopper–Pearson: P[Bin(draws, lower) >= count] <= share."""
    possible = 0 <= lower < 1 and (count > 0 or lower == 0)
    need(possible, "confidence", f"lower bound {lower} is not a probability below 1, or from no draw at all")
    if lower > 0:
        with ctx.workprec(BITS):
            enough = _tail_up(count, draws, lower) <= arb(share)
            enough = enough or arb(lower).beta_lower(count, draws - count + 1, 1) <= arb(share)
        need(enough, "confidence", f"{count} of {draws} draws do not prove {lower} at share {share}")


def _tail_up(count: int, draws: int, p: float) -> arb:
    """Upper bound of P[Bin(draws, p) >= count], much cheaper than the incomplete beta function that it is: the first
    term over 1 − the ratio of the second to the first, because these ratios fall; 1 before the mode."""
    with ctx.workprec(2 * BITS):
        ratio = arb(draws - count) / (count + 1) * arb(p) / (1 - arb(p))
        choices = arb(draws + 1).lgamma() - arb(count + 1).lgamma() - arb(draws - count + 1).lgamma()
        first = (choices + count * arb(p).log() + (draws - count) * (1 - arb(p)).log()).exp()
        return first / (1 - ratio) if ratio < 1 else arb(1)


def need_mean(mean: Mean, draws: int) -> None:
    """Clopper–Pearson where only value >= 1 is counted and nothing is bet; else Markov's inequality on capital."""
    totals = _totals(mean.thresholds, mean.counts, draws, 0.0)
    if mean.bets:
        return _need_capital(mean, draws, totals)
    need(mean.thresholds == (1.0,), "confidence", "a mean without bets counts value >= 1 only")
    return _need_tail(totals[0], draws, mean.lower, mean.share)


def _need_capital(mean: Mean, draws: int, totals: list[int]) -> None:
    """The mean over the bets of Π(1 + λ(value − lower)) has reached 1/share; values count as the thresholds below."""
    need(len(mean.bets) <= MAX_BETS, "confidence", f"at most {MAX_BETS} bets are multiplied out")
    safe = 0 < mean.lower < 1 and all(b > 0 and Fraction(b) * Fraction(mean.lower) < 1 for b in mean.bets)
    need(safe, "confidence", f"a bet risks ruin, or the lower bound {mean.lower} is not inside (0, 1)")
    steps = zip((draws, *totals), (*totals, 0), (0.0, *mean.thresholds), strict=True)
    cells = [(a - b, arb(v) - arb(mean.lower)) for a, b, v in steps]
    capital = sum((sum((c * (1 + arb(b) * gain).log() for c, gain in cells), arb(0)).exp() for b in mean.bets), arb(0))
    need(capital * arb(mean.share) >= len(mean.bets), "confidence", f"the capital does not prove {mean.lower}")


def sunk(p: arb, shift: arb) -> arb:
    """ψ(p) = Φ(Φ⁻¹(p) − shift), 0 at p = 0."""
    return normal_cdf(normal_quantile(p) - shift) if p > 0 else arb(0)


def need_margin(claim: Claim, margin: arb) -> None:
    """Lemma 3.2: α margin > 1 − α; where v̄ is the mix itself, margin > 0."""
    both = claim.smoothing is not None and claim.smoothing.networks == "both"
    proven = margin > 0 if both else arb(claim.alpha) * margin > 1 - arb(claim.alpha)
    need(proven, "radius", f"the margin {margin.str(6)} on the ball does not exceed the required one")

"""Margin rules: Lemma 3.2 from logit-difference bounds (docs/maths.md 2, 3), and the pair form (docs/maths.md 6).

Notation: y the predicted class, d_j = z_j - z_y the logit differences of a network (d_y = 0), T the
temperature of h (1 for g), e_j = exp(T d_j). All comparisons are of Arb balls, hence proven or not made.

Precondition: a claim tied to the networks at hand. Postcondition: it holds, given the assumptions returned.
Charged: nothing here; bounds of d_j carry their own rounding, exponentials and their sums are Arb balls.
"""

from __future__ import annotations

from dataclasses import dataclass

from flint import arb

from proofs_check.certificate import Assumption, Claim, RejectedError, need
from proofs_check.kernel.rounding import Array
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import (
    Box,
    EngineBounds,
    differences,
    engine_bounds,
    exponentials,
    need_class,
    rivals,
)
from proofs_check.rules.margin.exponential import exponential_misses


@dataclass(frozen=True)
class EngineMargin(EngineBounds):
    """Nothing more."""


@dataclass(frozen=True)
class NetworkMargin:
    """Nothing but slopes: base64 of a zlib stream of uint8 (FORMAT.md), or None for the default slopes."""

    witness: str | None


@dataclass(frozen=True)
class PairMargin:
    """Slopes for h and for g, each as in NetworkMargin."""

    robust_witness: str | None
    standard_witness: str | None


# ---------------------------------------------------------------- Lemma 3.2


def box_proves(upper: Array, rival: int, claim: Claim) -> bool:
    """(3a), times alpha: alpha (1 - e_i) > (1 - alpha) (1 + sum_{j != y} e_j) at d = upper, with u_i <= 0."""
    if not upper[rival] <= 0:
        return False
    e = exponentials(upper, claim.temperature, claim.predicted)
    alpha = arb(claim.alpha)
    return bool(alpha * (1 - e[rival]) > (1 - alpha) * sum(e, arb(0)))


def engine_margin(claim: Claim, evidence: EngineMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2 from the engine's bounds: everything is re-derived but the bounds themselves."""
    _, upper = engine_bounds(claim, evidence, case)
    for rival in rivals(claim, len(upper)):
        need(box_proves(upper, rival, claim), "margin", f"rival {rival}: bounds do not exceed the required margin")
    return frozenset({Assumption.ENGINE_TRUSTED})


def network_margin(claim: Claim, evidence: NetworkMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2 from bounds derived here: box form, else exponential form, for every rival."""
    d_bounds = differences(case.robust, evidence.witness, case, claim)
    need_class(case, claim, d_bounds.upper)
    unproven = [i for i in rivals(claim, case.robust.network.classes) if not box_proves(d_bounds.upper, i, claim)]
    missed = exponential_misses(d_bounds, unproven, claim)
    need(not missed, "margin", f"rivals {missed}: margin is not proven to exceed the required one")
    return frozenset()


# ---------------------------------------------------------------- using g too (docs/maths.md 6)


def margin_lower(d_bounds: Box, rival: int, temperature: float, y: int) -> arb:
    """An Arb ball whose lower end bounds h_y - h_rival from below over the box of d (docs/maths.md 3a, both cases)."""
    upper = exponentials(d_bounds.upper, temperature, y)
    if d_bounds.upper[rival] <= 0:
        return (1 - upper[rival]) / sum(upper, arb(0))
    lower = exponentials(d_bounds.lower, temperature, y)
    others = sum((e for j, e in enumerate(lower) if j not in (y, rival)), arb(0))
    return (1 - upper[rival]) / (1 + upper[rival] + others)


def pair_margin(claim: Claim, evidence: PairMargin, case: Case) -> frozenset[Assumption]:
    """(1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0 for every rival i; or Lemma 3.2 where it is enough."""
    standard = case.standard
    if standard is None or claim.standard is None:
        raise RejectedError("standard", "this rule needs the standard model as a plain network")
    h = differences(case.robust, evidence.robust_witness, case, claim)
    g = differences(standard, evidence.standard_witness, case, claim)
    if claim.class_of == "robust":
        need_class(case, claim, h.upper)
    alpha = arb(claim.alpha)
    for i in rivals(claim, case.robust.network.classes):
        of_g = margin_lower(g, i, 1.0, claim.predicted)
        of_h = margin_lower(h, i, claim.temperature, claim.predicted)
        of_mix = (1 - alpha) * of_g + alpha * of_h
        need(of_mix > 0 or box_proves(h.upper, i, claim), "margin", f"rival {i}: the mix's margin is not proven")
    return frozenset()

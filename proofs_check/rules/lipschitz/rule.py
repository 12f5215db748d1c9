"""Lipschitz rules: Theorem 3.5 and its stronger form through the logits (docs/maths.md 4).

d_j = z_j - z_y; L_j: a Lipschitz constant of d_j in the claim's norm, on a set that holds the claimed ball
(anchored constants of that very ball, or global ones); T the temperature, m_i = h_y - h_i.

Precondition: a claim tied to the networks at hand. Postcondition: it holds, given the assumptions returned.
Charged: constants and d_j(x) carry their own rounding; L_j r and its sum with d_j(x) are rounded up; the rest is Arb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flint import arb

from proofs_check.certificate import Assumption, Claim, need
from proofs_check.kernel import bounds, jacobian
from proofs_check.kernel.rounding import Array, product_up, sum_up
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.joint import joint_proves
from proofs_check.rules.margin.differences import EngineBounds, engine_bounds, exponentials, need_class, rivals, slopes
from proofs_check.rules.margin.rule import box_proves

Theorem = Literal["3.5", "4a"]
JointTheorem = Literal["3.5", "4a", "4b"]


@dataclass(frozen=True)
class LocalLipschitz:
    """constants: L_j on the claimed ball, entry y is 0; re-derived here. witness: as in NetworkMargin."""

    theorem: Theorem
    constants: tuple[float, ...]
    witness: str | None


@dataclass(frozen=True)
class RelaxedLipschitz:
    """Relaxed local constants on the claimed ball, re-derived here from bounds of d_j. witness: as in NetworkMargin."""

    witness: str | None


@dataclass(frozen=True)
class EngineRelaxedLipschitz(EngineBounds):
    """The same from an engine's bounds."""


def premises(claim: Claim, case: Case) -> tuple[Array, Array]:
    """What every Lipschitz rule needs: (lower, upper) bounds of d_j at x itself, with y the strict argmax of h(x)."""
    at_x = bounds.difference_bounds(case.robust, case.point(claim), claim.predicted, None)
    need_class(case, claim, at_x[1])
    return at_x


def stated_constants(claim: Claim, stated: tuple[float, ...], prepared: bounds.Prepared) -> Array:
    """The stated constants, well formed: K of them, >= 0, entry y zero."""
    classes = prepared.network.classes
    need(len(stated) == classes, "constants", f"must have {classes} entries, got {len(stated)}")
    constants = np.array(stated)
    need((constants >= 0).all(), "constants", f"must be >= 0, got {constants.min()}")
    need(constants[claim.predicted] == 0, "constants", "entry of the predicted class must be 0")
    return constants


def need_derived(stated: Array, derived: Sequence[float]) -> Array:
    """The stated constants, where each is at least the derived one."""
    for j, (value, proven) in enumerate(zip(stated.tolist(), derived, strict=True)):
        need(proven <= value, "constants", f"class {j}: {value} is below the proven bound {proven}")
    return stated


def need_theorem(
    claim: Claim, theorem: JointTheorem, at_x: Array, constants: Array, joint: float | None = None
) -> None:
    """The theorem proves the claim from upper bounds of d_j(x) and proven constants L_j. joint: an l2 constant of all
    logits less their mean, which "4b" needs where (4a) is not enough."""
    with np.errstate(over="ignore"):  # a constant may be as large as a double
        upper = sum_up(at_x, product_up(constants, claim.radius))
    for i in rivals(claim, len(at_x)):
        if theorem == "3.5":
            proven = _difference_form(claim, at_x, constants, i)
        else:
            proven = box_proves(upper, i, claim) or (joint is not None and joint_proves(at_x, i, claim, joint))
        need(proven, "margin", f"rival {i}: Theorem {theorem} does not reach radius {claim.radius}")


def _difference_form(claim: Claim, at_x: Array, constants: Array, rival: int) -> bool:
    """Thm 3.5 with Lip(h_y - h_i) in place of the sum: alpha (m_i(x) - r Lip) > 1 - alpha.

    While m_i >= 0, Lip(m_i) <= T max(L_i / 2, L_o / 4), L_o the largest constant of the other rivals: |dm_i/dd_i| =
    h_i (1 + m_i) and |dm_i/dd_j| = h_j m_i, h_y + h_i between m_i and 1 (docs/maths.md 4).
    """
    e = exponentials(at_x, claim.temperature, claim.predicted)
    alpha = arb(claim.alpha)
    slope = max(float(constants[rival]) / 2, float(np.delete(constants, rival).max()) / 4)
    spent = alpha * arb(claim.radius) * arb(claim.temperature) * arb(slope)
    # m_i(x) = (1 - e_i) / sum_j e_j, decreasing in every d_j as long as d_i <= 0 (3a); y has e_y = 1
    return bool(at_x[rival] <= 0 and alpha * (1 - e[rival]) > (1 - alpha + spent) * sum(e, arb(0)))


def local_lipschitz(claim: Claim, evidence: LocalLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5 or (4a) with anchored constants of the claimed ball: r = min(r, eps) at eps = r."""
    _, at_x = premises(claim, case)
    need_theorem(claim, evidence.theorem, at_x, anchored_constants(claim, evidence, case.robust, case))
    return frozenset()


def anchored_constants(claim: Claim, evidence: LocalLipschitz, prepared: bounds.Prepared, case: Case) -> Array:
    """Those stated of a network's d_j on the claimed ball, proven."""
    stated = stated_constants(claim, evidence.constants, prepared)
    values = bounds.value_bounds(prepared, case.ball(claim), slopes(evidence.witness, prepared))
    return need_derived(stated, jacobian.difference_constants(values, claim.predicted).tolist())


# ---------------------------------------------------------------- relaxed local constants


def relaxed_lipschitz(claim: Claim, evidence: RelaxedLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5 at its fixed point with bounds derived here."""
    premises(claim, case)
    witness = slopes(evidence.witness, case.robust)
    need_fixed_point(claim, *bounds.difference_bounds(case.robust, case.ball(claim), claim.predicted, witness))
    return frozenset()


def engine_relaxed_lipschitz(claim: Claim, evidence: EngineRelaxedLipschitz, case: Case) -> frozenset[Assumption]:
    """Theorem 3.5 at its fixed point with the engine's bounds: everything is re-derived but the bounds themselves."""
    need_fixed_point(claim, *engine_bounds(claim, evidence, case))
    return frozenset({Assumption.ENGINE_TRUSTED})


def need_fixed_point(claim: Claim, lower: Array, upper: Array) -> None:
    """r >= eps at eps = r, from relaxed constants: alpha (inf h_y - sup h_i) > 1 - alpha over the box of d.

    inf h_y = 1 / sum_j exp(T u_j), sup h_i = exp(T u_i) / (exp(T u_i) + sum_(j != i) exp(T l_j)), l_y = u_y = 0.
    """
    e_low, e_up = (exponentials(b, claim.temperature, claim.predicted) for b in (lower, upper))
    alpha, least = arb(claim.alpha), 1 / sum(e_up, arb(0))
    for i in range(len(upper)):
        if i != claim.predicted:
            others = sum((e for j, e in enumerate(e_low) if j != i), arb(0))
            most = e_up[i] / (e_up[i] + others)
            need(alpha * (least - most) > 1 - alpha, "margin", f"rival {i}: relaxed constants do not reach the radius")

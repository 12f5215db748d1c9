"""Both networks by Lipschitz constants, in section 6's form: (1 - alpha) (g_y - g_i) + alpha (h_y - h_i) > 0.

Each margin is bounded over d_j(x) - L_j r <= d_j <= d_j(x) + L_j r, of either sign (3a), or from one constant of all
logits (docs/maths.md 4b): so alpha may be anything in [0, 1], and y is the mix's class.

Precondition: a claim tied to the networks at hand. Postcondition: it holds, with no assumption.
Charged: constants and d_j(x) carry their own rounding; L_j r and its sums with d_j(x) are rounded outward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb

from proofs_check.certificate import Assumption, Claim, RejectedError, need
from proofs_check.kernel.bounds import Prepared, difference_bounds
from proofs_check.kernel.rounding import Array, product_up, sum_up
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.joint import joint_margin
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz, constants_of_layers, joint_constant
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz, semidefinite_constants
from proofs_check.rules.lipschitz.rule import LocalLipschitz, anchored_constants
from proofs_check.rules.margin.differences import Box, need_class, rivals
from proofs_check.rules.margin.rule import margin_lower

Constants = LayerLipschitz | LocalLipschitz | GlobalLipschitz
PROVEN: dict[type, Callable[[Claim, Any, Prepared, Case], Array]] = {
    LayerLipschitz: constants_of_layers,
    LocalLipschitz: anchored_constants,
    GlobalLipschitz: semidefinite_constants,
}


@dataclass(frozen=True)
class PairLipschitz:
    """Constants of h and of g; and, per class i, what h_y - h_i and g_y - g_i are at least (entry y is not read)."""

    robust: Constants
    standard: Constants
    robust_margins: tuple[float, ...]
    standard_margins: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the networks: T, d_j at x and on the ball, and s, from a joint constant, where the evidence names it."""

    temperature: float
    at_x: Box
    on_ball: Box
    reach: arb | None

    def exceeds(self, y: int, rival: int, margin: float) -> bool:
        """p_y - p_rival >= margin on the ball."""
        if margin <= -1 or margin_lower(self.on_ball, rival, self.temperature, y) >= arb(margin):
            return True
        return self.reach is not None and joint_margin(self.at_x, y, rival, margin, self.temperature, self.reach)


def pair_lipschitz(claim: Claim, evidence: PairLipschitz, case: Case) -> frozenset[Assumption]:
    """Stated margins are proven of both networks, and together they are enough."""
    if case.standard is None or claim.standard is None:
        raise RejectedError("standard", "this rule needs the standard model as a plain network")
    h = _side(claim, evidence.robust, case.robust, case, claim.temperature)
    g = _side(claim, evidence.standard, case.standard, case, 1.0)
    if claim.class_of == "robust":
        need_class(case, claim, h.at_x.upper)
    classes, alpha = case.robust.network.classes, arb(claim.alpha)
    for margins in (evidence.robust_margins, evidence.standard_margins):
        need(len(margins) == classes, "margins", f"must have {classes} entries, got {len(margins)}")
    for i in rivals(claim, classes):
        of_h, of_g = evidence.robust_margins[i], evidence.standard_margins[i]
        need((1 - alpha) * arb(of_g) + alpha * arb(of_h) > 0, "margin", f"rival {i}: the stated margins are not enough")
        need(h.exceeds(claim.predicted, i, of_h), "margin", f"rival {i}: h's margin {of_h} is not proven")
        need(g.exceeds(claim.predicted, i, of_g), "margin", f"rival {i}: g's margin {of_g} is not proven")
    return frozenset()


def _side(claim: Claim, evidence: Constants, prepared: Prepared, case: Case, temperature: float) -> Side:
    need(evidence.theorem != "3.5", "theorem", "of two networks 3.5 proves nothing that 4a does not")
    constants = PROVEN[type(evidence)](claim, evidence, prepared, case)
    lower, upper = difference_bounds(prepared, case.point(claim), claim.predicted, None)
    with np.errstate(over="ignore"):  # a constant may be as large as a double
        moved = product_up(constants, claim.radius)
        on_ball = Box(-sum_up(-lower, moved), sum_up(upper, moved))
    reach = None
    if evidence.theorem == "4b":
        reach = arb(temperature) * arb(joint_constant(prepared, claim.norm)) * arb(claim.radius)
    return Side(temperature, Box(lower, upper), on_ball, reach)

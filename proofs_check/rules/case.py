"""What a claim is judged against: the networks and the input themselves, not their digests.

Precondition: `judge` tied the claim to them. Postcondition: balls of the claim's own set. Charged: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from proofs_check.certificate import Claim, Float32Array
from proofs_check.kernel.bounds import Ball, Prepared


@dataclass(frozen=True, eq=False)
class Case:
    """robust, standard, alpha: prepared networks (None: not available). input: (shape) float32."""

    robust: Prepared
    standard: Prepared | None
    input: Float32Array
    alpha: Prepared | None = None

    def ball(self, claim: Claim) -> Ball:
        """The claimed perturbation set around the input."""
        return Ball(self.input, claim.radius, claim.norm, claim.domain)

    def point(self, claim: Claim) -> Ball:
        """The input alone."""
        return Ball(self.input, 0.0, claim.norm, claim.domain)

"""What a claim is judged against: the networks and the input themselves, not their digests.

Precondition: `judge` tied the claim to them. Postcondition: balls of the claim's own set. Charged: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from proofs_check.certificate import Claim, Digest, Float32Array, ModelFile, PlainNetwork, RejectedError
from proofs_check.kernel.bounds import Ball, Prepared

Model = Prepared | ModelFile


def signature(model: Model) -> PlainNetwork | ModelFile:
    """What says how many classes it has, and of what shape its inputs are."""
    return model if isinstance(model, ModelFile) else model.network


def named(model: Model) -> Digest | ModelFile:
    """What a claim calls it."""
    return model if isinstance(model, ModelFile) else model.network.sha256


def _network(model: Model, step: str) -> Prepared:
    if isinstance(model, ModelFile):
        raise RejectedError(step, "is a model's file and no plain network: nothing is derived from it")
    return model


@dataclass(frozen=True, eq=False)
class Case:
    """h, g: prepared networks or files of models; alpha: a prepared network (None: not available). input: (shape)
    float32."""

    h: Model
    g: Model | None
    input: Float32Array
    alpha: Prepared | None = None

    @property
    def robust(self) -> Prepared:
        """h for a rule that derives something from it. Raises RejectedError where it is no network."""
        return _network(self.h, "robust")

    @property
    def standard(self) -> Prepared | None:
        """g likewise."""
        return None if self.g is None else _network(self.g, "standard")

    def ball(self, claim: Claim) -> Ball:
        """The claimed perturbation set around the input."""
        return Ball(self.input, claim.radius, claim.norm, claim.domain)

    def point(self, claim: Claim) -> Ball:
        """The input alone."""
        return Ball(self.input, 0.0, claim.norm, claim.domain)

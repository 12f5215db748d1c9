"""From a parsed certificate and the things it speaks of to a verdict. No I/O, no search."""

from __future__ import annotations

import numpy as np

from proofs_check import parse
from proofs_check.bounds import prepare
from proofs_check.certificate import (
    Accepted,
    Claim,
    Float32Array,
    MalformedError,
    PlainNetwork,
    Rejected,
    RejectedError,
    Verdict,
    need,
)
from proofs_check.rules import EVIDENCE, prove
from proofs_check.rules.case import Case


def check(certificate: parse.Certificate, case: Case) -> Verdict:
    """Judge one certificate.

    Ensures: Accepted only if the claim (certificate.Claim) is true of case.robust, case.standard and
    case.input in real arithmetic, given the named assumptions and exact export of the models.
    """
    try:
        _tie(certificate, case)
        return Accepted(prove(certificate.rule, certificate.claim, certificate.evidence, case))
    except RejectedError as error:
        return Rejected(error.step, error.reason)
    except MemoryError as error:
        return Rejected("memory", f"the proof does not fit: {error}")


def _tie(certificate: parse.Certificate, case: Case) -> None:
    """The claim speaks of exactly the networks and the input at hand."""
    claim, network = certificate.claim, case.robust.network
    need(claim.robust == network.sha256, "robust", "the claim speaks of another robust network")
    if claim.standard is not None:
        standard = case.standard
        found = None if standard is None else standard.network.sha256
        need(claim.standard == found, "standard", "the claim speaks of another standard network")
        need(standard is None or standard.network.classes == network.classes, "standard", "class counts differ")
        need(standard is None or standard.network.input_shape == network.input_shape, "standard", "inputs differ")
    _tie_alpha(claim, case)
    need(case.input.dtype == np.float32, "input", f"must be float32, got {case.input.dtype}")
    need(case.input.shape == network.input_shape, "input", f"has shape {case.input.shape}, not {network.input_shape}")
    need(np.isfinite(case.input).all(), "input", "holds a number that is not finite")
    need(claim.input == parse.array_sha256(case.input), "input", "the claim speaks of another input")
    need(claim.predicted < network.classes, "predicted", f"class {claim.predicted} of {network.classes}")
    if claim.domain is not None:
        low, high = claim.domain
        exact = case.input.astype(np.float64)  # numpy would round the ends of the domain to float32
        inside = (exact >= low).all() and (exact <= high).all()
        need(inside, "domain", f"the input leaves the domain [{low}, {high}]")


def _tie_alpha(claim: Claim, case: Case) -> None:
    """Where the claim names a network of alpha, it is the one at hand, and fits."""
    named = None if claim.adaptive is None or claim.adaptive.alpha is None else claim.adaptive.alpha.network
    if named is None:
        return
    if case.alpha is None:
        raise RejectedError("alpha", "the network of the input-dependent alpha is not at hand")
    own, robust = case.alpha.network, case.robust.network
    need(own.sha256 == named, "alpha", "the claim speaks of another network of alpha")
    need(own.classes == 2, "alpha", f"its network must have two logits, has {own.classes}")
    need(own.input_shape == robust.input_shape, "alpha", "its network takes other inputs")


def check_bytes(
    line: bytes,
    robust: PlainNetwork,
    standard: PlainNetwork | None,
    value: Float32Array,
    alpha: PlainNetwork | None = None,
) -> Verdict:
    """Judge the bytes of one certificate line. Raises MalformedError (also for a line that is not certified)."""
    certificate = parse.line(line, EVIDENCE)
    if not isinstance(certificate, parse.Certificate):
        raise MalformedError("certificate.outcome", f"is {certificate.outcome}, there is nothing to judge")
    try:
        other = [None if n is None else prepare(n) for n in (standard, alpha)]
        case = Case(prepare(robust), other[0], value, other[1])
    except RejectedError as error:
        return Rejected(error.step, error.reason)
    return check(certificate, case)

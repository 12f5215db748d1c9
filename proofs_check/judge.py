"""From a parsed certificate and the things it speaks of to a verdict. No I/O, no search."""

from __future__ import annotations

import numpy as np

from proofs_check.certificate import (
    Accepted,
    Float32Array,
    MalformedError,
    ModelFile,
    PlainNetwork,
    Rejected,
    RejectedError,
    Verdict,
    need,
)
from proofs_check.kernel.bounds import prepare
from proofs_check.kernel.rounding import need_arithmetic
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE, prove
from proofs_check.rules.case import Case, Model, named, signature


def check(certificate: parse.Certificate, case: Case) -> Verdict:
    """Judge one certificate.

    Ensures: Accepted only if the claim (certificate.Claim) is true of case.robust, case.standard and
    case.input in real arithmetic, given the named assumptions and exact export of the models.
    """
    try:
        need_arithmetic()
        _tie(certificate, case)
        return Accepted(prove(certificate.rule, certificate.claim, certificate.evidence, case))
    except RejectedError as error:
        return Rejected(error.step, error.reason)
    except MemoryError as error:
        return Rejected("memory", f"the proof does not fit: {error}")
    except (ArithmeticError, LookupError, RecursionError, ValueError) as error:
        # what no check foresaw: no line may keep the others from being judged
        return Rejected("internal", f"{type(error).__name__}: {error}")


def _tie(certificate: parse.Certificate, case: Case) -> None:
    """The claim speaks of exactly the networks and the input at hand."""
    claim, network = certificate.claim, signature(case.h)
    need(claim.robust == named(case.h), "robust", "the claim speaks of another robust network")
    _tie_other("standard", claim.standard, case.g, network.classes, network.input_shape)
    _tie_other("alpha", claim.alpha_network, case.alpha, 2, network.input_shape)
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


def _tie_other(
    step: str, claimed: str | ModelFile | None, at_hand: Model | None, classes: int, shape: tuple[int, ...]
) -> None:
    """A further network that the claim names is the one at hand, and has that many logits and such inputs."""
    if claimed is None:
        return
    if at_hand is None:
        raise RejectedError(step, "the claim speaks of a network that is not at hand")
    network = signature(at_hand)
    need(named(at_hand) == claimed, step, "the claim speaks of another network")
    need(network.classes == classes, step, f"its network must have {classes} logits, has {network.classes}")
    need(network.input_shape == shape, step, "its network takes other inputs")


def _prepared(model: PlainNetwork | ModelFile) -> Model:
    return model if isinstance(model, ModelFile) else prepare(model)


def check_bytes(
    line: bytes,
    robust: PlainNetwork | ModelFile,
    standard: PlainNetwork | ModelFile | None,
    value: Float32Array,
    alpha: PlainNetwork | None = None,
) -> Verdict:
    """Judge the bytes of one certificate line. Raises MalformedError (also for a line that is not certified)."""
    certificate = parse.line(line, EVIDENCE)
    if not isinstance(certificate, parse.Certificate):
        raise MalformedError("certificate.outcome", f"is {certificate.outcome}, there is nothing to judge")
    try:
        g = None if standard is None else _prepared(standard)
        case = Case(_prepared(robust), g, value, None if alpha is None else prepare(alpha))
    except RejectedError as error:
        return Rejected(error.step, error.reason)
    return check(certificate, case)

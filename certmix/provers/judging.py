"""Asking the judge from the prover's side, and shrinking a radius that rounding took away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certmix.errors import UsageError
from certmix.records.outcomes import Certified
from proofs_check import judge
from proofs_check.certificate import Accepted, ModelFile, PlainNetwork, Rejected, RejectedError, Verdict
from proofs_check.kernel.bounds import Prepared, prepare
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case, Model

# relative, tried in turn when the judge does not prove a proposed radius
JUDGED_SHRINKAGES = (0.0, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True, eq=False)
class JudgeSession:
    """The networks of one run, prepared once for the judge, or files. alpha: that of an input-dependent weight."""

    robust: Model
    standard: Model | None
    alpha: Prepared | None = None

    @property
    def network(self) -> Prepared:
        """h, for methods that look into it."""
        if isinstance(self.robust, ModelFile):
            raise TypeError("excluded: only smoothing goes without a plain network")
        return self.robust

    def verdict(self, line: bytes, value: NDArray[np.float32]) -> Verdict:
        """The judge's verdict on one certificate line about `value`. Raises MalformedError."""
        record = parse.line(line, EVIDENCE)
        if not isinstance(record, parse.Certificate):
            return Rejected("outcome", f"is {record.outcome}, there is nothing to judge")
        return judge.check(record, Case(self.robust, self.standard, value, self.alpha))


def judge_session(
    robust: PlainNetwork | ModelFile, standard: PlainNetwork | ModelFile | None, alpha: PlainNetwork | None = None
) -> JudgeSession:
    """Raises UsageError where the judge can take one of the networks not at all."""
    h, g = robust, standard
    of_robust = h if isinstance(h, ModelFile) else prepared(h)
    of_standard = g if g is None or isinstance(g, ModelFile) else prepared(g)
    return JudgeSession(of_robust, of_standard, None if alpha is None else prepared(alpha))


def prepared(network: PlainNetwork) -> Prepared:
    """The network as the judge works with it. Raises UsageError where it cannot."""
    try:
        return prepare(network)
    except RejectedError as error:
        raise UsageError(f"the judge refuses to work with the network: {error}") from error


def largest_accepted(
    radius: float, fixed: bool, write: Callable[[float], bytes], judge_line: Callable[[bytes], Verdict]
) -> tuple[float, bytes] | Rejected:
    """The first radius of radius * (1 - s), s in JUDGED_SHRINKAGES, whose certificate the judge accepts, with its line.

    fixed: only `radius` itself is wanted. Otherwise the last rejection.
    """
    verdict: Verdict = Rejected("radius", "none was proposed")
    for shrinkage in JUDGED_SHRINKAGES[:1] if fixed else JUDGED_SHRINKAGES:
        tried = radius * (1 - shrinkage)
        line = write(tried)
        verdict = judge_line(line)
        if isinstance(verdict, Accepted):
            return tried, line
    if isinstance(verdict, Accepted):
        raise TypeError("an accepted verdict is returned above")
    return verdict


def check(certificate: Certified) -> Verdict:
    """The judge's verdict on a certificate returned by `certmix.certify`, re-derived from nothing but its bytes,
    the networks and the input.

    Returns Accepted(assumptions) or Rejected(step, reason). Raises MalformedError for damaged bytes.
    """
    c = certificate
    return judge.check_bytes(c.line, c.robust, c.standard, c.input, c.alpha_network)

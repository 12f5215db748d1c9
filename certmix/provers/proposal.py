"""How every prover ends: a proposed claim -> evidence -> the judge -> a certificate, or why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from certmix.provers.judging import JudgeSession, largest_accepted
from certmix.provers.problem import ProverProblem
from certmix.records.lines import certificate_line
from certmix.records.outcomes import Certified, Method
from proofs_check.certificate import Claim, PlainNetwork, Rejected


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a prover asks the judge about input `batch_index` of its batch.

    claim: at the largest radius that is hoped for. rule: of the judge, by name. evidence: what it is given for the
    claim at some radius. alpha_network: that of an input-dependent weight.
    """

    batch_index: int
    claim: Claim
    method: Method
    rule: str
    evidence: Callable[[float], Any]
    alpha_network: PlainNetwork | None = None


def judged(problem: ProverProblem, judge: JudgeSession, proposal: Proposal) -> Certified | Rejected:
    """The certificate of the largest radius, not above the proposed one, that the judge accepts; of just that radius
    where the settings fix one. Otherwise the last rejection."""
    claim, batch_index = proposal.claim, proposal.batch_index
    index, label, value = problem.indices[batch_index], problem.labels[batch_index], problem.input(batch_index)

    def write(tried: float) -> bytes:
        at_radius = dataclasses.replace(claim, radius=tried)
        return certificate_line(
            index, label, proposal.method, at_radius, proposal.rule, proposal.evidence(tried)
        )  # fmt: skip

    fixed = problem.settings.radius is not None
    judgement = largest_accepted(claim.radius, fixed, write, lambda line: judge.verdict(line, value))
    if isinstance(judgement, Rejected):
        return judgement
    radius, line = judgement
    return Certified(
        predicted=claim.predicted,
        radius=radius,
        norm=claim.norm,
        alpha=claim.alpha,
        method=proposal.method,
        class_of=claim.class_of,
        line=line,
        robust=problem.stated,
        standard=problem.stated_standard,
        input=value,
        proposed_radius=claim.radius,
        alpha_network=proposal.alpha_network,
    )

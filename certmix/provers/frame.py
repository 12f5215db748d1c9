"""How every prover goes: what no theorem covers is refused, the rest is searched, and what is proposed is judged."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from certmix.formatting import exact, lower, upper
from certmix.provers.judging import JudgeSession
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal, judged
from certmix.records.outcomes import Certified, Outcome, Reason
from certmix.theorems.margin import critical_alpha, required_margin
from proofs_check.certificate import ClassOf, Rejected
from verifiers.engine import EngineError


@dataclass(frozen=True)
class Refusal:
    """Why an input gets no certificate, and what would help."""

    reason: Reason
    advice: str


@dataclass(frozen=True, eq=False)
class Proposed:
    """What a search came to for one input: at least one proposal. advice: where the judge accepts none of them."""

    proposals: tuple[Proposal, ...]
    advice: str


class AtInputs(Protocol):
    """What a prover knows of the inputs themselves. predicted: (N,) the classes to certify."""

    @property
    def predicted(self) -> Tensor: ...


Points = TypeVar("Points", bound=AtInputs)


@dataclass(frozen=True, eq=False)
class Prover(abc.ABC, Generic[Points]):
    """Ensures: every Certified line was accepted by the judge.

    class_of: whose class is certified.
    """

    problem: ProverProblem
    judge: JudgeSession

    @property
    def class_of(self) -> ClassOf:
        return "robust"

    @abc.abstractmethod
    def at_inputs(self) -> Points:
        """What is known of all inputs before any search."""

    @abc.abstractmethod
    def refusal(self, points: Points, batch_index: int) -> Refusal | None:
        """Why nothing can certify this input at any radius, if so."""

    @abc.abstractmethod
    def search(self, inputs: Tensor, points: Points) -> Mapping[int, Proposed | Refusal]:
        """For each of `inputs` (M,), by index in the batch, what the judge may be asked. Raises EngineError."""

    def keep(self, points: Points, refused: Mapping[int, Refusal]) -> None:
        """Store what other runs may need. refused: by index in the batch."""

    def prove(self) -> list[Outcome]:
        """One outcome per input, in order."""
        points = self.at_inputs()
        every_input = range(len(self.problem.inputs))
        refusals = {k: r for k in every_input if (r := self.refusal(points, k)) is not None}
        self.keep(points, refusals)
        answers: dict[int, Certified | Refusal] = {**refusals}
        unrefused = torch.tensor([k for k in every_input if k not in refusals], dtype=torch.int64)
        for inputs in unrefused.split(self.problem.settings.batch_size) if len(unrefused) else ():
            try:
                found = self.search(inputs, points)
            except EngineError as error:
                found = dict.fromkeys(inputs.tolist(), Refusal(Reason.ENGINE_FAILED, str(error)))
            answers.update({k: a if isinstance(a, Refusal) else self._judged(a) for k, a in found.items()})
        return [self._outcome(int(points.predicted[k]), answers[k]) for k in every_input]

    def _judged(self, proposed: Proposed) -> Certified | Refusal:
        """The certificate of the largest radius that the judge accepts; else why he did not the last that he saw."""
        best: Certified | None = None
        rejected: Rejected | None = None
        for proposal in sorted(proposed.proposals, key=lambda p: -p.claim.radius):
            if best is not None and best.radius >= proposal.claim.radius:
                break
            judgement = judged(self.problem, self.judge, proposal)
            if isinstance(judgement, Rejected):
                rejected = judgement
            elif best is None or judgement.radius > best.radius:
                best = judgement
        if best is not None:
            return dataclasses.replace(best, proposed_radius=max(p.claim.radius for p in proposed.proposals))
        fixed = self.problem.settings.radius is not None
        why = "" if rejected is None else f" ({rejected.step}: {rejected.reason})"
        return Refusal(Reason.RADIUS_NOT_REACHED if fixed else Reason.JUDGE_REJECTED, f"{proposed.advice}{why}")

    def _outcome(self, predicted: int, answer: Certified | Refusal) -> Outcome:
        if isinstance(answer, Certified):
            return answer
        return self.problem.abstained(predicted, answer.reason, answer.advice, self.class_of)


# ---------------------------------------------------------------- what no theorem covers, at the input itself


def tie(margin: float) -> Refusal | None:
    """margin: of the class to certify, at the input."""
    return Refusal(Reason.TIE, "the two most probable classes tie at the input") if margin <= 0 else None


def below_requirement(
    theorem: str, margin: float, alpha: float, temperature: float, instead: str = ""
) -> Refusal | None:
    """Of a theorem that needs h's margin above (1 - alpha)/alpha at the input. instead: what else helps than alpha."""
    if alpha <= 0.5:
        return Refusal(Reason.NO_THEOREM, f"{theorem} needs alpha > 1/2, got {alpha}: raise alpha{instead}")
    needed = required_margin(alpha)
    if margin > needed:
        return None
    advice = (
        f"the robust model's margin {lower(margin, 4)} is not above the required {upper(needed, 4)}: "
        f"raise alpha above {upper(critical_alpha(margin), 4)} or the temperature above {exact(temperature)}"
    )
    return Refusal(Reason.MARGIN_TOO_SMALL, advice)

"""Lipschitz certificates (`--method lipschitz`): Theorem 3.5 and (4a) from constants the judge re-derives.

Five kinds of evidence compete for each input and the largest radius the judge accepts wins: global constants by
LipSDP (ℓ2 constants, small networks) or by layer norms and unrestricted Jacobians (any network), anchored constants of
the ball by Jacobian bounds, relaxed constants from the engine's bounds of the logit differences, and, on request,
those bounds themselves, trusted. Constants that the judge derives again are stated larger than they are known to be
here, as far as the theorem bears it: its own need not be the same.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certmix.formatting import nearest
from certmix.provers.frame import Proposed, Prover, Refusal, below_requirement, tie
from certmix.provers.global_table import GlobalTable
from certmix.provers.lipschitz_pair import certify_lipschitz_pair
from certmix.provers.margin.engine_oracle import LARGEST_TUNABLE_LACK
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal
from certmix.provers.session import EngineSession, Session
from certmix.records.outcomes import Outcome, Reason
from certmix.settings import diameter
from certmix.theorems.lipschitz import (
    LogitsAtInputs,
    bisected_radius,
    closed_form_radius,
    joint_radius,
    joint_reaches,
    least_margin,
    probability_bounds,
    reaches,
    spacious_constants,
)
from certmix.theorems.margin import certifies, required_margin
from certmix.theorems.radius_search import largest_passing
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz
from proofs_check.rules.lipschitz.rule import EngineRelaxedLipschitz, LocalLipschitz, RelaxedLipschitz
from verifiers.engine import Bounds, EngineError, LogitBounds, MarginQuery, Query, differences
from verifiers.lipschitz.constants import local_bounds, local_constants
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.network.module import PlainModule
from verifiers.norms import NORMS
from verifiers.perturbation import Balls

Evidence = LocalLipschitz | RelaxedLipschitz | GlobalLipschitz | LayerLipschitz | EngineRelaxedLipschitz


@dataclass(frozen=True, eq=False)
class Candidate:
    """One proposed radius of one input, and the rule that is to prove it; <= 0 where the rule proposes nothing.

    constants: (K,) of z_j - z_y, which the judge is to derive too; None where the evidence needs none of these.
    """

    radius: float
    rule: str
    constants: Tensor | None


@dataclass(frozen=True, eq=False)
class Proposals:
    """Of one kind of evidence: radii (N,), and constants (N, K) of z_j - z_y that prove them, as in `Candidate`."""

    radii: Tensor
    constants: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LipschitzProver(Prover[LogitsAtInputs]):
    """By all kinds of evidence."""

    session: EngineSession
    maps: LinearMaps
    table: GlobalTable

    def at_inputs(self) -> LogitsAtInputs:
        s = self.problem.settings
        logits = PlainModule(self.problem.network).double()(self.problem.inputs.double())
        return LogitsAtInputs(logits, logits.argmax(dim=1), s.alpha, s.temperature)

    def refusal(self, points: LogitsAtInputs, batch_index: int) -> Refusal | None:
        s, margin = self.problem.settings, float(least_margin(points)[batch_index])
        refusal = tie(margin)
        if refusal is None and s.semantics != "real":
            advice = "Lipschitz constants speak of real arithmetic: leave out semantics"
            refusal = Refusal(Reason.NO_THEOREM, advice)
        return refusal or below_requirement("Theorem 3.5", margin, s.alpha, s.temperature)

    def search(self, inputs: Tensor, points: LogitsAtInputs) -> dict[int, Proposed | Refusal]:
        proposals, failures = self._proposals(points, inputs)
        found: dict[int, Proposed | Refusal] = {}
        for k, batch_index in enumerate(inputs.tolist()):
            candidates = [
                Candidate(float(p.radii[k]), rule, None if p.constants is None else p.constants[k])
                for rule, p in proposals.items()
            ]
            found[batch_index] = self._proposed(points, batch_index, candidates, failures)
        return found

    # -------------------------------------------------------------- proposals

    def _limit(self, point: LogitsAtInputs, inputs: Tensor) -> float:
        """The largest radius looked for: the domain's diameter; without a domain a multiple of what the gradients
        at the inputs themselves would certify."""
        s = self.problem.settings
        if s.domain is not None:
            return diameter(s.norm, s.domain, self.problem.inputs[0].numel())
        slopes = self._constants(inputs, torch.zeros(len(inputs), dtype=torch.float64), point.predicted[inputs])
        certified = closed_form_radius(_of_inputs(point, inputs), slopes)
        certified = torch.where(torch.isfinite(certified), certified, 1.0)  # where nothing moves, any radius will do
        return 64 * float(certified.max().clamp(min=1e-30))

    def _proposals(self, point: LogitsAtInputs, inputs: Tensor) -> tuple[dict[str, Proposals], list[str]]:
        """Per rule what it proposes for each input, radius 0 where that is nothing; and why rules were left out."""
        s = self.problem.settings
        kinds: dict[str, Callable[[LogitsAtInputs, Tensor], Proposals]] = {"engine_lipschitz_relaxed": self._relaxed}
        if s.evidence != "engine":
            kinds = {"lipschitz_relaxed": self._relaxed, "lipschitz_local": self._local, **self._of_everywhere()}
        proposals: dict[str, Proposals] = {}
        failures: list[str] = []
        for rule, propose in kinds.items():
            try:
                proposals[rule] = propose(point, inputs)
            except EngineError as error:
                failures.append(f"{rule}: {error}")
        return proposals, failures

    def _search(
        self, point: LogitsAtInputs, inputs: Tensor, test: Callable[[Tensor, Tensor], Tensor], limit: float
    ) -> Tensor:
        """The largest radii up to `limit` that pass `test`(indices, radii), or the fixed radius where it passes; -1
        where that is no more than what constants that hold everywhere give."""
        s = self.problem.settings
        size = s.batch_size

        def in_batches(index: Tensor, radii: Tensor) -> Tensor:
            return torch.cat([test(i, r) for i, r in zip(index.split(size), radii.split(size), strict=True)])

        every = torch.arange(len(inputs))
        if s.radius is not None:
            fixed = torch.full((len(inputs),), s.radius, dtype=torch.float64)
            return torch.where(in_batches(every, fixed), fixed, -1.0)
        known = self._everywhere_radii(point, inputs)
        hopeful = known <= 0
        asked = every[~hopeful]
        if len(asked):
            hopeful[asked] = in_batches(asked, known[asked] * (1 + s.tolerance))
        radii, left = torch.full((len(inputs),), -1.0, dtype=torch.float64), every[hopeful]
        if len(left):
            radii[left] = largest_passing(lambda i, r: in_batches(left[i], r), len(left), limit, s.tolerance)
        return radii

    def _everywhere_radii(self, point: LogitsAtInputs, inputs: Tensor) -> Tensor:
        """(N,) the largest radii by constants that hold everywhere; 0 where there is none."""
        radii = torch.zeros(len(inputs), dtype=torch.float64)
        for propose in self._of_everywhere().values():
            with contextlib.suppress(EngineError):
                radii = torch.maximum(radii, propose(point, inputs).radii)
        return radii

    def _of_everywhere(self) -> dict[str, Callable[[LogitsAtInputs, Tensor], Proposals]]:
        s = self.problem.settings
        if s.evidence == "engine":
            return {}
        in_l2 = {"lipschitz_global": self._global}  # in other norms sqrt(n) or nothing is gained: local ones are better
        return {"lipschitz_layers": self._layers, **(in_l2 if NORMS[s.norm].euclidean else {})}

    def _global(self, point: LogitsAtInputs, inputs: Tensor) -> Proposals:
        norm = self.problem.settings.norm
        return self._everywhere(point, inputs, [self.table.constants(int(y), norm) for y in point.predicted[inputs]])

    def _layers(self, point: LogitsAtInputs, inputs: Tensor) -> Proposals:
        norm = self.problem.settings.norm
        constants = [self.table.layer_constants(int(y), norm) for y in point.predicted[inputs]]
        joint = self.table.joint_constant(norm)
        return self._everywhere(point, inputs, constants, joint)

    def _everywhere(
        self, point: LogitsAtInputs, inputs: Tensor, constants: list[Tensor], joint: float | None = None
    ) -> Proposals:
        """The radii of global constants, (K,) per input; joint: one of all logits less their mean."""
        s = self.problem.settings
        part, values = _of_inputs(point, inputs), torch.stack(constants)
        if s.radius is None:
            radii = bisected_radius(part, values, s.tolerance)
            if joint is not None:
                radii = joint_radius(part, values, joint, s.tolerance)
            return Proposals(radii.clamp(max=self._limit(point, inputs)), values)
        fixed = torch.full((len(inputs),), s.radius, dtype=torch.float64)
        reached = reaches(part, values, fixed) if joint is None else joint_reaches(part, values, joint, fixed)
        return Proposals(torch.where(reached, fixed, -1.0), values)

    def _local(self, point: LogitsAtInputs, inputs: Tensor) -> Proposals:
        def test(index: Tensor, radii: Tensor) -> Tensor:
            part = _of_inputs(point, inputs[index])
            return reaches(part, self._constants(inputs[index], radii, part.predicted), radii)

        radii = self._search(point, inputs, test, self._limit(point, inputs))
        return Proposals(radii, self._constants(inputs, radii.clamp(min=0), point.predicted[inputs]))

    def _constants(self, inputs: Tensor, radii: Tensor, predicted: Tensor) -> Tensor:
        """(N, K) anchored constants of z_j - z_y on the balls."""
        s = self.problem.settings
        parts: list[Tensor] = []
        for i, r, y in zip(*(t.split(s.batch_size) for t in (inputs, radii, predicted)), strict=True):
            bounds = local_bounds(self.maps, self.problem.inputs[i], r, s.norm, s.domain)
            parts.append(local_constants(bounds, y.to(self.maps.device)).cpu())
        return torch.cat(parts)

    def _relaxed(self, point: LogitsAtInputs, inputs: Tensor) -> Proposals:
        def margins(part: LogitsAtInputs, bounds: Bounds | LogitBounds) -> Tensor:
            """Least h_y - h_i with relaxed constants of the ball: above the required one, r > eps at its fixed point
            (docs/maths.md 4)."""
            least, most = probability_bounds(bounds.lower, bounds.upper, part.predicted, part.temperature)
            rival = most.masked_fill(part.own, -1.0).amax(dim=1)
            return least.gather(1, part.predicted[:, None])[:, 0] - rival

        def test(index: Tensor, radii: Tensor) -> Tensor:
            """Slopes are tuned where bounds by untuned ones do not pass and lack little enough."""
            asked, part = inputs[index], _of_inputs(point, inputs[index])
            passes = torch.zeros(len(index), dtype=torch.bool)
            worth_tuning = torch.arange(len(index))
            if self.session.engine.steps:
                untuned = margins(part, self._untuned(asked, radii, part.predicted))
                passes = certifies(untuned, part.alpha)
                lack = required_margin(part.alpha) - untuned
                worth_tuning = torch.nonzero(~passes & (lack < LARGEST_TUNABLE_LACK)).flatten()
            if len(worth_tuning):
                bounds = self._ask(asked[worth_tuning], radii[worth_tuning], part.predicted[worth_tuning])
                passes[worth_tuning] = certifies(margins(_of_inputs(part, worth_tuning), bounds), part.alpha)
            return passes

        return Proposals(self._search(point, inputs, test, self._limit(point, inputs)))

    def _untuned(self, inputs: Tensor, radii: Tensor, predicted: Tensor) -> Bounds:
        s, network = self.problem.settings, self.problem.network
        balls = Balls(self.problem.inputs[inputs], radii, s.norm, s.domain)
        return self.session.answer(network, Query(balls, differences(predicted, network.classes), steps=0)).bounds

    def _ask(self, inputs: Tensor, radii: Tensor, predicted: Tensor) -> LogitBounds:
        s = self.problem.settings
        query = MarginQuery(self.problem.network, self.problem.inputs[inputs], s.norm, radii, s.domain, predicted)
        return self.session.bounds(query)

    def _proposed(
        self, point: LogitsAtInputs, batch_index: int, candidates: list[Candidate], failures: list[str]
    ) -> Proposed | Refusal:
        if not candidates:
            return Refusal(Reason.ENGINE_FAILED, "; ".join(failures))
        s = self.problem.settings
        wanted = "any radius" if s.radius is None else f"radius {nearest(s.radius)}"
        advice = f"no Lipschitz constant certifies {wanted}: raise alpha or the temperature, or use --method margin"
        advice = "; ".join([advice, *failures])
        usable = [c for c in candidates if c.radius > 0 or c.radius == s.radius]
        if not usable:
            return Refusal(Reason.RADIUS_NOT_REACHED, advice)
        return Proposed(tuple(self._proposal(point, batch_index, candidate) for candidate in usable), advice)

    def _proposal(self, point: LogitsAtInputs, batch_index: int, candidate: Candidate) -> Proposal:
        claim = self.problem.claim(batch_index, candidate.radius, int(point.predicted[batch_index]), "robust", None)

        def evidence(radius: float) -> Evidence:
            return self._evidence(point, batch_index, candidate, radius)

        return Proposal(batch_index, claim, "lipschitz", candidate.rule, evidence)

    def _evidence(self, point: LogitsAtInputs, batch_index: int, candidate: Candidate, radius: float) -> Evidence:
        predicted, rule = int(point.predicted[batch_index]), candidate.rule
        if rule == "lipschitz_global":
            bounds = self.table.bounds(predicted)
            width = max(len(b.multipliers) for b in bounds if b is not None)
            stacked = np.stack([np.zeros(width, "<f4") if b is None else b.multipliers.astype("<f4") for b in bounds])
            constants = tuple(0.0 if b is None else b.constant for b in bounds)
            return GlobalLipschitz("4a", constants, base64.b64encode(stacked.tobytes()).decode())
        index, radii = torch.tensor([batch_index]), torch.tensor([radius], dtype=torch.float64)
        if candidate.constants is not None:
            part = _of_inputs(point, index)
            stated = spacious_constants(part, candidate.constants[None], radii)[0].tolist()
            if rule == "lipschitz_layers":
                enough = bool(reaches(part, torch.tensor([stated], dtype=torch.float64), radii)[0])
                return LayerLipschitz("4a" if enough else "4b", tuple(stated))
            return LocalLipschitz("4a", tuple(stated), None)
        bounds = self._ask(index, radii, torch.tensor([predicted]))
        if rule == "engine_lipschitz_relaxed":
            name = self.problem.settings.proposer
            return EngineRelaxedLipschitz(name, tuple(bounds.lower[0].tolist()), tuple(bounds.upper[0].tolist()))
        data = bounds.witness[0]
        return RelaxedLipschitz(None if data is None else base64.b64encode(data).decode())


def _of_inputs(point: LogitsAtInputs, inputs: Tensor) -> LogitsAtInputs:
    return LogitsAtInputs(point.logits[inputs], point.predicted[inputs], point.alpha, point.temperature)


def certify_lipschitz(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Lipschitz certificates for every input of `problem`; a network without a Lipschitz bound is an outcome."""
    if problem.settings.use_standard:
        return certify_lipschitz_pair(problem, session)
    try:
        table = session.global_table
    except EngineError as error:
        predicted = PlainModule(problem.network)(problem.inputs).argmax(dim=1).tolist()
        return [problem.abstained(y, Reason.ENGINE_FAILED, str(error)) for y in predicted]
    return LipschitzProver(problem, session.judge, session.engine, table.maps, table).prove()

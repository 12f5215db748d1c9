"""Margin certificates: engine bounds -> Lemma 3.2 (or the pair form) -> a radius the judge proves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.formatting import nearest
from certmix.provers.frame import Proposed, Prover, Refusal, below_requirement, tie
from certmix.provers.margin.engine_oracle import EngineOracle
from certmix.provers.margin.oracle import RULES, MarginBound, MarginOracle, latest_of_each, standard_network
from certmix.provers.margin.pursuit import branch_further
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal
from certmix.provers.session import Session
from certmix.records.outcomes import Outcome, Reason
from certmix.settings import diameter
from certmix.theorems.margin import required_margin
from certmix.theorems.radius_search import largest_passing, largest_positive
from certmix.theorems.softmax_margin import own_class
from proofs_check.certificate import ClassOf
from verifiers.engine import EngineError
from verifiers.network.module import PlainModule
from verifiers.norms import NORMS

# what makes the oracle of one batch, given the classes to certify (N,)
OracleFactory = Callable[[ProverProblem, Tensor], MarginOracle]

ARCHIVE_TOLERANCE = 0.05  # relative, of a radius that only the archive needs
TUNING_ROUNDS = 4  # at a fixed radius
# relative, in turn, where what a search kept was better than bounds from nothing
PROPOSAL_SHRINKAGES = (1e-3, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
GUESSED_SHARE = 0.25  # of the radius of a linear h, that bounds may certify
LARGEST_TUNABLE_LACK = 0.2  # of slack, at a fixed radius: where more is lacking, slopes are not tuned again


@dataclass(frozen=True, eq=False)
class Points:
    """At the inputs themselves, in float64: class to certify (N,), its least probability margin (N,)."""

    predicted: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class MarginProver(Prover[Points]):
    """Proves Lemma 3.2 claims about h's class, or with `settings.use_standard` docs/maths.md 6 about the mix's."""

    make_oracle: OracleFactory

    # -------------------------------------------------------------- at the inputs themselves

    @property
    def class_of(self) -> ClassOf:
        return "mix" if self.problem.settings.use_standard else "robust"

    def at_inputs(self) -> Points:
        s = self.problem.settings
        x = self.problem.inputs.double()
        robust = PlainModule(self.problem.network).double()(x)
        probabilities = torch.softmax(s.temperature * robust, dim=1)
        scores = robust
        if s.use_standard:
            standard = torch.softmax(PlainModule(standard_network(self.problem)).double()(x), dim=1)
            probabilities = (1 - s.alpha) * standard + s.alpha * probabilities
            scores = probabilities
        predicted = scores.argmax(dim=1)
        predicted_mask = torch.nn.functional.one_hot(predicted, scores.shape[1]).bool()
        best_rival = probabilities.masked_fill(predicted_mask, -1.0).max(dim=1).values
        return Points(predicted, probabilities.gather(1, predicted[:, None])[:, 0] - best_rival)

    def refusal(self, points: Points, batch_index: int) -> Refusal | None:
        s, margin = self.problem.settings, float(points.margin[batch_index])
        refusal = tie(margin)
        if refusal is not None or s.use_standard:
            return refusal
        return below_requirement("Lemma 3.2", margin, s.alpha, s.temperature, ", or bound g too (use_standard)")

    def keep(self, points: Points, refused: Mapping[int, Refusal]) -> None:
        """Archive bounds that other alphas and temperatures may need. (Those of a search archive themselves.)"""
        if self.problem.archive is not None:
            searched = range(len(points.margin)) if self.problem.settings.radius is None else refused
            self._archive([k for k in searched if float(points.margin[k]) > 0], points)

    # -------------------------------------------------------------- the engine proposes, the judge disposes

    def search(self, inputs: Tensor, points: Points) -> dict[int, Proposed | Refusal]:
        oracle = self.make_oracle(self.problem, points.predicted)
        radii = self._radii(oracle, inputs, points)
        bound = oracle.bound(inputs, radii, True)
        for shrinkage in PROPOSAL_SHRINKAGES if self.problem.settings.radius is None else ():
            too_large = (~bound.worth_judging & (radii > 0)).nonzero().flatten()
            if not len(too_large):
                break
            radii[too_large] *= 1 - shrinkage
            again = oracle.bound(inputs[too_large], radii[too_large], True)
            bound = latest_of_each([(torch.arange(len(inputs)), bound), (too_large, again)])
        return {
            batch_index: self._proposed(batch_index, k, float(radii[k]), bound, points)
            for k, batch_index in enumerate(inputs.tolist())
        }

    def _archive(self, batch_indices: list[int], points: Points) -> None:
        """Bounds for other alphas and temperatures: at the fixed radius, or up to the largest one on which h's class is
        constant."""
        s = self.problem.settings
        for inputs in torch.tensor(batch_indices, dtype=torch.int64).split(s.batch_size) if batch_indices else ():
            oracle = self.make_oracle(self.problem, points.predicted)

            def constant(
                positions: Tensor, radii: Tensor, inputs: Tensor = inputs, oracle: MarginOracle = oracle
            ) -> Tensor:
                predicted_mask = own_class(points.predicted[inputs[positions]], self.problem.network.classes)
                upper = oracle.bound_robust(inputs[positions], radii, False).upper
                return (upper.lt(0) | predicted_mask.to(radii.device)).all(dim=1)

            try:
                radii = self._fixed(len(inputs))
                if radii is None:
                    radii = largest_passing(constant, len(inputs), self._limit(), ARCHIVE_TOLERANCE)
                oracle.bound_robust(inputs, radii, True)
            except EngineError:  # what it could not bound is not in the archive
                continue

    def _fixed(self, count: int) -> Tensor | None:
        radius = self.problem.settings.radius
        return None if radius is None else torch.full((count,), radius, dtype=torch.float64)

    def _limit(self) -> float:
        s = self.problem.settings
        if s.domain is None:
            raise TypeError("excluded by Settings")
        return diameter(s.norm, s.domain, self.problem.inputs[0].numel())

    def _radii(self, oracle: MarginOracle, inputs: Tensor, points: Points) -> Tensor:
        """(M,) radii to propose for `inputs`: the fixed one, or the largest the bounds certify (0: none)."""
        fixed = self._fixed(len(inputs))
        if fixed is not None:
            self._tune(oracle, inputs, fixed)
            return fixed
        certified_radii = oracle.known_radii(inputs)
        if certified_radii is not None:
            return certified_radii

        def slack(positions: Tensor, radii: Tensor) -> Tensor:
            return oracle.bound(inputs[positions], radii, False).slack

        guesses = GUESSED_SHARE * self._linear_radii(inputs, points.predicted[inputs])
        return largest_positive(slack, len(inputs), self._limit(), self.problem.settings.tolerance, guesses)

    def _linear_radii(self, inputs: Tensor, predicted: Tensor) -> Tensor:
        """(M,) float64: where h, were it linear, would lose the margin required to its runner-up at the input. To begin
        a search with: larger radii are the dearest to bound."""
        s, norm = self.problem.settings, NORMS[self.problem.settings.norm]
        required = required_margin(s.alpha) if s.alpha > 0.5 and not s.use_standard else 0.0
        x = self.problem.inputs[inputs].double().requires_grad_()
        with torch.enable_grad():
            logits = PlainModule(self.problem.network).double()(x)
            own = own_class(predicted, logits.shape[1]).to(logits.device)
            gaps = logits[own] - logits.masked_fill(own, -torch.inf).amax(1)
            (slopes,) = torch.autograd.grad(gaps.sum(), x)
        surplus = gaps.detach() - 2 * math.atanh(required) / s.temperature
        return (surplus / norm.dual(slopes.flatten(1))).clamp(min=0.0).cpu()

    def _tune(self, oracle: MarginOracle, inputs: Tensor, radii: Tensor) -> None:
        """Let the oracle go on with the inputs that are nearly certified (a search does so anyway)."""
        for _ in range(TUNING_ROUNDS if self.problem.settings.optimise else 0):
            slack = oracle.bound(inputs, radii, False).slack
            tunable = (slack <= 0) & (slack > -LARGEST_TUNABLE_LACK)
            inputs, radii = inputs[tunable], radii[tunable]
            if not len(inputs):
                return

    def _proposed(
        self, batch_index: int, k: int, radius: float, bound: MarginBound, points: Points
    ) -> Proposed | Refusal:
        s = self.problem.settings
        if s.radius is None and radius == 0:
            advice = "the bounds certify no radius: optimise the slopes, or raise alpha or the temperature"
            return Refusal(Reason.RADIUS_NOT_REACHED, advice)
        advice = _too_small(radius, s.proposer)
        if not bool(bound.worth_judging[k]):
            return Refusal(Reason.RADIUS_NOT_REACHED, advice)
        evidence = bound.evidence(k, s)
        claim = self.problem.claim(batch_index, radius, int(points.predicted[batch_index]), self.class_of, None)
        proposal = Proposal(batch_index, claim, "margin", RULES[type(evidence)], lambda _: evidence)
        return Proposed((proposal,), advice)


def _too_small(radius: float, engine: str) -> str:
    return (
        f"the bounds of {engine} do not reach radius {nearest(radius)}: "
        f"ask for a smaller one, optimise the slopes, or raise alpha or the temperature"
    )


def prove_margin(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Margin certificates for every input of `problem`."""

    def oracle(batch: ProverProblem, predicted: Tensor) -> MarginOracle:
        return EngineOracle(batch, predicted, session.engine)

    return branch_further(problem, session, MarginProver(problem, session.judge, oracle).prove())

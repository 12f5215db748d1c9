"""Certificates for mixes whose alpha depends on the input, or whose robust logits pass a nondecreasing nonlinearity.

Lemma 3.2 holds at any lower bound of alpha on the ball. The judge derives that bound where alpha is a SigmoidAlpha of a
plain network; otherwise it takes the declared one and says ALPHA_BOUND_TRUSTED. Source: docs/maths.md 8.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.errors import UsageError
from certmix.formatting import lower, nearest
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha, checked
from certmix.mixing.mixed import transformed
from certmix.models.model import Model
from certmix.provers.judging import JudgeSession, prepared
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal, judged
from certmix.provers.session import EngineSession, Session, open_session
from certmix.records.outcomes import Abstained, Certified, Falsified, Outcome, Reason
from certmix.settings import Settings, diameter
from certmix.theorems.radius_search import largest_passing
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import PlainNetwork, Rejected, Transform
from proofs_check.rules.adaptive import AdaptiveMargin
from verifiers.engine import Answer, EngineError, Query, differences
from verifiers.network.module import PlainModule
from verifiers.perturbation import Balls

ALPHA_ERROR = 1e-6  # relative: what float bounds of alpha may be off by
LARGEST_JUDGED_LACK = 0.2  # of slack; where more is lacking the judge, who also has the exponential form, is not asked


# ---------------------------------------------------------------- float bounds that propose


@dataclass(frozen=True, eq=False)
class AdaptiveBound:
    """On M balls: alpha (M,) a lower bound of alpha; margin (M,) of min_i h_y - h_i after transform and temperature."""

    alpha: Tensor
    margin: Tensor
    witness: tuple[bytes | None, ...]
    alpha_witness: tuple[bytes | None, ...]

    def slack(self) -> Tensor:
        """(M,) > 0 where Lemma 3.2 follows. Where alpha <= 1/2: -1."""
        required = (1 - self.alpha) / self.alpha.clamp_min(1e-9)
        return torch.where(self.alpha > 0.5, self.margin - required, -1.0)


def transformed_upper(lower: Tensor, upper: Tensor, differences: Tensor, predicted: Tensor, how: Transform) -> Tensor:
    """(N, K) upper bounds of M(z_j) - M(z_y), 0 at y, from bounds of z and upper bounds of z_j - z_y, (N, K) each.

    Where M is convex z_j <= min(u_j, z_y + b_j) may be used too (proof: proofs_check/rules/adaptive.py).
    """
    least_of_y = lower.gather(1, predicted[:, None])
    largest = upper
    if how.clamp and how.power >= 1:
        largest = torch.where(differences <= 0, torch.minimum(upper, least_of_y + differences), upper)
    differences_after = transformed(largest, how) - transformed(least_of_y, how)
    return differences_after.masked_fill(own_class(predicted, upper.shape[1]), 0.0)


@dataclass(frozen=True, eq=False)
class AdaptiveOracle:
    """An engine on h and on the network of alpha."""

    problem: ProverProblem
    mix: AdaptiveMix
    predicted: Tensor
    session: EngineSession

    def bound(self, inputs: Tensor, radii: Tensor) -> AdaptiveBound:
        """Bounds for `inputs` (M,), by index in the batch, at `radii` (M,). Raises EngineError."""
        predicted = self.predicted[inputs]
        h = self._answer(self.problem.network, inputs, radii, predicted)
        upper = h.bounds.upper
        if self.mix.transform is not None:
            logits = h.further(torch.eye(upper.shape[1]).double().expand(len(inputs), -1, -1))
            upper = transformed_upper(logits.lower, logits.upper, upper, predicted, self.mix.transform)
        margin = box_margin(h.bounds.lower, upper, predicted, self.problem.settings.temperature)
        margin = margin.masked_fill(own_class(predicted, upper.shape[1]), 1.0).min(dim=1).values
        margin = torch.where((upper <= 0).all(dim=1), margin, -1.0)
        network = self.mix.network
        if network is None or not isinstance(self.mix.alpha, SigmoidAlpha):
            alpha = torch.full_like(margin, self.mix.least())
            return AdaptiveBound(alpha, margin, h.witness(), (None,) * len(inputs))
        s = self._answer(network, inputs, radii, torch.zeros_like(predicted))
        alpha = self.mix.alpha.of_difference(s.bounds.lower[:, 1]) * (1 - ALPHA_ERROR)
        return AdaptiveBound(alpha.clamp_min(self.mix.alpha.low), margin, h.witness(), s.witness())

    def _answer(self, network: PlainNetwork, inputs: Tensor, radii: Tensor, classes: Tensor) -> Answer:
        s = self.problem.settings
        balls = Balls(self.problem.inputs[inputs], radii, s.norm, s.domain)
        return self.session.answer(network, Query(balls, differences(classes, network.classes)))


# ---------------------------------------------------------------- prover


@dataclass(frozen=True, eq=False)
class AdaptiveProver:
    """A prover (certmix.provers.certify.Prover) for one adaptive mix; settings.alpha is not read but for the record."""

    mix: AdaptiveMix

    def __call__(self, problem: ProverProblem, session: Session) -> list[Outcome]:
        if problem.settings.branches:
            raise UsageError("adaptive mixes are not branched on: leave branch and branch_parts out")
        network = self.mix.network
        judge = session.judge
        judge = judge if network is None else dataclasses.replace(judge, alpha=prepared(network))
        with torch.no_grad():
            predicted = PlainModule(problem.network).double()(problem.inputs.double()).argmax(dim=1)
        oracle = AdaptiveOracle(problem, self.mix, predicted, session.engine)
        outcomes: list[Outcome] = []
        for inputs in torch.arange(len(problem.inputs)).split(problem.settings.batch_size):
            try:
                radii = self._radii(oracle, inputs)
                bound = oracle.bound(inputs, radii)
            except EngineError as error:
                outcomes += [_abstained(problem, oracle, r, Reason.ENGINE_FAILED, str(error)) for r in inputs.tolist()]
                continue
            outcomes += [self._outcome(oracle, judge, r, k, radii, bound) for k, r in enumerate(inputs.tolist())]
        return [self._attacked(problem, outcome) for outcome in outcomes]

    def _radii(self, oracle: AdaptiveOracle, inputs: Tensor) -> Tensor:
        s = oracle.problem.settings
        if s.radius is not None:
            return torch.full((len(inputs),), s.radius, dtype=torch.float64)
        if s.domain is None:
            raise TypeError("excluded by Settings")
        limit = diameter(s.norm, s.domain, oracle.problem.inputs[0].numel())
        return largest_passing(lambda k, r: oracle.bound(inputs[k], r).slack() > 0, len(inputs), limit, s.tolerance)

    def _outcome(
        self, oracle: AdaptiveOracle, judge: JudgeSession, batch_index: int, k: int, radii: Tensor, bound: AdaptiveBound
    ) -> Outcome:
        problem, s = oracle.problem, oracle.problem.settings
        alpha, radius, y = float(bound.alpha[k]), float(radii[k]), int(oracle.predicted[batch_index])
        if alpha <= 0.5:
            text = f"alpha is only known to be >= {lower(alpha, 4)} on the ball, Lemma 3.2 needs more than 1/2"
            return _abstained(problem, oracle, batch_index, Reason.NO_THEOREM, text)
        if (s.radius is None and radius == 0) or float(bound.slack()[k]) < -LARGEST_JUDGED_LACK:
            text = f"the bounds certify no radius of {nearest(radius)}: raise alpha or the temperature"
            return _abstained(problem, oracle, batch_index, Reason.RADIUS_NOT_REACHED, text)
        evidence = AdaptiveMargin(_encoded(bound.witness[k]), _encoded(bound.alpha_witness[k]))

        claim = dataclasses.replace(
            problem.claim(batch_index, radius, y, "robust", None), alpha=alpha, adaptive=self.mix.claimed()
        )
        proposal = Proposal(batch_index, claim, "margin", "adaptive_margin", lambda _: evidence, self.mix.network)
        judgement = judged(problem, judge, proposal)
        if isinstance(judgement, Rejected):
            return _abstained(
                problem, oracle, batch_index, Reason.JUDGE_REJECTED, f"{judgement.step}: {judgement.reason}"
            )
        return judgement

    def _attacked(self, problem: ProverProblem, outcome: Outcome) -> Outcome:
        """Adaptive PGD on the adaptive mix inside the certified ball; Falsified where float64 agrees."""
        s = problem.settings
        if s.attack_steps == 0 or not isinstance(outcome, Certified):
            return outcome
        mix = self.mix.classifier(problem.standard.module, problem.robust.module, s.temperature)
        x, y = torch.from_numpy(outcome.input)[None], torch.tensor([outcome.predicted])
        ball = make_ball(x, torch.tensor([outcome.radius], dtype=torch.float64), s.norm, s.domain)
        attack = pgd(ClassifierObjective(mix, "margin"), ball, y, Schedule(steps=s.attack_steps, seed=s.seed))
        if not bool(attack.found[0]):
            return outcome
        point = attack.points[0].numpy()
        with torch.no_grad():
            lost = int(copy.deepcopy(mix).double()(attack.points.double()).argmax()) != outcome.predicted
        if not lost:
            return dataclasses.replace(outcome, float32_only=point)
        text = "the adaptive mix, in float64, leaves the certified class there"
        return Falsified(
            outcome.predicted, outcome.radius, s.norm, outcome.alpha, "margin", "robust", point, False, text
        )


def _encoded(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _abstained(
    problem: ProverProblem, oracle: AdaptiveOracle, batch_index: int, reason: Reason, advice: str
) -> Abstained:
    return problem.abstained(int(oracle.predicted[batch_index]), reason, advice)


# ---------------------------------------------------------------- ways in


def certify_adaptive(standard: Model, robust: Model, x: Tensor, mix: AdaptiveMix, settings: Settings) -> list[Outcome]:
    """Certify an adaptive mix at every input; settings.alpha is ignored.

    x: (N, *input_shape) float32, raw units. Ensures: every Certified outcome was accepted by the judge; its claim is
    certificate.Claim, whose alpha is a lower bound of alpha(x') on the ball. Raises UsageError for misuse.
    """
    checked(robust.input_shape, mix)
    count = len(x)
    of_least_alpha = dataclasses.replace(settings, alpha=mix.least())
    problem = ProverProblem(standard, robust, x.detach().to("cpu"), tuple(range(count)), (-1,) * count, of_least_alpha)
    return AdaptiveProver(mix)(problem, open_session(problem))

"""Certificates for mixes whose alpha depends on the input, or whose robust logits pass a nondecreasing nonlinearity.

Lemma 3.2 holds at any lower bound of alpha on the ball. The judge derives that bound where alpha is a SigmoidAlpha of a
plain network; otherwise it takes the declared one and says ALPHA_BOUND_TRUSTED. Source: docs/maths.md 8.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.formatting import lower, nearest
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.mixing.mixed import transformed
from certmix.provers.adaptive_bounds import LogitsOnBalls
from certmix.provers.frame import Proposed, Prover, Refusal, below_requirement, tie
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal
from certmix.provers.session import EngineSession, Session
from certmix.records.outcomes import Outcome, Reason
from certmix.settings import Settings, diameter
from certmix.theorems.radius_search import largest_passing
from certmix.theorems.softmax_margin import own_class
from proofs_check.certificate import PlainNetwork
from proofs_check.rules.adaptive import AdaptiveMargin
from verifiers.engine import Answer, Query, differences
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
        return slack(self.alpha, self.margin)


def slack(alpha: Tensor, margin: Tensor) -> Tensor:
    """(N,) how far margins exceed what Lemma 3.2 requires at alpha; -1 where alpha <= 1/2."""
    return torch.where(alpha > 0.5, margin - (1 - alpha) / alpha.clamp_min(1e-9), -1.0)


def least_alpha(mix: AdaptiveMix, difference: Tensor) -> Tensor:
    """(N,) lower bounds of alpha on balls. difference: (N,) lower bounds of s_1 - s_0 there, of its network's logits s;
    not read where there is none."""
    if not isinstance(mix.alpha, SigmoidAlpha):
        return torch.full_like(difference, mix.least())
    return (mix.alpha.of_difference(difference) * (1 - ALPHA_ERROR)).clamp_min(mix.alpha.low)


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
        how = self.mix.transform
        margin = LogitsOnBalls.of(h, predicted, how).least_margin(how, self.problem.settings.temperature)
        network = self.mix.network
        if network is None:
            return AdaptiveBound(least_alpha(self.mix, margin), margin, h.witness(), (None,) * len(inputs))
        s = self._answer(network, inputs, radii, torch.zeros_like(predicted))
        alpha = least_alpha(self.mix, s.bounds.lower[:, 1])
        return AdaptiveBound(alpha, margin, h.witness(), s.witness())

    def _answer(self, network: PlainNetwork, inputs: Tensor, radii: Tensor, classes: Tensor) -> Answer:
        s = self.problem.settings
        balls = Balls(self.problem.inputs[inputs], radii, s.norm, s.domain)
        return self.session.answer(network, Query(balls, differences(classes, network.classes)))


# ---------------------------------------------------------------- prover


@dataclass(frozen=True, eq=False)
class AdaptivePoints:
    """predicted: (N,). margin: (N,) least probability margin of M(h), alpha: (N,) the weight, or its least value."""

    predicted: Tensor
    margin: Tensor
    alpha: Tensor


@dataclass(frozen=True, eq=False)
class AdaptiveProver(Prover[AdaptivePoints]):
    """Proves Lemma 3.2 at lower bounds of alpha on the balls."""

    mix: AdaptiveMix
    session: EngineSession

    def at_inputs(self) -> AdaptivePoints:
        x, temperature = self.problem.inputs.double(), self.problem.settings.temperature
        with torch.no_grad():
            logits = PlainModule(self.problem.network).double()(x)
            alpha = torch.full((len(x),), self.mix.least(), dtype=torch.float64)
            if isinstance(self.mix.alpha, SigmoidAlpha):
                s = PlainModule(self.mix.alpha.network).double()(x)
                alpha = self.mix.alpha.of_difference(s[:, 1] - s[:, 0])
        predicted = logits.argmax(dim=1)
        probabilities = torch.softmax(temperature * transformed(logits, self.mix.transform), dim=1)
        rivals = probabilities.masked_fill(own_class(predicted, logits.shape[1]), -1.0).max(dim=1).values
        return AdaptivePoints(predicted, probabilities.gather(1, predicted[:, None])[:, 0] - rivals, alpha)

    def refusal(self, points: AdaptivePoints, batch_index: int) -> Refusal | None:
        margin, alpha = float(points.margin[batch_index]), float(points.alpha[batch_index])
        if math.isnan(margin):
            return Refusal(Reason.NO_THEOREM, "M(z) overflows at the input: lower its power, or the temperature")
        return tie(margin) or below_requirement("Lemma 3.2", margin, alpha, self.problem.settings.temperature)

    def search(self, inputs: Tensor, points: AdaptivePoints) -> dict[int, Proposed | Refusal]:
        oracle = AdaptiveOracle(self.problem, self.mix, points.predicted, self.session)
        radii = self._radii(oracle, inputs)
        bound = oracle.bound(inputs, radii)
        return {
            batch_index: self._proposed(int(points.predicted[batch_index]), batch_index, k, float(radii[k]), bound)
            for k, batch_index in enumerate(inputs.tolist())
        }

    def _radii(self, oracle: AdaptiveOracle, inputs: Tensor) -> Tensor:
        s = self.problem.settings
        if s.radius is not None:
            return torch.full((len(inputs),), s.radius, dtype=torch.float64)
        if s.domain is None:
            raise TypeError("excluded by Settings")
        limit = diameter(s.norm, s.domain, self.problem.inputs[0].numel())
        return largest_passing(lambda k, r: oracle.bound(inputs[k], r).slack() > 0, len(inputs), limit, s.tolerance)

    def _proposed(
        self, predicted: int, batch_index: int, k: int, radius: float, bound: AdaptiveBound
    ) -> Proposed | Refusal:
        s, alpha = self.problem.settings, float(bound.alpha[k])
        if alpha <= 0.5:
            text = f"alpha is only known to be >= {lower(alpha, 4)} on the ball, Lemma 3.2 needs more than 1/2"
            return Refusal(Reason.NO_THEOREM, text)
        wanted = "any radius" if s.radius is None else f"radius {nearest(radius)}"
        advice = f"the bounds do not certify {wanted}: raise alpha or the temperature"
        if (s.radius is None and radius == 0) or float(bound.slack()[k]) < -LARGEST_JUDGED_LACK:
            return Refusal(Reason.RADIUS_NOT_REACHED, advice)
        evidence = AdaptiveMargin(_encoded(bound.witness[k]), _encoded(bound.alpha_witness[k]))
        claim = dataclasses.replace(self.problem.claim(batch_index, radius, predicted, "robust", None), alpha=alpha)
        proposal = Proposal(batch_index, claim, "adaptive", "adaptive_margin", lambda _: evidence, self.mix.network)
        return Proposed((proposal,), advice)


def _encoded(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def prove_adaptive(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Certificates of an adaptive mix for every input of `problem`."""
    if problem.adaptive is None:
        raise TypeError("excluded by Settings and ProverProblem")
    return AdaptiveProver(problem, session.judge, problem.adaptive, session.engine).prove()


def adaptive_settings(mix: AdaptiveMix, settings: Settings) -> Settings:
    """`settings` for a run about `mix`, whose alpha takes the place of theirs. Raises UsageError."""
    if settings.method not in ("margin", "adaptive"):
        raise UsageError(f"adaptive mixes are certified by Lemma 3.2 alone: leave out method {settings.method}")
    if isinstance(mix.alpha, nn.Module) or mix.alpha == settings.alpha:
        return dataclasses.replace(settings, alpha=mix.least(), method="adaptive", adaptive=mix.claimed(), curves=False)
    raise UsageError(f"alpha is given twice, {mix.alpha} and settings.alpha = {settings.alpha}: let them be the same")

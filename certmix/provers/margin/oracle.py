"""From radii to what bounds certify there: the engines, and the margin forms built on their bounds, behind one call."""

from __future__ import annotations

import abc
import base64
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.provers.problem import ProverProblem
from certmix.records.bound_archive import ArchivedBound, ExponentialPasses
from certmix.settings import Settings
from certmix.theorems.margin import pair_slack
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import PlainNetwork
from proofs_check.rules.margin.rule import EngineMargin, NetworkMargin, PairMargin
from verifiers.engine import EngineError, LogitBounds, Query, differences
from verifiers.perturbation import Balls

Evidence = EngineMargin | NetworkMargin | PairMargin
FLOAT32_LACK = 1e-3  # of slack, that float32 rounding of the native engine may cost; more, and the judge finds no proof
RULES: dict[type, str] = {
    EngineMargin: "engine_margin",
    NetworkMargin: "network_margin",
    PairMargin: "pair_margin",
}


@dataclass(frozen=True, eq=False)
class MarginBound:
    """About M inputs at a radius each: slack (M,) > 0 where the claim follows, bounds of h's logit differences, and
    of g's where it was bounded too. worth_judging: (M,) bool, the judge may prove the claim, so it is worth asking.
    alone: (M,) bool, h's bounds do better alone, by a form that no rule has for both. Witnesses are there only if they
    were asked for."""

    slack: Tensor
    worth_judging: Tensor
    robust: LogitBounds
    standard: LogitBounds | None
    alone: Tensor

    def evidence(self, k: int, settings: Settings) -> Evidence:
        """What the judge is given for input k of the M."""
        if self.standard is not None and not bool(self.alone[k]):
            return PairMargin(_encoded(self.robust, k), _encoded(self.standard, k))
        if settings.evidence == "engine":
            lower, upper = (tuple(b[k].tolist()) for b in (self.robust.lower, self.robust.upper))
            return EngineMargin(settings.proposer, lower, upper)
        return NetworkMargin(_encoded(self.robust, k))


def latest_of_each(attempts: list[tuple[Tensor, MarginBound]]) -> MarginBound:
    """The last bound of every input, by position. attempts: positions (m,) of the M inputs, and what was bounded there;
    every position is in one of them."""
    if len(attempts) == 1:
        return attempts[0][1]
    latest = {position: (bound, k) for positions, bound in attempts for k, position in enumerate(positions.tolist())}
    chosen = [latest[position] for position in sorted(latest)]
    robust = _stacked([(bound.robust, k) for bound, k in chosen])
    standard = [(bound.standard, k) for bound, k in chosen if bound.standard is not None]
    return MarginBound(
        torch.stack([bound.slack[k] for bound, k in chosen]),
        torch.stack([bound.worth_judging[k] for bound, k in chosen]),
        robust,
        _stacked(standard) if standard else None,
        torch.stack([bound.alone[k] for bound, k in chosen]),
    )


def _stacked(chosen: list[tuple[LogitBounds, int]]) -> LogitBounds:
    lower, upper = torch.stack([b.lower[k] for b, k in chosen]), torch.stack([b.upper[k] for b, k in chosen])
    return LogitBounds(lower, upper, tuple(b.witness[k] for b, k in chosen))


def _encoded(bounds: LogitBounds, k: int) -> str | None:
    data = bounds.witness[k]
    return None if data is None else base64.b64encode(data).decode()


def standard_network(problem: ProverProblem) -> PlainNetwork:
    """g's plain network. Raises EngineError where it has none."""
    network = problem.standard.network
    if network is None:
        raise EngineError(f"the standard model ({problem.standard.source}) has no plain network to bound")
    return network


class MarginOracle(abc.ABC):
    """Answers for one batch of inputs, whose classes to certify are `predicted` (N,); may remember between calls.

    inputs: (M,) int64, those asked about, by index in the batch. radii: (M,) float64, in the norm and units of the
    settings.
    """

    def __init__(self, problem: ProverProblem, predicted: Tensor) -> None:
        self.problem = problem
        self.predicted = predicted

    @abc.abstractmethod
    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        """What the bounds certify for `inputs` at `radii`. witness: for the judge. Raises EngineError."""

    def query(self, inputs: Tensor, radii: Tensor) -> Query:
        """Bounds of d_j = z_j - z_y wanted, whichever network's."""
        s = self.problem.settings
        balls = Balls(self.problem.inputs[inputs], radii, s.norm, s.domain)
        return Query(balls, differences(self.predicted[inputs], self.problem.network.classes))

    def box_slack(self, h: LogitBounds, g: LogitBounds | None, predicted: Tensor) -> Tensor:
        """(M,) by the box form of h, or where g was bounded by the better of Lemma 3.2 and docs/maths.md 6."""
        s = self.problem.settings
        of_h = box_margin(h.lower, h.upper, predicted, s.temperature)
        of_g = torch.full_like(of_h, -1.0) if g is None else box_margin(g.lower, g.upper, predicted, 1.0)
        slack = pair_slack(of_g, of_h, s.alpha).masked_fill(own_class(predicted, of_h.shape[1]), float("inf"))
        return slack.min(dim=1).values

    @abc.abstractmethod
    def bound_robust(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        """Bounds of h alone, archived, whatever alpha and temperature are. Raises EngineError."""

    def known_radii(self, inputs: Tensor) -> Tensor | None:
        """(M,) the largest radii certified, 0 for none, where that is known without a search."""
        del inputs
        return None

    def archive(
        self,
        inputs: Tensor,
        radii: Tensor,
        h: LogitBounds,
        passes: ExponentialPasses | None = None,
        wanted: Tensor | None = None,
    ) -> None:
        """Hand every bound found to the archive, if there is one. passes: of inputs numbered by position in `inputs`.
        wanted: (M,) bool, or None: all."""
        if self.problem.archive is None:
            return
        for k, batch_index in enumerate(inputs.tolist()):
            if wanted is not None and not bool(wanted[k]):
                continue
            radius, y = float(radii[k]), int(self.predicted[batch_index])
            passes_of_input = None if passes is None else passes.of_input(k)
            bound = ArchivedBound(radius, y, h.lower[k], h.upper[k], passes_of_input, h.witness[k])
            self.problem.archive(self.problem.indices[batch_index], bound)

"""From radii to what bounds certify there: the engines, and the margin forms built on their bounds, behind one call."""

from __future__ import annotations

import abc
import base64
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.provers.problem import Problem
from certmix.records.curves import Observation, Passes
from certmix.settings import Settings
from certmix.theorems.margin import pair_slack
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import PlainNetwork
from proofs_check.rules.margin.rule import EngineMargin, NetworkMargin, PairMargin
from verifiers.engine import Engine, EngineError, LogitBounds, MarginQuery

Evidence = EngineMargin | NetworkMargin | PairMargin
ROUNDING = 1e-3  # slack that float32 rounding of the native engine may cost; more, and the judge finds no proof either
RULES: dict[type, str] = {
    EngineMargin: "engine_margin",
    NetworkMargin: "network_margin",
    PairMargin: "pair_margin",
}


@dataclass(frozen=True, eq=False)
class Finding:
    """About M inputs at a radius each: slack (M,) > 0 where the claim follows, bounds of h's logit differences, and
    of g's where it was bounded too. hopeful: (M,) bool, the judge may prove the claim, so it is worth asking.
    Witnesses are there only if they were asked for."""

    slack: Tensor
    hopeful: Tensor
    robust: LogitBounds
    standard: LogitBounds | None

    def evidence(self, k: int, settings: Settings) -> Evidence:
        """What the judge is given for input k of the M."""
        if self.standard is not None:
            return PairMargin(_encoded(self.robust, k), _encoded(self.standard, k))
        if settings.evidence == "engine":
            lower, upper = (tuple(b[k].tolist()) for b in (self.robust.lower, self.robust.upper))
            return EngineMargin(settings.engine, lower, upper)
        return NetworkMargin(_encoded(self.robust, k))


def merged(parts: list[tuple[Tensor, Finding]]) -> Finding:
    """Findings about the inputs of each part, later parts first; every input is in one."""
    if len(parts) == 1:
        return parts[0][1]
    first = parts[0][1]
    last = {row: (part, k) for part, (at, _) in enumerate(parts) for k, row in enumerate(at.tolist())}
    places = [last[row] for row in sorted(last)]

    def bounds(name: str) -> LogitBounds:
        own: list[tuple[LogitBounds, int]] = [(getattr(parts[part][1], name), k) for part, k in places]
        lower, upper = torch.stack([b.lower[k] for b, k in own]), torch.stack([b.upper[k] for b, k in own])
        return LogitBounds(lower, upper, tuple(b.witness[k] for b, k in own))

    slack = torch.stack([parts[part][1].slack[k] for part, k in places])
    hopeful = torch.stack([parts[part][1].hopeful[k] for part, k in places])
    return Finding(slack, hopeful, bounds("robust"), None if first.standard is None else bounds("standard"))


def _encoded(bounds: LogitBounds, k: int) -> str | None:
    data = bounds.witness[k]
    return None if data is None else base64.b64encode(data).decode()


def standard_network(problem: Problem) -> PlainNetwork:
    """g's plain network. Raises EngineError where it has none."""
    network = problem.standard.network
    if network is None:
        raise EngineError(f"the standard model ({problem.standard.source}) has no plain network to bound")
    return network


class Bounder(abc.ABC):
    """Answers for one batch of inputs, whose classes to certify are `predicted` (N,); may remember between calls."""

    def __init__(self, problem: Problem, predicted: Tensor) -> None:
        self.problem = problem
        self.predicted = predicted

    @abc.abstractmethod
    def find(self, rows: Tensor, radii: Tensor, witness: bool) -> Finding:
        """What the bounds certify for inputs `rows` (M,) at `radii` (M,) float64. Raises EngineError."""

    def query(self, network: PlainNetwork, rows: Tensor, radii: Tensor) -> MarginQuery:
        s = self.problem.settings
        return MarginQuery(network, self.problem.inputs[rows], s.norm, radii, s.domain, self.predicted[rows])

    def box_slack(self, h: LogitBounds, g: LogitBounds | None, predicted: Tensor) -> Tensor:
        """(M,) by the box form of h, or where g was bounded by the better of Lemma 3.2 and docs/maths.md 6."""
        s = self.problem.settings
        of_h = box_margin(h.lower, h.upper, predicted, s.temperature)
        of_g = torch.full_like(of_h, -1.0) if g is None else box_margin(g.lower, g.upper, predicted, 1.0)
        slack = pair_slack(of_g, of_h, s.alpha).masked_fill(own_class(predicted, of_h.shape[1]), float("inf"))
        return slack.min(dim=1).values

    @abc.abstractmethod
    def observe(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        """Bounds of h alone, recorded, whatever alpha and temperature are. Raises EngineError."""

    def known_radii(self, rows: Tensor) -> Tensor | None:
        """(M,) the largest radii certified, 0 for none, where that is known without a search."""
        del rows
        return None

    def record(
        self, rows: Tensor, radii: Tensor, h: LogitBounds, passes: Passes | None = None, wanted: Tensor | None = None
    ) -> None:
        """Hand every bound found to whoever collects margin curves. passes: of inputs numbered as `rows` are. wanted:
        (M,) bool, or None: all."""
        if self.problem.record is None:
            return
        for k, row in enumerate(rows.tolist()):
            if wanted is not None and not bool(wanted[k]):
                continue
            radius, y = float(radii[k]), int(self.predicted[row])
            own = None if passes is None else _of_input(passes, k)
            seen = Observation(radius, y, h.lower[k], h.upper[k], own, h.witness[k])
            self.problem.record(self.problem.indices[row], seen)


def _of_input(passes: Passes, k: int) -> Passes | None:
    at = (passes.inputs == k).nonzero().squeeze(1)
    if not len(at):
        return None
    return Passes(passes.inputs[at], passes.rival[at], passes.coefficients[at], passes.reach[at])


class EngineBounder(Bounder):
    """Any engine of the table, box form only."""

    def __init__(self, problem: Problem, predicted: Tensor, engine: Engine) -> None:
        super().__init__(problem, predicted)
        self.engine = engine

    def find(self, rows: Tensor, radii: Tensor, witness: bool) -> Finding:
        h = self.observe(rows, radii, witness)
        g = None
        if self.problem.settings.use_standard:
            g = self.engine.bounds(self.query(standard_network(self.problem), rows, radii))
        slack = self.box_slack(h, g, self.predicted[rows])
        judged = self.problem.settings.evidence == "network"  # by its own bounds, which may be tighter
        return Finding(slack, torch.ones_like(slack, dtype=torch.bool) if judged else slack > 0, h, g)

    def observe(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        h = self.engine.bounds(self.query(self.problem.network, rows, radii))
        self.record(rows, radii, h)
        return h

"""From radii to what bounds certify there: the engines, and the margin forms built on their bounds, behind one call."""

from __future__ import annotations

import abc
import base64
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.curves import Observation, Passes
from certmix.exponential import Head, head
from certmix.margins import box_margin, own_class
from certmix.problem import Problem
from certmix.settings import Settings
from certmix.theorems.margin import pair_slack
from proofs_check.certificate import PlainNetwork
from proofs_check.rules.margin import EngineMargin, NetworkMargin, PairMargin
from verifiers import ENGINES
from verifiers.crown import Analysis, Crown
from verifiers.crown_network import CrownNetwork
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
        """(M,) by the box form of h, or where g was bounded by the better of Lemma 3.2 and MATH.md 6."""
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

    def record(self, rows: Tensor, radii: Tensor, h: LogitBounds, passes: Passes | None = None) -> None:
        """Hand every bound found to whoever collects margin curves. passes: of inputs numbered as `rows` are."""
        if self.problem.record is None:
            return
        for k, row in enumerate(rows.tolist()):
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


@dataclass(frozen=True, eq=False)
class Slopes:
    """Lower slopes (K, n) of one input's last passes, per class: those of the box and those of the exponential form."""

    box: Tensor
    exponential: Tensor


def _stacked(rows: Tensor, first: dict[int, Slopes], second: dict[int, Slopes]) -> tuple[Tensor | None, Tensor | None]:
    """(M, K, n) slopes of the two last passes to start from: those in `first`, else in `second`; None if any lacks."""
    found = [k for row in rows.tolist() if (k := first.get(row) or second.get(row)) is not None]
    if not found or len(found) < len(rows):
        return None, None
    return torch.stack([k.box for k in found]), torch.stack([k.exponential for k in found])


class CrownBounder(Bounder):
    """The native engine: box and exponential form. A search goes on tuning the slopes it has; what is handed to the
    judge in the end starts from those that certified the radius, and can only have become better."""

    def __init__(self, problem: Problem, predicted: Tensor, engine: Crown) -> None:
        super().__init__(problem, predicted)
        self.engine = engine
        self.prepared: dict[str, CrownNetwork] = {}
        self.latest: dict[int, Slopes] = {}
        self.certified: dict[int, Slopes] = {}

    def find(self, rows: Tensor, radii: Tensor, witness: bool) -> Finding:
        s = self.problem.settings
        query = self.query(self.problem.network, rows, radii)
        network = self._network(self.problem.network)
        first, second = _stacked(rows, self.certified if witness else self.latest, self.latest)
        analysis = self.engine.analyse(query, network, first)
        found = head(analysis, s.alpha, s.temperature, s.optimise, second) if self._exponential() else None
        h = LogitBounds(
            analysis.lower, analysis.upper, self._witness(analysis, None if found is None else found.second, witness)
        )
        self._record_analysis(rows, radii, h, analysis, found)
        g = self._standard(rows, radii, witness) if s.use_standard else None
        slack = self.box_slack(h, g, self.predicted[rows])
        slack = slack if found is None else torch.maximum(slack, found.slack)
        self._remember(rows, analysis, found, slack)
        return Finding(slack, slack > (-ROUNDING if s.evidence == "network" else 0.0), h, g)

    def observe(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        query = self.query(self.problem.network, rows, radii)
        analysis = self.engine.analyse(
            query, self._network(self.problem.network), _stacked(rows, self.latest, self.latest)[0]
        )
        h = LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, None, witness))
        self._remember(rows, analysis, None, torch.full((len(rows),), -1.0))
        self.record(rows, radii, h)
        return h

    def _record_analysis(
        self, rows: Tensor, radii: Tensor, h: LogitBounds, analysis: Analysis, found: Head | None
    ) -> None:
        if found is None or found.second is None:
            self.record(rows, radii, h)
            return
        hints = h.witness
        if analysis.slopes is not None and any(w is not None for w in hints):  # rivals no pass was run for: the box's
            used = found.second.any(2, keepdim=True)
            hints = analysis.witness(torch.where(used, found.second, analysis.slopes))
        self.record(rows, radii, LogitBounds(h.lower, h.upper, hints), found.passes)

    def _remember(self, rows: Tensor, analysis: Analysis, found: Head | None, slack: Tensor) -> None:
        if analysis.slopes is None:
            return
        for k, row in enumerate(rows.tolist()):
            own = analysis.slopes[k]
            again = own if found is None or found.second is None else found.second[k]
            self.latest[row] = Slopes(own, torch.where(again.any(1, keepdim=True), again, own))
            if float(slack[k]) > 0:
                self.certified[row] = self.latest[row]

    def _exponential(self) -> bool:
        """Whether the judge will be asked by a rule that knows the exponential form."""
        s = self.problem.settings
        return s.alpha > 0.5 and s.evidence == "network" and not s.use_standard

    def _network(self, network: PlainNetwork) -> CrownNetwork:
        if network.sha256 not in self.prepared:
            self.prepared[network.sha256] = self.engine.prepare(network)
        return self.prepared[network.sha256]

    def _witness(self, analysis: Analysis, second: Tensor | None, wanted: bool) -> tuple[bytes | None, ...]:
        if not wanted or not self.problem.settings.optimise:
            return (None,) * len(analysis.lower)  # the judge's own default slopes are the same
        return analysis.witness(second)

    def _standard(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        network = standard_network(self.problem)
        analysis = self.engine.analyse(self.query(network, rows, radii), self._network(network))
        return LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, None, witness))


def make_bounder(problem: Problem, predicted: Tensor, engine: Engine) -> Bounder:
    """The bounder for one batch."""
    if isinstance(engine, Crown):
        return CrownBounder(problem, predicted, engine)
    return EngineBounder(problem, predicted, engine)


def make_engine(settings: Settings) -> Engine:
    """The engine the settings name; the same one for equal settings, so that networks are converted once."""
    return _engine(settings.engine, settings.optimise, settings.device)


@functools.lru_cache(maxsize=4)
def _engine(name: str, steps: int, device: str) -> Engine:
    return Crown(steps=steps, device=device) if name == "crown" else ENGINES[name]()

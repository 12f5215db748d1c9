"""Margin certificates: engine bounds -> Lemma 3.2 (or the pair form) -> a radius the judge proves."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.judging import Bench, largest_accepted
from certmix.lines import certificate_line
from certmix.margins import box_margin, own_class
from certmix.outcomes import Certified, Outcome, Reason
from certmix.problem import Problem
from certmix.search import largest_passing
from certmix.settings import Settings, diameter
from certmix.theorems.margin import critical_alpha, pair_slack, required_margin
from proofs_check.certificate import ClassOf, PlainNetwork, Rejected
from proofs_check.rules.margin import EngineMargin, NetworkMargin, PairMargin
from verifiers import ENGINES
from verifiers.engine import Engine, EngineError, LogitBounds, MarginQuery
from verifiers.plain import PlainModule


@dataclass(frozen=True, eq=False)
class Points:
    """At the inputs themselves, in float64: class to certify (N,), its least probability margin (N,)."""

    predicted: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class Proposal:
    """What the engine's bounds say about one batch: the slack of every input (N,) > 0 where certified."""

    slack: Tensor
    robust: LogitBounds
    standard: LogitBounds | None


@dataclass(frozen=True, eq=False)
class MarginProver:
    """Proves Lemma 3.2 claims about h's class, or with `settings.use_standard` MATH.md 6 about the mix's."""

    problem: Problem
    bench: Bench
    engine: Engine

    def prove(self) -> list[Outcome]:
        """One outcome per input, in order."""
        points = self._points()
        outcomes: dict[int, Outcome] = {}
        for row in range(len(self.problem.inputs)):
            refusal = self._refusal(points, row)
            if refusal is not None:
                outcomes[row] = refusal
        rows = torch.tensor([r for r in range(len(self.problem.inputs)) if r not in outcomes], dtype=torch.int64)
        try:
            radii = self._radii(rows, points)
            outcomes.update(self._judged(rows, radii, points))
        except EngineError as error:
            missing = [int(r) for r in rows if int(r) not in outcomes]
            outcomes.update({r: self._abstained(points, r, Reason.ENGINE_FAILED, str(error)) for r in missing})
        return [outcomes[r] for r in range(len(self.problem.inputs))]

    # -------------------------------------------------------------- at the inputs themselves

    @property
    def class_of(self) -> ClassOf:
        return "mix" if self.problem.settings.use_standard else "robust"

    def _points(self) -> Points:
        s = self.problem.settings
        x = self.problem.inputs.double()
        robust = PlainModule(self.problem.network).double()(x)
        probabilities = torch.softmax(s.temperature * robust, dim=1)
        ranked = robust
        if s.use_standard:
            standard = torch.softmax(PlainModule(self._standard()).double()(x), dim=1)
            probabilities = (1 - s.alpha) * standard + s.alpha * probabilities
            ranked = probabilities
        predicted = ranked.argmax(dim=1)
        own = torch.nn.functional.one_hot(predicted, ranked.shape[1]).bool()
        best_rival = probabilities.masked_fill(own, -1.0).max(dim=1).values
        return Points(predicted, probabilities.gather(1, predicted[:, None])[:, 0] - best_rival)

    def _standard(self) -> PlainNetwork:
        network = self.problem.standard.network
        if network is None:
            raise EngineError(
                f"the standard model ({self.problem.standard.source}) has no plain network to bound: "
                f"leave out use_standard"
            )
        return network

    def _refusal(self, points: Points, row: int) -> Outcome | None:
        """Why no theorem can certify this input at any radius, if so."""
        s, margin = self.problem.settings, float(points.margin[row])
        if margin <= 0:
            return self._abstained(points, row, Reason.TIE, "the two most probable classes tie at the input")
        if s.use_standard:
            return None
        if s.alpha <= 0.5:
            advice = f"Lemma 3.2 needs alpha > 1/2, got {s.alpha}: raise alpha, or bound g too (use_standard)"
            return self._abstained(points, row, Reason.NO_THEOREM, advice)
        needed = required_margin(s.alpha)
        if margin <= needed:
            advice = (
                f"the robust model's margin {margin:.4g} is not above the required {needed:.4g}: "
                f"raise alpha above {critical_alpha(margin):.4g} or the temperature above {s.temperature:g}"
            )
            return self._abstained(points, row, Reason.MARGIN_TOO_SMALL, advice)
        return None

    def _abstained(self, points: Points, row: int, reason: Reason, advice: str) -> Outcome:
        return self.problem.abstained(int(points.predicted[row]), reason, advice, self.class_of)

    # -------------------------------------------------------------- the engine proposes

    def _propose(self, rows: Tensor, radii: Tensor, points: Points) -> Proposal:
        s = self.problem.settings
        predicted = points.predicted[rows]

        def ask(network: PlainNetwork) -> LogitBounds:
            return self.engine.bounds(
                MarginQuery(network, self.problem.inputs[rows], s.norm, radii, s.domain, predicted)
            )

        h = ask(self.problem.network)
        of_h = box_margin(h.lower, h.upper, predicted, s.temperature)
        g = ask(self._standard()) if s.use_standard else None
        of_g = torch.full_like(of_h, -1.0) if g is None else box_margin(g.lower, g.upper, predicted, 1.0)
        slack = pair_slack(of_g, of_h, s.alpha).masked_fill(own_class(predicted, of_h.shape[1]), float("inf"))
        return Proposal(slack.min(dim=1).values, h, g)

    def _radii(self, rows: Tensor, points: Points) -> Tensor:
        """(M,) radii to propose for `rows`: the fixed one, or the largest the engine's bounds certify (0: none)."""
        s = self.problem.settings
        if s.radius is not None:
            return torch.full((len(rows),), s.radius, dtype=torch.float64)
        if s.domain is None:
            raise TypeError("excluded by Settings")
        limit = diameter(s.norm, s.domain, self.problem.inputs[0].numel())

        def passes(indices: Tensor, radii: Tensor) -> Tensor:
            return self._in_batches(rows[indices], radii, points) > 0

        return largest_passing(passes, len(rows), limit, s.tolerance)

    def _in_batches(self, rows: Tensor, radii: Tensor, points: Points) -> Tensor:
        size = self.problem.settings.batch_size
        parts = [
            self._propose(rows[i : i + size], radii[i : i + size], points).slack for i in range(0, len(rows), size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    # -------------------------------------------------------------- the judge disposes

    def _judged(self, rows: Tensor, radii: Tensor, points: Points) -> dict[int, Outcome]:
        size = self.problem.settings.batch_size
        outcomes: dict[int, Outcome] = {}
        for start in range(0, len(rows), size):
            batch, wanted = rows[start : start + size], radii[start : start + size]
            proposal = self._propose(batch, wanted, points)
            for k, row in enumerate(batch.tolist()):
                outcomes[row] = self._outcome(row, k, float(wanted[k]), proposal, points)
        return outcomes

    def _outcome(self, row: int, k: int, radius: float, proposal: Proposal, points: Points) -> Outcome:
        s = self.problem.settings
        fixed = s.radius is not None
        if not fixed and radius == 0:
            advice = "the bounds certify no radius: try another engine, optimise, a larger alpha or temperature"
            return self._abstained(points, row, Reason.RADIUS_NOT_REACHED, advice)
        if s.evidence == "engine" and not float(proposal.slack[k]) > 0:
            return self._abstained(points, row, Reason.RADIUS_NOT_REACHED, _short(radius, s.engine))
        predicted = int(points.predicted[row])

        def write(tried: float) -> bytes:
            claim = self.problem.claim(row, tried, predicted, self.class_of, None)
            rule, evidence = self._evidence(k, proposal)
            index, label = self.problem.indices[row], self.problem.labels[row]
            return certificate_line(index, label, "margin", claim, rule, evidence)

        value = self.problem.input(row)
        found = largest_accepted(radius, fixed, write, lambda line: self.bench.verdict(line, value))
        if isinstance(found, Rejected):
            reason = Reason.RADIUS_NOT_REACHED if fixed else Reason.JUDGE_REJECTED
            return self._abstained(points, row, reason, f"{_short(radius, s.engine)} ({found.step}: {found.reason})")
        return Certified(
            predicted, found[0], s.norm, s.alpha, "margin", self.class_of, found[1],
            self.problem.network, self.problem.standard.network, value, radius,
        )  # fmt: skip

    def _evidence(self, k: int, proposal: Proposal) -> tuple[str, object]:
        if proposal.standard is not None:
            return "pair_margin", PairMargin(_encoded(proposal.robust, k), _encoded(proposal.standard, k))
        if self.problem.settings.evidence == "engine":
            lower, upper = (tuple(b[k].tolist()) for b in (proposal.robust.lower, proposal.robust.upper))
            return "engine_margin", EngineMargin(self.problem.settings.engine, lower, upper)
        return "network_margin", NetworkMargin(_encoded(proposal.robust, k))


def _short(radius: float, engine: str) -> str:
    return (
        f"the bounds of {engine} do not reach radius {radius:.6g}: "
        f"ask for a smaller one, optimise the slopes, or raise alpha or the temperature"
    )


def _encoded(bounds: LogitBounds, k: int) -> str | None:
    data = bounds.witness[k]
    return None if data is None else base64.b64encode(data).decode()


def prove_margin(problem: Problem, bench: Bench) -> list[Outcome]:
    """Margin certificates for every input of `problem`."""
    return MarginProver(problem, bench, make_engine(problem.settings)).prove()


def make_engine(settings: Settings) -> Engine:
    """The engine the settings name."""
    return ENGINES[settings.engine]()

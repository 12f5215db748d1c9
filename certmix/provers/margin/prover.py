"""Margin certificates: engine bounds -> Lemma 3.2 (or the pair form) -> a radius the judge proves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.provers.judging import Bench, largest_accepted
from certmix.provers.margin.bounder import RULES, Bounder, Finding, merged, standard_network
from certmix.provers.margin.engines import make_bounder, make_engine
from certmix.provers.problem import Problem
from certmix.provers.radius_search import largest_passing, largest_positive
from certmix.records.lines import certificate_line
from certmix.records.outcomes import Certified, Outcome, Reason
from certmix.settings import diameter
from certmix.theorems.margin import critical_alpha, required_margin
from certmix.theorems.softmax_margin import own_class
from proofs_check.certificate import ClassOf, Rejected
from verifiers.engine import EngineError
from verifiers.network.module import PlainModule

# what makes the bounder of one batch, given the classes to certify (N,)
Bounders = Callable[[Problem, Tensor], Bounder]

OBSERVED = 0.05  # relative tolerance of a radius that only curves need
ROUNDS = 4  # of tuning at a fixed radius
RETREAT = (
    1e-3,
    1e-3,
    2e-3,
    4e-3,
    8e-3,
    1.6e-2,
    3.2e-2,
)  # relative, in turn, where what a search kept was better than bounds from nothing
NEAR = 0.2  # lack of slack beyond which more tuning is not tried


@dataclass(frozen=True, eq=False)
class Points:
    """At the inputs themselves, in float64: class to certify (N,), its least probability margin (N,)."""

    predicted: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class MarginProver:
    """Proves Lemma 3.2 claims about h's class, or with `settings.use_standard` docs/maths.md 6 about the mix's."""

    problem: Problem
    bench: Bench
    bounders: Bounders

    def prove(self) -> list[Outcome]:
        """One outcome per input, in order."""
        points = self._points()
        outcomes: dict[int, Outcome] = {}
        for row in range(len(self.problem.inputs)):
            refusal = self._refusal(points, row)
            if refusal is not None:
                outcomes[row] = refusal
        if self.problem.record is not None:
            searched = range(len(self.problem.inputs)) if self.problem.settings.radius is None else outcomes
            self._observe([row for row in searched if float(points.margin[row]) > 0], points)
        rows = torch.tensor([r for r in range(len(self.problem.inputs)) if r not in outcomes], dtype=torch.int64)
        for batch in rows.split(self.problem.settings.batch_size) if len(rows) else ():
            try:
                outcomes.update(self._batch(batch, points))
            except EngineError as error:
                failed = {r: self._abstained(points, r, Reason.ENGINE_FAILED, str(error)) for r in batch.tolist()}
                outcomes.update(failed)
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
            standard = torch.softmax(PlainModule(standard_network(self.problem)).double()(x), dim=1)
            probabilities = (1 - s.alpha) * standard + s.alpha * probabilities
            ranked = probabilities
        predicted = ranked.argmax(dim=1)
        own = torch.nn.functional.one_hot(predicted, ranked.shape[1]).bool()
        best_rival = probabilities.masked_fill(own, -1.0).max(dim=1).values
        return Points(predicted, probabilities.gather(1, predicted[:, None])[:, 0] - best_rival)

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

    # -------------------------------------------------------------- the engine proposes, the judge disposes

    def _batch(self, rows: Tensor, points: Points) -> dict[int, Outcome]:
        """Outcomes of one batch of inputs that no theorem refuses."""
        bounder = self.bounders(self.problem, points.predicted)
        radii = self._radii(bounder, rows)
        found = bounder.find(rows, radii, True)
        for shrinkage in RETREAT if self.problem.settings.radius is None else ():
            short = (~found.hopeful & (radii > 0)).nonzero().flatten()
            if not len(short):
                break
            radii[short] *= 1 - shrinkage
            found = merged([(torch.arange(len(rows)), found), (short, bounder.find(rows[short], radii[short], True))])
        return {row: self._outcome(row, k, float(radii[k]), found, points) for k, row in enumerate(rows.tolist())}

    def _observe(self, rows: list[int], points: Points) -> None:
        """Bounds for other alphas and temperatures: at the fixed radius, or up to the largest one on which h's class is
        constant."""
        s = self.problem.settings
        for batch in torch.tensor(rows, dtype=torch.int64).split(s.batch_size) if rows else ():
            bounder = self.bounders(self.problem, points.predicted)

            def constant(indices: Tensor, radii: Tensor, batch: Tensor = batch, bounder: Bounder = bounder) -> Tensor:
                own = own_class(points.predicted[batch[indices]], self.problem.network.classes)
                return (bounder.observe(batch[indices], radii, False).upper.lt(0) | own.to(radii.device)).all(dim=1)

            try:
                radii = self._fixed(len(batch))
                if radii is None:
                    radii = largest_passing(constant, len(batch), self._limit(), OBSERVED)
                bounder.observe(batch, radii, True)
            except EngineError:  # what it could not bound is not in the curves
                continue

    def _fixed(self, count: int) -> Tensor | None:
        radius = self.problem.settings.radius
        return None if radius is None else torch.full((count,), radius, dtype=torch.float64)

    def _limit(self) -> float:
        s = self.problem.settings
        if s.domain is None:
            raise TypeError("excluded by Settings")
        return diameter(s.norm, s.domain, self.problem.inputs[0].numel())

    def _radii(self, bounder: Bounder, rows: Tensor) -> Tensor:
        """(M,) radii to propose for `rows`: the fixed one, or the largest the bounds certify (0: none)."""
        fixed = self._fixed(len(rows))
        if fixed is not None:
            self._tune(bounder, rows, fixed)
            return fixed
        known = bounder.known_radii(rows)
        if known is not None:
            return known

        def slack(indices: Tensor, radii: Tensor) -> Tensor:
            return bounder.find(rows[indices], radii, False).slack

        return largest_positive(slack, len(rows), self._limit(), self.problem.settings.tolerance)

    def _tune(self, bounder: Bounder, rows: Tensor, radii: Tensor) -> None:
        """Let the bounder go on with the inputs that are nearly certified (a search does so anyway)."""
        for _ in range(ROUNDS if self.problem.settings.optimise else 0):
            slack = bounder.find(rows, radii, False).slack
            near = (slack <= 0) & (slack > -NEAR)
            rows, radii = rows[near], radii[near]
            if not len(rows):
                return

    def _outcome(self, row: int, k: int, radius: float, found: Finding, points: Points) -> Outcome:
        s = self.problem.settings
        fixed = s.radius is not None
        if not fixed and radius == 0:
            advice = "the bounds certify no radius: optimise the slopes, or raise alpha or the temperature"
            return self._abstained(points, row, Reason.RADIUS_NOT_REACHED, advice)
        if not bool(found.hopeful[k]):
            return self._abstained(points, row, Reason.RADIUS_NOT_REACHED, _short(radius, s.engine))
        predicted, value = int(points.predicted[row]), self.problem.input(row)
        evidence = found.evidence(k, s)

        def write(tried: float) -> bytes:
            claim = self.problem.claim(row, tried, predicted, self.class_of, None)
            index, label = self.problem.indices[row], self.problem.labels[row]
            return certificate_line(index, label, "margin", claim, RULES[type(evidence)], evidence)

        judged = largest_accepted(radius, fixed, write, lambda line: self.bench.verdict(line, value))
        if isinstance(judged, Rejected):
            reason = Reason.RADIUS_NOT_REACHED if fixed else Reason.JUDGE_REJECTED
            return self._abstained(points, row, reason, f"{_short(radius, s.engine)} ({judged.step}: {judged.reason})")
        return Certified(
            predicted, judged[0], s.norm, s.alpha, "margin", self.class_of, judged[1],
            self.problem.network, self.problem.standard.network, value, radius,
        )  # fmt: skip


def _short(radius: float, engine: str) -> str:
    return (
        f"the bounds of {engine} do not reach radius {radius:.6g}: "
        f"ask for a smaller one, optimise the slopes, or raise alpha or the temperature"
    )


def prove_margin(problem: Problem, bench: Bench) -> list[Outcome]:
    """Margin certificates for every input of `problem`."""
    engine = make_engine(problem.settings)
    return MarginProver(problem, bench, lambda own, predicted: make_bounder(own, predicted, engine)).prove()

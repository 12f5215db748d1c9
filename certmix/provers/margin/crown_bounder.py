"""The native engine behind a bounder that remembers what it found at other radii, and looks no closer than it must."""

from __future__ import annotations

import torch
from torch import Tensor

from certmix.provers.margin.bounder import ROUNDING, Bounder, Finding, merged, standard_network
from certmix.provers.margin.exponential_head import Head, head
from certmix.provers.margin.memory import Memory, Slopes
from certmix.provers.problem import Problem
from proofs_check.certificate import PlainNetwork
from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.engine import Analysis, Crown
from verifiers.crown.network import CrownNetwork
from verifiers.engine import LogitBounds

HOPELESS = 0.8  # lack of slack that more tuning does not make up for


class CrownBounder(Bounder):
    """The native engine: box and exponential form.

    A search goes on tuning the slopes it has, and looks no closer than it must. What is handed to the judge in the end
    is bounded from nothing, as the judge will do it, with tuning that starts from the slopes that certified the radius.
    """

    def __init__(self, problem: Problem, predicted: Tensor, engine: Crown) -> None:
        super().__init__(problem, predicted)
        self.engine = engine
        self.prepared: dict[str, CrownNetwork] = {}
        self.memory = Memory()

    def find(self, rows: Tensor, radii: Tensor, witness: bool) -> Finding:
        g = self._standard(rows, radii, witness) if self.problem.settings.use_standard else None
        if witness or not self.engine.steps:  # without tuning there is little to save, and the judge sees the same
            known = self.engine.layers(
                self.query(self.problem.network, rows, radii), self._network(self.problem.network)
            )
            return self._look(rows, radii, torch.arange(len(rows)), known, g, self.engine.steps, witness)
        return self._search(rows, radii, g)

    def _search(self, rows: Tensor, radii: Tensor, g: LogitBounds | None) -> Finding:
        """Ever closer, as long as inputs are not certified: with the layers' bounds of a radius that failed; with their
        own, at the slopes at hand; with tuned slopes, unless slopes tuned before are far from it."""
        left = torch.arange(len(rows))
        parts: list[tuple[Tensor, Finding]] = []
        borrowed = left[self.memory.failed_above(rows, radii)]
        if len(borrowed):
            known = self._layers(rows[borrowed], radii[borrowed], True)
            parts.append((borrowed, self._look(rows, radii, borrowed, known, g, 0, False)))
            left = left[~torch.isin(left, borrowed[parts[-1][1].slack > 0])]
        if not len(left):
            return merged(parts)
        again = bool(self.memory.failed_at(rows[left], radii[left]).all())
        known = self._layers(rows[left], radii[left], again)
        if self.engine.steps and not again:
            parts.append((left, self._look(rows, radii, left, known, g, 0, False)))
            slack = parts[-1][1].slack
            tuned = torch.tensor([one is not None for one in self.memory.slopes(rows[left], False)])
            hopeless = (slack <= -HOPELESS) & tuned
            self.memory.keep(rows[left], radii[left], known, hopeless)
            still = ((slack <= 0) & ~hopeless).nonzero().flatten()
            left, known = left[still], known.pick(still.to(known.slopes.device))
        if len(left):
            parts.append((left, self._look(rows, radii, left, known, g, self.engine.steps, False)))
        return merged(parts)

    def _layers(self, rows: Tensor, radii: Tensor, enough: bool) -> IntermediateBounds:
        """Bounds of the layers. enough: those remembered will do, interval arithmetic apart."""
        query = self.query(self.problem.network, rows, radii)
        return self.engine.layers(query, self._network(self.problem.network), self.memory.before(rows, radii, enough))

    def _look(
        self,
        rows: Tensor,
        radii: Tensor,
        at: Tensor,
        known: IntermediateBounds,
        g: LogitBounds | None,
        steps: int,
        witness: bool,
    ) -> Finding:
        """The last passes of the inputs `at` of `rows`, from the bounds `known` of their layers."""
        s, own, reach = self.problem.settings, rows[at], radii[at]
        stored = self.memory.slopes(own, witness)
        analysis = self.engine.last_pass(known, self.predicted[own], _starts(known, stored), steps)
        second = None if analysis.slopes is None else _again(analysis.slopes, stored)
        found = head(analysis, s.alpha, s.temperature, steps, second) if self._exponential() else None
        h = LogitBounds(
            analysis.lower, analysis.upper, self._witness(analysis, None if found is None else found.second, witness)
        )
        of_g = None if g is None else _picked(g, at)
        slack = self.box_slack(h, of_g, self.predicted[own])
        slack = slack if found is None else torch.maximum(slack, found.slack)
        self._record_analysis(own, reach, h, analysis, found, slack > 0 if steps < self.engine.steps else None)
        if steps == self.engine.steps:
            self.memory.keep(own, reach, known, slack <= 0)
        known_before = torch.tensor([one is not None for one in stored])
        self.memory.keep_slopes(own, analysis, found, known_before | (steps > 0), slack > 0)
        return Finding(slack, slack > (-ROUNDING if s.evidence == "network" else 0.0), h, of_g)

    def observe(self, rows: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        query = self.query(self.problem.network, rows, radii)
        known = self.engine.layers(query, self._network(self.problem.network))
        stored = self.memory.slopes(rows, False)
        analysis = self.engine.last_pass(known, self.predicted[rows], _starts(known, stored), self.engine.steps)
        h = LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, None, witness))
        everything = torch.ones(len(rows), dtype=torch.bool)
        self.memory.keep_slopes(rows, analysis, None, everything, ~everything)
        self.record(rows, radii, h)
        return h

    def _record_analysis(
        self, rows: Tensor, radii: Tensor, h: LogitBounds, analysis: Analysis, found: Head | None, wanted: Tensor | None
    ) -> None:
        if found is None or found.second is None:
            self.record(rows, radii, h, None, wanted)
            return
        hints = h.witness
        if analysis.slopes is not None and any(w is not None for w in hints):  # rivals no pass was run for: the box's
            used = found.second.any(2, keepdim=True)
            hints = analysis.witness(torch.where(used, found.second, analysis.slopes))
        self.record(rows, radii, LogitBounds(h.lower, h.upper, hints), found.passes, wanted)

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


def _picked(bounds: LogitBounds, at: Tensor) -> LogitBounds:
    return LogitBounds(bounds.lower[at], bounds.upper[at], tuple(bounds.witness[k] for k in at.tolist()))


def _starts(known: IntermediateBounds, stored: list[Slopes | None]) -> Tensor | None:
    """(M, K, n) slopes to start from, the shared ones where none are stored; None if none are at all. What an input
    starts from never depends on the others."""
    if all(one is None for one in stored):
        return None
    classes = known.net.network.classes
    return torch.stack(
        [known.slopes[k].expand(classes, -1) if one is None else one.box for k, one in enumerate(stored)]
    )


def _again(box: Tensor, stored: list[Slopes | None]) -> Tensor:
    """(M, K, n) slopes that the exponential form starts from: those stored, or `box`."""
    return torch.stack([box[k] if one is None else one.exponential for k, one in enumerate(stored)])

"""The native engine behind an oracle that remembers what it found at other radii, and does no dearer work than it must.

A bound takes two stages. First the *layers*: bounds of every neuron on the ball (dear). Then the *last pass*: bounds of
the logit differences, and of the exponential form, from those of the layers; its ReLU slopes may be tuned by gradient
steps (the dearer, the more steps).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.provers.margin.exponential_head import Head, head
from certmix.provers.margin.memory import InputSlopes, RadiusMemory
from certmix.provers.margin.oracle import FLOAT32_LACK, MarginBound, MarginOracle, latest_of_each, standard_network
from certmix.provers.problem import Problem
from proofs_check.certificate import PlainNetwork
from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.engine import Analysis, Crown
from verifiers.crown.intermediate import NO_BOUNDS, ReusableBounds
from verifiers.crown.network import CrownNetwork
from verifiers.engine import LogitBounds

LARGEST_TUNABLE_LACK = 0.8  # of slack, in a search: slopes that were tuned before and lack more are not tuned again


@dataclass(frozen=True, eq=False)
class AskedBalls:
    """M balls asked about. inputs: (M,) by index in the batch. radii: (M,). standard: bounds of g there, if used."""

    inputs: Tensor
    radii: Tensor
    standard: LogitBounds | None

    def pick(self, positions: Tensor) -> AskedBalls:
        """Those at `positions` of the M."""
        g = self.standard
        if g is not None:
            g = LogitBounds(g.lower[positions], g.upper[positions], tuple(g.witness[k] for k in positions.tolist()))
        return AskedBalls(self.inputs[positions], self.radii[positions], g)


class CrownOracle(MarginOracle):
    """The native engine: box and exponential form.

    A search goes on tuning the slopes it has, and tries what is cheap first. What is handed to the judge in the end is
    bounded from nothing, as the judge will do it, with tuning that starts from the slopes that certified the radius.
    """

    def __init__(self, problem: Problem, predicted: Tensor, engine: Crown) -> None:
        super().__init__(problem, predicted)
        self.engine = engine
        self.prepared: dict[str, CrownNetwork] = {}
        self.memory = RadiusMemory()

    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        g = self._bound_standard(inputs, radii, witness) if self.problem.settings.use_standard else None
        asked = AskedBalls(inputs, radii, g)
        if witness or not self.engine.steps:  # without tuning there is little to save, and the judge sees the same
            return self.last_pass(asked, self.layers(asked, NO_BOUNDS), self.engine.steps, witness)
        return self._bound_cheapest_first(asked)

    def _bound_cheapest_first(self, asked: AskedBalls) -> MarginBound:
        """Up to three attempts, each dearer than the one before and made only for the balls that are not certified yet:

        1. where a larger radius failed: with the layers' bounds remembered from it, slopes as they are;
        2. with the layers' own bounds, slopes as they are;
        3. with these bounds and tuned slopes, unless slopes that were tuned before are far from certifying.

        Where all that is left failed at this very radius before, attempt 2 is known to fail: only 3 is made, from the
        bounds remembered.
        """
        attempts: list[tuple[Tensor, MarginBound]] = []
        uncertified = torch.arange(len(asked.inputs))

        below_failed = self.memory.failed_above(asked.inputs, asked.radii).nonzero().flatten()
        if len(below_failed):
            balls = asked.pick(below_failed)
            by_remembered = self.last_pass(balls, self.layers(balls, self._remembered(balls, True)), 0, False)
            attempts.append((below_failed, by_remembered))
            certified = below_failed[by_remembered.slack > 0]
            uncertified = uncertified[~torch.isin(uncertified, certified)]
        if not len(uncertified):
            return latest_of_each(attempts)

        balls = asked.pick(uncertified)
        repeated = bool(self.memory.failed_at(balls.inputs, balls.radii).all())
        layers = self.layers(balls, self._remembered(balls, repeated))
        if not repeated:
            untuned = self.last_pass(balls, layers, 0, False)
            attempts.append((uncertified, untuned))
            worth_tuning = self._worth_tuning(balls, layers, untuned.slack)
            uncertified, balls = uncertified[worth_tuning], balls.pick(worth_tuning)
            layers = layers.pick(worth_tuning.to(layers.slopes.device))
        if len(uncertified):
            attempts.append((uncertified, self.last_pass(balls, layers, self.engine.steps, False)))
        return latest_of_each(attempts)

    def _worth_tuning(self, balls: AskedBalls, layers: IntermediateBounds, slack: Tensor) -> Tensor:
        """Positions of the balls that untuned slopes do not certify and tuning may; the others that they do not certify
        are remembered as failed."""
        tuned_before = torch.tensor([slopes is not None for slopes in self.memory.slopes(balls.inputs, False)])
        given_up = (slack <= -LARGEST_TUNABLE_LACK) & tuned_before
        self.memory.keep_layers(balls.inputs, balls.radii, layers, given_up)
        return ((slack <= 0) & ~given_up).nonzero().flatten()

    # -------------------------------------------------------------- the two stages

    def layers(self, balls: AskedBalls, reusable: ReusableBounds) -> IntermediateBounds:
        query = self.query(self.problem.network, balls.inputs, balls.radii)
        return self.engine.layers(query, self._network(self.problem.network), reusable)

    def _remembered(self, balls: AskedBalls, reuse_only: bool) -> ReusableBounds:
        """reuse_only: no backward pass adds to them, interval arithmetic does."""
        return self.memory.reusable(balls.inputs, balls.radii, reuse_only)

    def last_pass(self, balls: AskedBalls, layers: IntermediateBounds, steps: int, witness: bool) -> MarginBound:
        """Bounds of the logit differences and of the exponential form from those of the layers, with slopes that start
        from the remembered ones and are tuned in `steps` steps; archived and remembered."""
        s, predicted = self.problem.settings, self.predicted[balls.inputs]
        remembered = self.memory.slopes(balls.inputs, witness)
        analysis = self.engine.last_pass(layers, predicted, _box_start(layers, remembered), steps)
        exponential = None
        if self._judge_knows_exponential_form():
            start = None if analysis.slopes is None else _exponential_start(analysis.slopes, remembered)
            exponential = head(analysis, s.alpha, s.temperature, steps, start)
        h = LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, exponential, witness))
        slack = self.box_slack(h, balls.standard, predicted)
        if exponential is not None:
            slack = torch.maximum(slack, exponential.slack)

        final = steps == self.engine.steps
        self._archive_analysis(balls, h, analysis, exponential, None if final else slack > 0)
        if final:
            self.memory.keep_layers(balls.inputs, balls.radii, layers, slack <= 0)
        tuned_ever = torch.tensor([slopes is not None for slopes in remembered]) | (steps > 0)
        self.memory.keep_slopes(balls.inputs, analysis, exponential, tuned_ever, slack > 0)
        worth_judging = slack > (-FLOAT32_LACK if s.evidence == "network" else 0.0)
        return MarginBound(slack, worth_judging, h, balls.standard)

    # -------------------------------------------------------------- for the archive

    def bound_robust(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        balls = AskedBalls(inputs, radii, None)
        layers = self.layers(balls, NO_BOUNDS)
        start = _box_start(layers, self.memory.slopes(inputs, False))
        analysis = self.engine.last_pass(layers, self.predicted[inputs], start, self.engine.steps)
        h = LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, None, witness))
        every_input = torch.ones(len(inputs), dtype=torch.bool)
        self.memory.keep_slopes(inputs, analysis, None, every_input, ~every_input)
        self.archive(inputs, radii, h)
        return h

    def _archive_analysis(
        self, balls: AskedBalls, h: LogitBounds, analysis: Analysis, head: Head | None, wanted: Tensor | None
    ) -> None:
        if head is None or head.exponential is None:
            self.archive(balls.inputs, balls.radii, h, None, wanted)
            return
        witness = h.witness
        if analysis.slopes is not None and any(w is not None for w in witness):
            witness = analysis.witness(head.exponential.slopes.filled(analysis.slopes))
        self.archive(balls.inputs, balls.radii, LogitBounds(h.lower, h.upper, witness), head.exponential.passes, wanted)

    # -------------------------------------------------------------- networks, witnesses

    def _judge_knows_exponential_form(self) -> bool:
        """Whether the judge will be asked by a rule that knows it."""
        s = self.problem.settings
        return s.alpha > 0.5 and s.evidence == "network" and not s.use_standard

    def _network(self, network: PlainNetwork) -> CrownNetwork:
        if network.sha256 not in self.prepared:
            self.prepared[network.sha256] = self.engine.prepare(network)
        return self.prepared[network.sha256]

    def _witness(self, analysis: Analysis, head: Head | None, wanted: bool) -> tuple[bytes | None, ...]:
        if not wanted or not self.problem.settings.optimise:
            return (None,) * len(analysis.lower)  # the judge's own default slopes are the same
        return analysis.witness(None if head is None or head.exponential is None else head.exponential.slopes.slopes)

    def _bound_standard(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        network = standard_network(self.problem)
        analysis = self.engine.analyse(self.query(network, inputs, radii), self._network(network))
        return LogitBounds(analysis.lower, analysis.upper, self._witness(analysis, None, witness))


def _box_start(layers: IntermediateBounds, remembered: list[InputSlopes | None]) -> Tensor | None:
    """(M, K, n) slopes to start from, the shared ones where none are remembered; None if none are at all. What an input
    starts from never depends on the others."""
    if all(slopes is None for slopes in remembered):
        return None
    classes = layers.net.network.classes
    return torch.stack(
        [layers.slopes[k].expand(classes, -1) if one is None else one.box for k, one in enumerate(remembered)]
    )


def _exponential_start(box: Tensor, remembered: list[InputSlopes | None]) -> Tensor:
    """(M, K, n) slopes that the exponential form starts from: those remembered, or `box`."""
    return torch.stack([box[k] if one is None else one.exponential for k, one in enumerate(remembered)])

"""An engine behind an oracle that remembers what it found at other radii, and does no dearer work than it must.

A bound takes two stages. First the *layers*: bounds of every neuron on the ball (dear). Then the *last pass*: bounds of
the logit differences, and of the exponential form, from those of the layers; its slopes may be tuned by gradient steps
(the dearer, the more steps). What an engine cannot do (verifiers.engine.Capabilities) is left out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.provers.margin.exponential_head import Head, head
from certmix.provers.margin.memory import InputSlopes, RadiusMemory
from certmix.provers.margin.oracle import FLOAT32_LACK, MarginBound, MarginOracle, latest_of_each, standard_network
from certmix.provers.problem import ProverProblem
from certmix.provers.session import EngineSession
from verifiers.engine import NOTHING_KNOWN, Answer, Constraints, Layers, LogitBounds, WarmStart

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


class EngineOracle(MarginOracle):
    """Any engine: box form, and the exponential form where the judge will look for it.

    A search goes on tuning the slopes it has, and tries what is cheap first. What is handed to the judge in the end is
    bounded from nothing, as the judge will do it, with tuning that starts from the slopes that certified the radius.
    """

    def __init__(self, problem: ProverProblem, predicted: Tensor, session: EngineSession) -> None:
        super().__init__(problem, predicted)
        self.session = session
        self.memory: RadiusMemory = RadiusMemory()

    def bound(self, inputs: Tensor, radii: Tensor, witness: bool) -> MarginBound:
        g = self._bound_standard(inputs, radii, witness) if self.problem.settings.use_standard else None
        asked = AskedBalls(inputs, radii, g)
        if witness or not self._tunes_further():  # there is little to save, and the judge sees the same
            return self.attempt(asked, self._steps, witness)[0]
        return self._bound_cheapest_first(asked)

    @property
    def _steps(self) -> int:
        return self.session.engine.steps

    def _tunes_further(self) -> bool:
        can = self.session.engine.capabilities
        return self._steps > 0 and can.warm_start and can.second_form

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
            by_remembered, _ = self.attempt(balls, 0, False, self._remembered(balls, True))
            attempts.append((below_failed, by_remembered))
            certified = below_failed[by_remembered.slack > 0]
            uncertified = uncertified[~torch.isin(uncertified, certified)]
        if not len(uncertified):
            return latest_of_each(attempts)

        balls, layers = asked.pick(uncertified), None
        repeated = bool(self.memory.failed_at(balls.inputs, balls.radii).all())
        constraints = self._remembered(balls, repeated)
        if not repeated:
            untuned, layers = self.attempt(balls, 0, False, constraints)
            attempts.append((uncertified, untuned))
            worth_tuning = self._worth_tuning(balls, layers, untuned.slack)
            uncertified, balls, constraints = uncertified[worth_tuning], balls.pick(worth_tuning), NOTHING_KNOWN
            layers = None if layers is None else layers.pick(worth_tuning)
        if len(uncertified):
            attempts.append((uncertified, self.attempt(balls, self._steps, False, constraints, layers)[0]))
        return latest_of_each(attempts)

    def _worth_tuning(self, balls: AskedBalls, layers: Layers | None, slack: Tensor) -> Tensor:
        """Positions of the balls that untuned slopes do not certify and tuning may; the others that they do not certify
        are remembered as failed."""
        tuned_before = torch.tensor([slopes is not None for slopes in self.memory.slopes(balls.inputs, False)])
        given_up = (slack <= -LARGEST_TUNABLE_LACK) & tuned_before
        self.memory.keep_layers(balls.inputs, balls.radii, layers, given_up)
        return ((slack <= 0) & ~given_up).nonzero().flatten()

    # -------------------------------------------------------------- one attempt

    def _remembered(self, balls: AskedBalls, final: bool) -> Constraints:
        """final: no backward pass adds to them, interval arithmetic does."""
        return self.memory.constraints(balls.inputs, balls.radii, final)

    def attempt(
        self,
        balls: AskedBalls,
        steps: int,
        witness: bool,
        known: Constraints = NOTHING_KNOWN,
        layers: Layers | None = None,
    ) -> tuple[MarginBound, Layers | None]:
        """Bounds of the logit differences and of the exponential form, with slopes that start from the remembered ones
        and are tuned in `steps` steps; archived and remembered. Also the layers they were derived from.

        known: of the layers. layers: found on these very balls before.
        """
        s, predicted = self.problem.settings, self.predicted[balls.inputs]
        remembered = self.memory.slopes(balls.inputs, witness)
        start = WarmStart(layers, tuple(None if one is None else one.box for one in remembered))
        query = dataclasses.replace(self.query(balls.inputs, balls.radii), constraints=known, steps=steps)
        answer = self.session.answer(self.problem.network, query, start)
        layers = None if answer.left is None else answer.left.layers
        exponential = None
        if self._judge_looks_for_exponential_form():
            box = answer.slopes()
            begin = None if box is None else _exponential_start(box, remembered)
            exponential = head(answer, predicted, s.alpha, s.temperature, steps, begin)
        h = LogitBounds(answer.bounds.lower, answer.bounds.upper, self._witness(answer, exponential, witness))
        slack = self.box_slack(h, balls.standard, predicted)
        alone = torch.full_like(slack, balls.standard is None, dtype=torch.bool)
        if exponential is not None:
            alone |= exponential.slack > slack
            slack = torch.maximum(slack, exponential.slack)
            if balls.standard is not None:
                pairs = zip(alone.tolist(), h.witness, self._witness(answer, None, witness), strict=True)
                h = dataclasses.replace(h, witness=tuple(own if by_h else both for by_h, own, both in pairs))

        final = steps == self._steps
        self._archive_answer(balls, h, answer, exponential, None if final else slack > 0)
        if final:
            self.memory.keep_layers(balls.inputs, balls.radii, layers, slack <= 0)
        tuned_ever = torch.tensor([slopes is not None for slopes in remembered]) | (steps > 0)
        self.memory.keep_slopes(balls.inputs, answer, exponential, tuned_ever, slack > 0)
        return MarginBound(slack, self._worth_judging(slack), h, balls.standard, alone), layers

    def _worth_judging(self, slack: Tensor) -> Tensor:
        """The judge derives the engine's bounds up to rounding, or takes them, or has his own, which may be tighter."""
        if self.problem.settings.evidence == "engine":
            return slack > 0
        return slack > (-FLOAT32_LACK if self.session.engine.capabilities.witness else -torch.inf)

    # -------------------------------------------------------------- for the archive

    def bound_robust(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        start = WarmStart(None, tuple(None if one is None else one.box for one in self.memory.slopes(inputs, False)))
        answer = self.session.answer(self.problem.network, self.query(inputs, radii), start)
        h = LogitBounds(answer.bounds.lower, answer.bounds.upper, self._witness(answer, None, witness))
        every_input = torch.ones(len(inputs), dtype=torch.bool)
        self.memory.keep_slopes(inputs, answer, None, every_input, ~every_input)
        self.archive(inputs, radii, h)
        return h

    def _archive_answer(
        self, balls: AskedBalls, h: LogitBounds, answer: Answer, head: Head | None, wanted: Tensor | None
    ) -> None:
        if head is None or head.exponential is None:
            self.archive(balls.inputs, balls.radii, h, None, wanted)
            return
        witness, box = h.witness, answer.slopes()
        if box is not None and head.slopes is not None and any(w is not None for w in witness):
            witness = answer.witness(head.slopes.filled(box))
        self.archive(balls.inputs, balls.radii, LogitBounds(h.lower, h.upper, witness), head.exponential.passes, wanted)

    # -------------------------------------------------------------- witnesses

    def _judge_looks_for_exponential_form(self) -> bool:
        """Whether the judge will be asked by a rule that knows it, about slopes that the engine can tell."""
        s, can = self.problem.settings, self.session.engine.capabilities
        ours = can.second_form and can.witness
        return ours and s.alpha > 0.5 and s.evidence == "network"

    def _witness(self, answer: Answer, head: Head | None, wanted: bool) -> tuple[bytes | None, ...]:
        if not wanted or not self._steps:
            return (None,) * len(answer.bounds.lower)  # the judge's own default slopes are the same
        return answer.witness(None if head is None or head.slopes is None else head.slopes.slopes)

    def _bound_standard(self, inputs: Tensor, radii: Tensor, witness: bool) -> LogitBounds:
        answer = self.session.answer(standard_network(self.problem), self.query(inputs, radii))
        return LogitBounds(answer.bounds.lower, answer.bounds.upper, self._witness(answer, None, witness))


def _exponential_start(box: Tensor, remembered: list[InputSlopes | None]) -> Tensor:
    """(M, K, n) slopes that the exponential form starts from: those remembered, or `box`."""
    return torch.stack([box[k] if one is None else one.exponential for k, one in enumerate(remembered)])

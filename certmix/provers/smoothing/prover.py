"""Randomised-smoothing certificates: selection draws -> plan -> certifying draws -> counts -> a judged radius.

What is certified is the exact expectation h (and hence the mix built on it). A deployed model estimates h by
finitely many draws: see evaluation.mix_predictions, an evaluation and not a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certmix.formatting import exact, lower, nearest, upper
from certmix.provers.frame import Proposed, Prover, Refusal
from certmix.provers.judging import JudgeSession
from certmix.provers.problem import ProverProblem
from certmix.provers.proposal import Proposal
from certmix.provers.session import Session
from certmix.provers.smoothing import plan as planning
from certmix.provers.smoothing.base_model import base_of, check, noise_of, usable
from certmix.provers.smoothing.plan import Bound, Counts
from certmix.provers.smoothing.tally import Evidence, Tally, block_size
from certmix.records.outcomes import Outcome, Reason
from certmix.theorems.smoothing import required_margin
from proofs_check.certificate import Smoothing
from proofs_check.rules.smoothing import Look, Sample
from proofs_check.rules.stopped import Stopped
from verifiers.smoothing import confidence, sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job, Outputs

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

FUTILITY_FRACTIONS = (0.03, 0.2)  # of the draws, after which hopeless inputs are given up; abstaining needs no share
RADIUS_SLACK = 1e-9  # relative: the proposed radius stays clear of float error


@dataclass(frozen=True, eq=False)
class Selected:
    """One tally per input, in order, with the plan that its selection draws made."""

    tallies: tuple[Tally, ...]

    @property
    def predicted(self) -> Tensor:
        return torch.tensor([t.plans[0].predicted for t in self.tallies])


@dataclass(frozen=True, eq=False)
class SmoothingProver(Prover[Selected]):
    """One batch of inputs under the problem's settings."""

    base: Base
    noise: GridNoise
    centres: NDArray[np.int64]
    progress: Progress | None = None

    @staticmethod
    def of(problem: ProverProblem, judge: JudgeSession, progress: Progress | None = None) -> SmoothingProver:
        """Raises UsageError where these settings can never certify, or the models do not fit them."""
        check(problem)
        noise = noise_of(problem)
        centres = sampling.grid_points(problem.inputs.numpy(), noise.grid)
        return SmoothingProver(problem, judge, base_of(problem), noise, centres, progress)

    # -------------------------------------------------------------- shares and sizes

    @property
    def required(self) -> float:
        return 0.0 if self.problem.settings.use_standard else required_margin(self.problem.settings.alpha)

    @property
    def any_time(self) -> bool:
        """Sampling may stop at any draw, and is asked whether to at each of `looks`."""
        return not self.problem.settings.smoothing.looks

    @property
    def looks(self) -> list[int]:
        """Numbers of draws at which sampling may stop."""
        s = self.problem.settings.smoothing
        return sorted({math.ceil(f * s.samples) for f in s.looks or _geometric(s.samples)})

    @property
    def reserved(self) -> float:
        """Share of the failure probability for a sampler that is exact only up to 2^-64."""
        return self.noise.sampler_share(self.problem.settings.smoothing.samples, self.centres[0].size)

    @property
    def look_share(self) -> float:
        probability = self.problem.settings.smoothing.failure_probability
        left = planning.share_of(probability, self.reserved)
        return left if self.any_time else confidence.split(left, len(self.looks))

    @property
    def block(self) -> int:
        return block_size(self.problem.settings.smoothing.samples)

    # -------------------------------------------------------------- the run

    @property
    def class_of(self) -> Literal["robust", "mix"]:
        return "mix" if self.problem.settings.use_standard else "robust"

    def at_inputs(self) -> Selected:
        return Selected(tuple(self.select([cast("Bound", self.problem.settings.smoothing.bound)])))

    def refusal(self, points: Selected, batch_index: int) -> Refusal | None:
        return None  # how much an input lacks shows in the draws

    def search(self, inputs: Tensor, points: Selected) -> dict[int, Proposed | Refusal]:
        tallies = [points.tallies[k] for k in inputs.tolist()]
        found: dict[int, Proposed | Refusal] = {}
        done, last = 0, self.looks[-1]
        stops = sorted({*self.looks, *(math.ceil(f * last) for f in FUTILITY_FRACTIONS)})
        for stop in stops:
            waiting = [t for t in tallies if t.batch_index not in found]
            self.count(waiting, done, stop)
            done = stop
            for tally in waiting:
                decision = self._decide(tally, stop)
                if decision is not None:
                    found[tally.batch_index] = decision
        return found

    def select(self, bounds: Sequence[Bound]) -> list[Tally]:
        """Selection draws of every input, and the plan each of `bounds` makes of them."""
        s = self.problem.settings
        n = s.smoothing.selection_samples
        tallies: list[Tally] = []
        collected: list[Array] = []
        for part, outputs in self._sample(range(len(self.problem.inputs)), 0, n, sampling.SELECTION):
            collected.append(sampling.on_processor(outputs))
            if part.stop == n:
                drawn = np.concatenate(collected)
                plans = [self._plan(drawn, part.row, b) for b in bounds]
                tallies.append(Tally.start(part.row, drawn.mean(axis=0), plans))
                collected = []
        return tallies

    def _plan(self, drawn: Array, batch_index: int, bound: Bound) -> planning.Plan:
        s, draws = self.problem.settings, self.looks[-1]
        if not self.any_time or s.radius is None:
            return planning.choose(drawn, bound, draws, self.look_share, s.alpha, self.required)
        distance = sampling.grid_distance(self.problem.input(batch_index), self.noise.grid)
        shift = (s.radius / (1 - 2 * RADIUS_SLACK) + distance) / s.smoothing.noise_std
        return planning.stopping(drawn, shift, draws, self.look_share, self.required)

    def count(self, tallies: Sequence[Tally], start: int, stop: int) -> None:
        """Add certifying draws start … stop − 1 of every tally's input."""
        by_index = {t.batch_index: t for t in tallies}
        for part, outputs in self._sample([t.batch_index for t in tallies], start, stop, sampling.CERTIFYING):
            by_index[part.row].add(part.start, outputs, self.block)

    def _sample(
        self, inputs: Sequence[int] | range, start: int, stop: int, stage: int
    ) -> Iterator[tuple[Job, Outputs]]:
        s = self.problem.settings
        jobs = [Job(r, self.problem.indices[r], start, stop) for r in inputs]
        stream = sampling.sample(
            self.base, self.noise, self.centres, jobs, s.seed, stage, s.smoothing.draw_batch, self.progress
        )
        while True:
            drawn = usable(lambda: next(stream, None))
            if drawn is None:
                return
            yield drawn

    # -------------------------------------------------------------- from counts to outcomes

    def lower(self, tally: Tally, plan: int, draws: int) -> list[Array]:
        chosen = tally.plans[plan]
        share = confidence.split(self.look_share, chosen.statements)
        return planning.lower_bounds(chosen, tally.totals(plan), draws, share)

    def radius(self, tally: Tally, plan: int, lower: Sequence[Array]) -> float:
        """The radius `lower` certifies around the input, at most; <= 0 or -inf: none."""
        s = self.problem.settings
        shift = planning.largest_shift(tally.plans[plan], lower, s.alpha, self.required)
        distance = sampling.grid_distance(self.problem.input(tally.batch_index), self.noise.grid)
        return (s.smoothing.noise_std * shift - distance) * (1 - RADIUS_SLACK)

    def _decide(self, tally: Tally, draws: int) -> Proposed | Refusal | None:
        """What so many draws come to, or None to go on."""
        s, last = self.problem.settings, self.looks[-1]
        if draws in self.looks:
            lower = self.lower(tally, 0, draws)
            radius = self.radius(tally, 0, lower)
            if draws == last or (s.radius is not None and radius > s.radius):
                return self._finish(tally, draws, lower, radius)
        optimistic_radius = self.radius(tally, 0, self._optimistic(tally, draws))
        goal = 0.0 if s.radius is None else s.radius
        return None if optimistic_radius > goal else self._lacking(tally, optimistic_radius)

    def _optimistic(self, tally: Tally, draws: int) -> list[Array]:
        """Lower bounds to hope for at the last look, five standard deviations above what was seen."""
        last, plan = self.looks[-1], tally.plans[0]
        counts: list[Counts] = []
        for table in tally.totals(0):
            shares = table / draws
            optimistic = shares + 5 * np.sqrt(shares * (1 - shares) / draws) + 10 / draws
            counts.append(np.floor(np.minimum(optimistic, 1.0) * last).astype(np.int64))
        return planning.lower_bounds(plan, counts, last, confidence.split(self.look_share, plan.statements))

    def _finish(self, tally: Tally, draws: int, lower: list[Array], radius: float) -> Proposed | Refusal:
        s = self.problem.settings
        if radius <= 0 or (s.radius is not None and radius <= s.radius):
            return self._lacking(tally, radius)
        proposed = radius if s.radius is None else s.radius
        batch_index, plan = tally.batch_index, tally.plans[0]
        evidence = self._evidence(tally, draws, lower)
        claim = self.problem.claim(batch_index, proposed, plan.predicted, self.class_of, self._smoothing())
        proposal = Proposal(batch_index, claim, "smoothing", plan.rule, lambda _: evidence)
        return Proposed((proposal,), "the judge does not accept what the counts prove: take more samples")

    def _smoothing(self) -> Smoothing:
        s = self.problem.settings
        return Smoothing(
            noise_std=s.smoothing.noise_std,
            base=self.base.kind,
            failure_probability=s.smoothing.failure_probability,
            grid=self.noise.grid,
            networks="both" if s.use_standard else "robust",
        )

    def _evidence(self, tally: Tally, draws: int, lower: list[Array]) -> Evidence:
        s = self.problem.settings
        looks = tuple(Look(n, self.look_share) for n in self.looks)
        at, selection = self.looks.index(draws), s.smoothing.selection_samples
        drawn = s.seed, selection, self.base.precision
        taken = Sample(*drawn, looks, at, self.reserved)
        if self.any_time:
            taken = Stopped(*drawn, draws, self.looks[-1], self.reserved)
        share = confidence.split(self.look_share, tally.plans[0].statements)
        return tally.evidence(0, taken, lower, share, -(-draws // self.block))

    def _lacking(self, tally: Tally, radius: float) -> Refusal:
        s, predicted = self.problem.settings, tally.plans[0].predicted
        margin = float(tally.mean[predicted] - np.delete(tally.mean, predicted).max())
        about, required = f"the smoothed margin is about {nearest(margin, 3)}", upper(self.required, 3)
        if margin <= self.required:
            raised = f"raise alpha above {upper(1 / (1 + margin), 3)}"
            advice = f"{about}, the required one is {required}: "
            advice += "the class is too close to call" if s.use_standard else raised
            return Refusal(Reason.MARGIN_TOO_SMALL, advice)
        if s.radius is not None and radius > 0:
            reached = f"the counts reach radius {lower(radius, 4)} of the {exact(s.radius)} asked for"
            advice = f"{reached}: more samples, or larger noise"
            return Refusal(Reason.RADIUS_NOT_REACHED, advice)
        advice = (
            f"{about} against the required {required}, but its confidence bound stays below: take more than "
            f"{s.smoothing.samples} samples, or raise alpha"
        )
        return Refusal(Reason.NOT_ENOUGH_SAMPLES, advice)


def _geometric(samples: int) -> list[float]:
    """Fractions of the draws, the last 1: each number of draws a tenth more than the one before, from 32 on."""
    count = max(0, math.floor(math.log(samples / 32) / math.log(1.1))) if samples > 32 else 0
    return [1.1**-k for k in range(count + 1)][::-1]


def prove_smoothing(problem: ProverProblem, session: Session) -> list[Outcome]:
    """Outcomes of all inputs: Certified (each line accepted by the judge) or Abstained. Raises UsageError."""
    s = problem.settings
    if s.alpha <= 0.5 and not s.use_standard:
        advice = f"smoothing h alone needs alpha > 1/2, got {s.alpha}: raise alpha, or smooth g too (use_standard)"
        check(problem)
        return [problem.abstained(0, Reason.NO_THEOREM, advice) for _ in problem.indices]
    return SmoothingProver.of(problem, session.judge).prove()

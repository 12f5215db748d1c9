"""Branching input by input: one radius decided, or the largest pushed on, within a budget, over interruptions."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from certmix.attacks.ball import make_ball, size_up
from certmix.attacks.quick import quick_attack
from certmix.formatting import exact, lower, upper
from certmix.provers.limits import confirmed
from certmix.provers.margin.branching import Branched, branch
from certmix.provers.problem import ProverProblem, Pursued
from certmix.provers.proposal import Proposal, judged
from certmix.provers.session import Session
from certmix.records.outcomes import Abstained, Certified, Outcome, Reason
from certmix.records.unfinished import Unfinished
from certmix.settings import diameter
from certmix.theorems.margin import required_margin
from certmix.theorems.softmax_margin import box_margin, own_class
from proofs_check.certificate import ClassOf, MalformedError, PlainNetwork, Rejected
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.margin.branching import BranchedMargin, BranchedPair
from verifiers.branching.parts import Leaf
from verifiers.branching.search import Budget, Found
from verifiers.engine import EngineError, MarginQuery

STEP = 0.08  # relative, from a proven radius to the first one tried beyond it
SHARE = 0.4  # of what is left of an input's budget, for one radius of several
NEAR = 0.02  # relative: radii so close to one that is not proven are tried with all that is left
ALONE = 0.5  # of a budget, for h alone before g is bounded, too
WILD = -0.99  # where g's least margin on a ball is not proven to be above this, g's bounds help little
RULE, PAIR_RULE = "branched_margin", "branched_pair"

Partition = dict[int, list[Leaf]]


def branch_further(problem: ProverProblem, session: Session, outcomes: list[Outcome]) -> list[Outcome]:
    """`outcomes`, bettered by branching (docs/maths.md 10) within the settings' budget for each input: what bounds left
    open at the radius asked for is decided, largest radii are pushed on. What is refused stays so."""
    if not problem.settings.branches:
        return outcomes
    result = list(outcomes)
    for k, outcome in enumerate(outcomes):
        if problem.settings.radius is None and isinstance(outcome, Certified):
            result[k] = Pursuit(problem, session, k, outcome.predicted).pushed(outcome)
        elif isinstance(outcome, Abstained) and outcome.reason is Reason.RADIUS_NOT_REACHED:
            result[k] = Pursuit(problem, session, k, outcome.predicted).decided(outcome)
    return result


@dataclass(eq=False)
class Pursuit:
    """One input's branching. Every step is kept at the run's desk, if there is one, from which it goes on."""

    problem: ProverProblem
    session: Session
    k: int
    predicted: int

    def __post_init__(self) -> None:
        desk = self.problem.desk
        self.state: Unfinished = Unfinished() if desk is None else desk.read(self.problem.indices[self.k])
        self.share: float = ALONE if self.problem.settings.use_standard else 1.0  # of the budget, while h is alone
        self.partition: Partition | None = None  # of the last ball, to start from
        if self.problem.settings.use_standard and not self._robust_may_do():
            self.state = dataclasses.replace(self.state, with_standard=True)

    def _robust_may_do(self) -> bool:
        """Whether Lemma 3.2 may certify the class from bounds of h alone."""
        p = self.problem
        with torch.no_grad():
            own = int(p.robust.module(p.inputs[self.k : self.k + 1]).argmax())
        return p.settings.alpha > 0.5 and own == self.predicted

    def _standard_says_something(self, radius: float) -> bool:
        """Whether bounds of g on the ball of this radius, for the rivals that h leaves open, rule out any margin."""
        p, s = self.problem, self.problem.settings
        if p.standard.network is None:
            raise TypeError("excluded by ProverProblem")
        both = [self.session.engine.bounds(self._query(network, radius)) for network in (p.standard.network, p.network)]
        of_g, of_h = (
            box_margin(found.lower, torch.maximum(found.lower, found.upper), self._class(), temperature)
            for found, temperature in zip(both, (1.0, s.temperature), strict=True)
        )
        closed = ((1 - s.alpha) * of_g + s.alpha * of_h > 0) | own_class(self._class(), of_g.shape[1])
        return bool((closed | (of_g > WILD)).all())

    @property
    def _alone(self) -> bool:
        """h alone is bounded, and g is still to come, or its bounds say nothing."""
        return self.problem.settings.use_standard and not self.state.with_standard

    def decided(self, before: Abstained) -> Outcome:
        """The outcome at the radius asked for. An input that a quick attack refutes is left to it."""
        radius = self.problem.settings.radius
        if radius is None or self._attackable(radius):
            return before
        if (kept := self._kept()) is not None:
            return kept
        if self.state.advice is not None:
            return dataclasses.replace(before, advice=self.state.advice)
        try:
            found = self._attempt(radius, 1.0)
        except EngineError as error:
            return self.problem.abstained(self.predicted, Reason.ENGINE_FAILED, str(error))
        if found.found.point is not None and not self._alone:
            return self._refuted(before, found.found.point, radius)
        answer = self._judged(radius, found)
        if isinstance(answer, Certified):
            return answer
        if self._alone and (self.share < 1 or found.found.point is not None):
            self.partition = found.found.partition()
            self._next_half(radius, found.found.point is not None)
            return self.decided(before)
        self._keep(advice=answer)
        return dataclasses.replace(before, advice=answer)

    def pushed(self, best: Certified) -> Certified:
        """The certificate of the largest radius that is proven in time, if not of a larger one than `best`."""
        if self._alone:
            best = self._pushed(best)
            self._next_half(best.radius, self._left() > 0)
        best = self._pushed(best)
        if self._alone and self._left() > 0:  # no more can be proven by h
            self._next_half(best.radius, True)
            best = self._pushed(best)
        return best

    def _next_half(self, radius: float, done: bool) -> None:
        """What is left of the budget is for both networks; or where g's bounds say nothing for h as before, unless no
        more can be proven by it."""
        try:
            useful = done or self._standard_says_something(radius)
        except EngineError:
            useful = False
        if useful:
            self.partition = None
            self._keep(with_standard=True, beyond=None)
        self.share = 1.0

    def _pushed(self, best: Certified) -> Certified:
        s, step = self.problem.settings, STEP
        if s.domain is None:
            raise TypeError("excluded by Settings")
        limit = diameter(s.norm, s.domain, self.problem.inputs[self.k].numel())
        kept = self._kept()
        best = best if kept is None or kept.radius <= best.radius else kept
        while best.radius < limit and self._left() > 0:
            beyond = self.state.beyond
            gap = math.inf if beyond is None else beyond / best.radius - 1
            if gap <= s.tolerance:
                break
            trial = min(limit, best.radius * (1 + step) if beyond is None else math.sqrt(best.radius * beyond))
            try:
                found = self._attempt(trial, 1.0 if gap < NEAR else SHARE)
            except EngineError:  # what is proven stays so
                break
            if found.found.point is not None:  # so near that no larger radius can be proven either
                self._keep(beyond=min(trial, self._size(found.found.point)))
                continue
            answer = self._judged(trial, found, best.radius)
            if isinstance(answer, Certified):
                best, self.partition, step = answer, found.found.partition(), 2 * step
            if not isinstance(answer, Certified) or answer.radius < trial * (1 - s.tolerance):
                self._keep(beyond=trial)
        return best

    # ------------------------------------------------------------ points that refute

    def _refuted(self, before: Abstained, point: Tensor, radius: float) -> Abstained:
        """No certificate without bounds of g: h's margin is too small at `point`. With an attack, if the mix errs there
        too."""
        s, p, point = self.problem.settings, self.problem, self._inside(point, radius)
        with torch.no_grad():
            d = (z := p.robust.module(point[None]).double()) - z[:, self.predicted, None]
            mix = int(p.mix(p.inputs[self.k : self.k + 1]).argmax())
        if self.state.with_standard:
            advice = f"the mix is wrong or ties at a point within radius {exact(radius)}, as far as floats tell"
            return dataclasses.replace(before, advice=advice, attack=confirmed(p, self.k, mix, radius, point))
        own = own_class(self._class(), d.shape[1])
        margin = float(box_margin(d, d, self._class(), s.temperature).masked_fill(own, math.inf).min())
        advice = (
            f"the robust model's margin falls to {upper(margin, 4)} at a point within radius {exact(radius)}, and "
            f"{upper(required_margin(s.alpha), 4)} is required: no bounds of it alone certify that"
        )
        return dataclasses.replace(before, advice=advice, attack=confirmed(p, self.k, mix, radius, point))

    def _inside(self, point: Tensor, radius: float) -> Tensor:
        """(*shape) float32, in the ball exactly."""
        s, x = self.problem.settings, self.problem.inputs[self.k : self.k + 1]
        return make_ball(x, radius, s.norm, s.domain).project(point.view_as(x).float())[0]

    def _size(self, point: Tensor) -> float:
        """Its distance from the input."""
        x = self.problem.inputs[self.k : self.k + 1]
        return float(size_up(point.view_as(x).float(), x, self.problem.settings.norm)[0])

    # ------------------------------------------------------------ one radius

    def _attempt(self, radius: float, share: float) -> Branched:
        """A search on the ball of this radius, within `share` of what is left of the budget. Raises EngineError."""
        s, before = self.problem.settings, self.state
        of_all = self.share if self._alone else 1.0
        budget = Budget(
            share * (of_all * s.branch - before.seconds) if s.branch else math.inf,
            math.ceil(share * (of_all * s.branch_parts - before.parts)) if s.branch_parts else math.inf,
        )
        begun = time.monotonic()

        def tell(found: Found) -> None:
            if self.problem.tell is not None:
                left = None if not s.branch else max(0.0, s.branch - before.seconds - (time.monotonic() - begun))
                self.problem.tell(Pursued(self.problem.indices[self.k], radius, found.parts - found.unproven,
                                          found.parts, found.excess, left))  # fmt: skip

        search = self.session.pair_branching if before.with_standard else self.session.branching
        query, asked = self._query(search.network, radius), dataclasses.replace(s, use_standard=before.with_standard)
        found = search.within_memory(
            lambda engine: branch(engine, search.state, query, asked, budget, self.partition, tell)
        )
        self.state = dataclasses.replace(before, seconds=before.seconds + time.monotonic() - begun,
                                         parts=before.parts + found.found.bounded)  # fmt: skip
        self._keep()
        return found

    def _judged(self, radius: float, branched: Branched, above: float = 0.0) -> Certified | str:
        """The certificate, kept if its radius is above that; or why there is none."""
        s, found = self.problem.settings, branched.found
        if branched.evidence is None:
            limits = [f"{exact(s.branch)} s"] * (s.branch > 0) + [f"{s.branch_parts} parts"] * (s.branch_parts > 0)
            return (
                f"branching for {' or '.join(limits)} left {found.unproven} of {found.parts} parts of the ball of "
                f"radius {exact(radius)} open: give it more, or ask for a smaller radius"
            )
        begun, evidence = time.monotonic(), branched.evidence
        answer = self._proposed(radius, evidence)
        self.state = dataclasses.replace(self.state, seconds=self.state.seconds + time.monotonic() - begun)
        if isinstance(answer, Certified) and answer.radius > above:
            self._keep(line=answer.line.decode())
            return answer
        why = f"{answer.step}: {answer.reason}" if isinstance(answer, Rejected) else f"only {lower(answer.radius)}"
        return f"branching found a proof that the judge does not accept ({why})"

    def _proposed(self, radius: float, evidence: BranchedMargin | BranchedPair) -> Certified | Rejected:
        class_of: ClassOf = "mix" if self.problem.settings.use_standard else "robust"
        rule = RULE if isinstance(evidence, BranchedMargin) else PAIR_RULE
        claim = self.problem.claim(self.k, radius, self.predicted, class_of, None)
        return judged(self.problem, self.session.judge, Proposal(self.k, claim, "margin", rule, lambda _: evidence))

    def _query(self, network: PlainNetwork, radius: float) -> MarginQuery:
        s, p = self.problem.settings, self.problem
        radii = torch.tensor([radius], dtype=torch.float64)
        return MarginQuery(network, p.inputs[self.k : self.k + 1], s.norm, radii, s.domain, self._class())

    def _class(self) -> Tensor:
        return torch.tensor([self.predicted])

    def _attackable(self, radius: float) -> bool:
        """Whether an attack on the mix succeeds: then there is nothing to prove."""
        s, p = self.problem.settings, self.problem
        if not s.attack_steps:
            return False
        attack = quick_attack(
            p.standard.module, p.robust.module, s.alpha, s.temperature, p.inputs[self.k : self.k + 1], self._class(),
            s.norm, torch.tensor([radius], dtype=torch.float64), s.domain, steps=s.attack_steps, seed=s.seed,
        )  # fmt: skip
        return bool(attack.found[0])

    # ------------------------------------------------------------ what is left, and what is kept

    def _left(self) -> float:
        """The part of the budget that is not spent, of h's share while h is bounded alone."""
        s, spent, of_all = self.problem.settings, self.state, self.share if self._alone else 1.0
        seconds = of_all - spent.seconds / s.branch if s.branch else 1.0
        return min(seconds, of_all - spent.parts / s.branch_parts if s.branch_parts else 1.0)

    def _keep(self, **changes: str | float | None) -> None:
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]
        if self.problem.desk is not None:
            self.problem.desk.write(self.problem.indices[self.k], self.state)

    def _kept(self) -> Certified | None:
        """The certificate that an interrupted session kept, judged anew."""
        if self.state.line is None:
            return None
        try:
            line = parse.line(self.state.line.encode(), EVIDENCE)
        except MalformedError:
            return None
        if not isinstance(line, parse.Certificate) or not isinstance(line.evidence, BranchedMargin | BranchedPair):
            return None
        answer = self._proposed(line.claim.radius, line.evidence)
        return answer if isinstance(answer, Certified) else None

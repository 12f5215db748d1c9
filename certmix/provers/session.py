"""What a run prepares once. Its engine is made from the settings in this one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch

from certmix.provers.global_table import GlobalTable
from certmix.provers.judging import JudgeSession, judge_session
from certmix.provers.margin.branching import beside
from certmix.provers.problem import ProverProblem
from certmix.settings import Settings
from proofs_check.certificate import PlainNetwork
from proofs_check.kernel.bounds import Prepared
from verifiers import ENGINES
from verifiers.branching.search import Branching
from verifiers.crown.network import CrownNetwork
from verifiers.engine import Answer, Engine, EngineError, LogitBounds, MarginQuery, Query, WarmStart
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP

NO_MEMORY = "can't allocate memory"  # so torch says on a CPU, in a RuntimeError
T = TypeVar("T")
MAX_NEURONS = 128  # a network with more leaves out LipSDP: minutes of work for the smallest radii


def out_of_memory(error: Exception) -> bool:
    """Whether this says that memory ran out, of the processor or a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)


def make_engine(settings: Settings) -> Engine:
    """The engine the settings name, with the options they give it.

    Where the judge re-derives the bounds and the engine cannot tell him its slopes, tuning them would be for nothing.
    """
    kind = ENGINES[settings.proposer]
    tuned = settings.evidence == "engine" or kind.capabilities.witness
    return kind(steps=settings.optimise if tuned else 0, device=settings.device)


@dataclass(frozen=True, eq=False)
class EngineSession:
    """An engine and the states of the networks it was asked about, each prepared once."""

    engine: Engine
    states: dict[str, Any] = field(default_factory=dict)

    def state(self, network: PlainNetwork) -> Any:
        """The prepared network. Raises EngineError."""
        if network.sha256 not in self.states:
            self.states[network.sha256] = self.engine.prepare(network)
        return self.states[network.sha256]

    def answer(self, network: PlainNetwork, query: Query, warm_start: WarmStart | None = None) -> Answer:
        """See Engine.answer."""
        return self.engine.answer(self.state(network), query, warm_start)

    def bounds(self, query: MarginQuery) -> LogitBounds:
        """See Engine.bounds."""
        return self.engine.bounds(query, self.state(query.network))


@dataclass(eq=False)
class BranchingSession:
    """Branch and bound, and the network prepared for it."""

    engine: Branching
    network: PlainNetwork
    state: CrownNetwork

    def within_memory(self, search: Callable[[Branching], T]) -> T:
        """What `search` finds; where memory runs out it starts anew with half as many parts at once, and so do all
        searches after it. Raises EngineError where one part is too much."""
        while True:
            try:
                return search(self.engine)
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not out_of_memory(error):
                    raise
                if self.engine.parts == 1:
                    raise EngineError(f"branching ran out of memory with one part at once: {error}") from error
                self.engine = dataclasses.replace(self.engine, parts=self.engine.parts // 2)


@dataclass(frozen=True, eq=False)
class Session:
    """What a run prepares once, and hands from batch to batch: the judge's networks, the engine with its own, and the
    constants that hold everywhere."""

    judge: JudgeSession
    engine: EngineSession

    @cached_property
    def branching(self) -> BranchingSession:
        """Branch and bound, with h prepared for it. Raises EngineError."""
        return self._branching(self.judge.network.network)

    @cached_property
    def pair_branching(self) -> BranchingSession:
        """The same with g and h, side by side. Raises EngineError."""
        if not isinstance(self.judge.standard, Prepared):
            raise EngineError("branching with bounds of g needs its plain network")
        return self._branching(beside(self.judge.standard.network, self.judge.network.network))

    def _branching(self, network: PlainNetwork) -> BranchingSession:
        engine = Branching()
        return BranchingSession(engine, network, engine.prepare(network))

    @cached_property
    def global_table(self) -> GlobalTable:
        """Of h. Raises EngineError."""
        return self._table(self.judge.network)

    @cached_property
    def standard_table(self) -> GlobalTable:
        """Of g. Raises EngineError."""
        if not isinstance(self.judge.standard, Prepared):
            raise EngineError("the standard model has no plain network")
        return self._table(self.judge.standard)

    def _table(self, network: Prepared) -> GlobalTable:
        maps = LinearMaps(network.network, self.engine.engine.device)
        return GlobalTable(maps, LipSDP(max_neurons=MAX_NEURONS), network)


def open_session(problem: ProverProblem) -> Session:
    """A session for any problem with these models and settings. Raises UsageError where the judge takes a network not
    at all."""
    alpha = None if problem.adaptive is None else problem.adaptive.network
    judge = judge_session(problem.stated, problem.stated_standard, alpha)
    return Session(judge, EngineSession(make_engine(problem.settings)))

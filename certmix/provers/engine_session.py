"""The engine of a run, made from its settings in this one place, and the networks it has prepared."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from certmix.settings import Settings
from proofs_check.certificate import PlainNetwork
from verifiers import ENGINES
from verifiers.engine import Answer, Engine, LogitBounds, MarginQuery, Query, WarmStart


def make_engine(settings: Settings) -> Engine:
    """The engine the settings name, with the options they give it.

    Where the judge re-derives the bounds and the engine cannot tell him its slopes, tuning them would be for nothing.
    """
    kind = ENGINES[settings.engine]
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


def engine_session(settings: Settings) -> EngineSession:
    """The session of the engine that the settings name; the same one for equal engines."""
    return _session(make_engine(settings))


@functools.lru_cache(maxsize=4)
def _session(engine: Engine) -> EngineSession:
    return EngineSession(engine)

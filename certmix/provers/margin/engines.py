"""The engine a run's settings name, and the oracle that goes with it."""

from __future__ import annotations

import functools

from torch import Tensor

from certmix.provers.margin.crown_oracle import CrownOracle
from certmix.provers.margin.oracle import EngineOracle, MarginOracle
from certmix.provers.problem import Problem
from certmix.settings import Settings
from verifiers import ENGINES
from verifiers.crown.engine import Crown
from verifiers.engine import Engine


def make_oracle(problem: Problem, predicted: Tensor, engine: Engine) -> MarginOracle:
    """The oracle for one batch."""
    if isinstance(engine, Crown):
        return CrownOracle(problem, predicted, engine)
    return EngineOracle(problem, predicted, engine)


def make_engine(settings: Settings) -> Engine:
    """The engine the settings name; the same one for equal settings, so that networks are converted once."""
    return _engine(settings.engine, settings.optimise, settings.device)


@functools.lru_cache(maxsize=4)
def _engine(name: str, steps: int, device: str) -> Engine:
    return Crown(steps=steps, device=device) if name == "crown" else ENGINES[name]()

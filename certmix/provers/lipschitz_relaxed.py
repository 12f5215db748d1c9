"""Relaxed local constants of h, by an engine's bounds of logit differences or by an attack, and their fixed points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from certmix.theorems.lipschitz import (
    EstimatedConstants,
    LogitsAtInputs,
    estimated_radius,
    least_margin,
    relaxed_constants,
    relaxed_holds,
)
from certmix.theorems.margin import required_margin
from certmix.theorems.radius_search import largest_passing
from proofs_check.certificate import Norm, PlainNetwork
from verifiers.auto_lirpa.engine import AutoLirpa
from verifiers.crown.engine import Crown
from verifiers.engine import Engine, EngineError, LogitBounds, MarginQuery
from verifiers.lipschitz.estimate import Search, estimate_moves
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.perturbation import Balls

EngineChoice = Literal["best", "auto_lirpa", "crown"]
TOLERANCE = 0.01  # relative, of the fixed point
COARSE = 0.05  # the same of an attack's, which asks it again at every radius
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class RelaxedLocal:
    """lower, upper: (N, K) of d_j on the balls of the radius asked about; constants (N, K) there. radius (N,): the
    largest found, up to that, at which Theorem 3.5 holds with the constants of its own ball: a fixed point; 0: none.
    """

    lower: Tensor
    upper: Tensor
    constants: Tensor
    radius: Tensor


@dataclass(frozen=True, eq=False)
class Asker:
    """An engine with a network that it has prepared."""

    engine: Engine
    state: Any
    network: PlainNetwork

    def relaxed(
        self, inputs: Tensor, point: LogitsAtInputs, radius: float, norm: Norm, domain: tuple[float, float] | None
    ) -> RelaxedLocal:
        """Of balls around inputs (N, *shape) float32, `point` the logits there. Raises EngineError."""

        def bounds(index: Tensor, radii: Tensor) -> LogitBounds:
            query = MarginQuery(self.network, inputs[index], norm, radii, domain, point.predicted[index])
            return self.engine.bounds(query, self.state)

        def passes(index: Tensor, radii: Tensor) -> Tensor:
            part = of_inputs(point, index)
            found = bounds(index, radii)
            return relaxed_holds(part, relaxed_constants(part, found.lower, found.upper, radii))

        everyone, radii = torch.arange(len(inputs)), torch.full((len(inputs),), radius, dtype=torch.float64)
        found = bounds(everyone, radii)
        on_ball = relaxed_constants(point, found.lower, found.upper, radii)
        holds = relaxed_holds(point, on_ball)
        fixed = torch.where(holds, radii, 0.0)
        rest = everyone[~holds] if point.alpha > 0.5 else everyone[:0]
        if len(rest):
            fixed[rest] = largest_passing(lambda i, r: passes(rest[i], r), len(rest), radius, TOLERANCE)
        return RelaxedLocal(found.lower, found.upper, on_ball.values, fixed)


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack leaves of Theorem 3.5: constants (N, K) relaxed, from below, on the balls of the radius asked
    about. radius (N,): above it the theorem fails with the constants of its own ball; at most the ball's."""

    constants: Tensor
    radius: Tensor


def attacked(
    maps: LinearMaps, balls: Balls, point: LogitsAtInputs, search: Search, samples: Tensor, radius: float
) -> Attacked:
    """Of balls of `radius`; samples (N, S, *shape): further points to try. An estimate: it certifies nothing.

    Ensures: no relaxed constants that are sound pass at a radius above `radius` of the result, if below the ball's.
    """

    def constants(index: Tensor, radii: Tensor, tried: Tensor | None) -> EstimatedConstants:
        device = maps.device
        part = Balls(balls.center[index.to(device)], radii.to(device), balls.norm, balls.domain)
        moves = estimate_moves(maps, part, point.predicted[index], point.temperature, search, tried)
        return EstimatedConstants(moves.moved.cpu() / radii[:, None], "probabilities", radii)

    def passes(part: LogitsAtInputs, found: EstimatedConstants) -> Tensor:
        return estimated_radius(part, found, torch.inf).value > found.radius

    everyone, radii = torch.arange(len(balls)), torch.full((len(balls),), radius, dtype=torch.float64)
    on_ball = constants(everyone, radii, samples)
    left = radii.where(passes(point, on_ball), torch.zeros_like(radii))
    can = (left == 0) & (least_margin(point) > required_margin(point.alpha)) if point.alpha > 0.5 else left < 0
    rest = everyone[can]
    if len(rest):
        low = largest_passing(
            lambda i, r: passes(of_inputs(point, rest[i]), constants(rest[i], r, None)), len(rest), radius, COARSE
        )
        left[rest] = (low.clamp(min=radius * 2.0**-24) / (1 - COARSE)).clamp(max=radius)
    return Attacked(on_ball.values, left)


def of_inputs(point: LogitsAtInputs, index: Tensor) -> LogitsAtInputs:
    return LogitsAtInputs(point.logits[index], point.predicted[index], point.alpha, point.temperature)


def askers(network: PlainNetwork, choice: EngineChoice, device: str) -> tuple[dict[str, Asker], tuple[str, ...]]:
    """The engines asked, by name; notes on what was left out. best: all that are here, the native one always. Both
    compute in float64. Raises EngineError where the one engine asked for is not installed, or not for this network."""
    engines: dict[str, Engine] = {}
    if choice != "auto_lirpa":
        engines["crown"] = Crown(device=device, precision="float64")
    notes: list[str] = []
    if choice != "crown":
        engines["auto_lirpa"] = AutoLirpa(device=device, precision="float64")
    found: dict[str, Asker] = {}
    for name, engine in engines.items():
        try:
            engine.require_installed()
            found[name] = Asker(engine, engine.prepare(network), network)
        except EngineError as error:
            if choice != "best" or name == "crown":
                raise
            notes.append(f"auto_LiRPA left out: {error}")
    return found, tuple(notes)


def contradiction(first: LogitBounds | RelaxedLocal, second: LogitBounds | RelaxedLocal) -> list[int]:
    """The inputs at which the two engines' intervals of some d_j have no number in common: then one of them is wrong.

    Rounding, which neither counts, is forgiven.
    """
    scale = 1 + torch.maximum(first.upper.abs(), second.upper.abs())
    apart = torch.maximum(first.lower - second.upper, second.lower - first.upper)
    return (apart > ROUNDING * scale).any(dim=1).nonzero()[:, 0].tolist()

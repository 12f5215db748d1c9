"""Bounds of every node's value: on balls by the native CROWN engine in float64, at points by running error analysis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifiers.crown.backward import IntermediateBounds
from verifiers.crown.engine import CrownLayers
from verifiers.engine import Query, WarmStart, differences
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.perturbation import Balls

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class ValueBounds:
    """The engine's analysis of each ball: CROWN's bounds where a nonlinear node reads them, else intervals."""

    maps: LinearMaps
    balls: Balls
    intermediate_bounds: IntermediateBounds

    @property
    def values(self) -> list[Interval]:
        """(lower, upper) of every node's value, (N, *shapes[k]) float64 each; rounding is not accounted for."""
        return self.intermediate_bounds.values

    def differences(self, predicted: Tensor) -> Interval:
        """(lower, upper) of z_j - z_y, (N, K) each, column y zero."""
        query = Query(self.balls, differences(predicted, self.maps.network.classes))
        start = WarmStart(CrownLayers(self.intermediate_bounds), (None,) * len(predicted))
        bounds, _ = self.maps.engine.bound(self.maps.crown, query, start)
        return bounds.lower.to(self.maps.device), bounds.upper.to(self.maps.device)


def value_bounds(maps: LinearMaps, balls: Balls) -> ValueBounds:
    """Requires: balls.radius >= 0. Time: one backward pass per neuron that may be unstable."""
    rows = torch.zeros(len(balls), 0, maps.network.classes, dtype=torch.float64)  # layers' bounds need none
    return ValueBounds(maps, balls, maps.engine.layers(maps.crown, Query(balls, rows)))


def point_values(maps: LinearMaps, points: Tensor) -> list[Interval]:
    """(lower, upper) of every node's value at points (N, *shape) float64, (N, *shapes[k]) each.

    Ensures: the value in real arithmetic lies between them; their distance is the rounding error of the evaluation.
    """
    values: list[Interval] = [(points, points)]
    for k in range(1, len(maps.layers)):
        inputs = [values[i] for i in maps.parents(k)]
        if maps.affine(k):
            centres = [(low + high) / 2 for low, high in inputs]
            radii = [torch.maximum(high - m, m - low) for m, (low, high) in zip(centres, inputs, strict=True)]
            centre, radius = maps.step(k, centres, radii)
            values.append((centre - radius * (1 + maps.growth), centre + radius * (1 + maps.growth)))
        else:
            layer, ((low, high),) = maps.nonlinear(k), inputs
            least, most = layer.interval((low, high))
            error = torch.maximum(layer.rounding(low), layer.rounding(high))
            values.append((least - error, most + error))
    return values

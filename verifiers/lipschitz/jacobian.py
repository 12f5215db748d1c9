"""Upper bounds of Lipschitz constants of logit differences over balls, from bounds of the Jacobian.

Interval form of the chain rule for Clarke's generalised Jacobian (Clarke 1983, 2.6.6): every element of the
Jacobian at a point of the ball is a product of the affine nodes' matrices and of diagonal (ReLU, curves)
or selecting (max pooling) factors, each entry of which lies in a known interval. The ball is
convex, so the mean value theorem makes the largest dual norm a Lipschitz constant there (docs/maths.md 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers.nonlinear import Nonlinear
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.value_bounds import Interval
from verifiers.norms import NORMS

Slopes = tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class GradientBounds:
    """centre, radius: (N, R, *input shape): each partial derivative of form r lies in centre ± radius."""

    centre: Tensor
    radius: Tensor

    def dual_norm_upper(self, norm: c.Norm) -> Tensor:
        """(N, R) upper bounds of the dual norm of every gradient, rounding included."""
        return _norm((self.centre.abs() + self.radius).flatten(2), norm, 1)

    def dual_norm_lower(self, norm: c.Norm) -> Tensor:
        """(N, R) lower bounds of the dual norm of every gradient, rounding included."""
        return _norm((self.centre.abs() - self.radius).clamp(min=0).flatten(2), norm, -1)


def _norm(entries: Tensor, norm: c.Norm, direction: int) -> Tensor:
    growth = (entries.shape[2] + 16) * 2.0**-51
    return NORMS[norm].dual(entries) * (1 + direction * growth)


def slope_intervals(maps: LinearMaps, values: Sequence[Interval]) -> list[Slopes]:
    """Per node: the interval (lower, upper) of the slope (elementwise) or selection (max pooling), else None.

    values: (lower, upper) of every node's value, (N, *shapes[k]). Shapes: (N, *shape of the node's input), for max
    pooling (N, C, kernel cells, windows).
    """
    return [
        None if layer.affine else layer.derivative_range(*values[maps.parents(k)[0]])
        for k, layer in enumerate(maps.layers)
    ]


def unrestricted_slopes(maps: LinearMaps) -> list[Slopes]:
    """The slope intervals that hold on the whole space (batch of one)."""
    result: list[Slopes] = []
    for layer in maps.layers:
        if layer.affine:
            result.append(None)
            continue
        unbounded = torch.full((1, *layer.shapes[0]), math.inf, dtype=torch.float64, device=maps.device)
        result.append(layer.derivative_range(-unbounded, unbounded))
    return result


def gradient_bounds(maps: LinearMaps, slopes: list[Slopes], forms: Tensor) -> GradientBounds:
    """Bounds of the gradients of forms·z, forms (N, R, K) exact.

    Ensures: every element of the Clarke Jacobian, for slopes in the given intervals, is inside.
    """
    count, number = forms.shape[:2]
    last = len(maps.network.nodes) - 1
    flat = forms.reshape(count * number, *forms.shape[2:]).to(torch.float64)
    frontier: dict[int, tuple[Tensor, Tensor]] = {last: (flat, torch.zeros_like(flat))}
    for k in range(last, 0, -1):
        if k not in frontier:
            continue
        centre, radius = frontier.pop(k)
        if maps.affine(k):
            centres, radii = maps.adjoint_step(k, centre, radius)
        else:
            centres, radii = _through(maps, k, slopes[k], centre, radius, number)
        for source, m, r in zip(maps.parents(k), centres, radii, strict=True):
            if source in frontier:
                m, r = frontier[source][0] + m, frontier[source][1] + r
                r = r * (1 + 2.0**-50) + 2.0**-51 * m.abs()
            frontier[source] = (m, r)
    shape = (count, number, *maps.network.input_shape)
    return GradientBounds(frontier[0][0].reshape(shape), frontier[0][1].reshape(shape))


def _through(
    maps: LinearMaps, k: int, slopes: Slopes, centre: Tensor, radius: Tensor, number: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Forms (N·R, *shape) in centre ± radius through a nonlinear node: interval times interval."""
    low, up = centre - radius * (1 + 2.0**-51), centre + radius * (1 + 2.0**-51)
    low, up = low - 2.0**-51 * low.abs(), up + 2.0**-51 * up.abs()
    return interval_product(maps, k, slopes, low, up, number)


def interval_product(
    maps: LinearMaps, k: int, slopes: Slopes, low: Tensor, up: Tensor, number: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Centre and radius of forms in [low, up] of nonlinear node k times its slopes: forms of its input."""
    layer = maps.nonlinear(k)
    low, up = layer.over_taps(low), layer.over_taps(up)
    least, most = slopes  # type: ignore[misc]
    a, b = (s.repeat_interleave(number, 0) if len(s) > 1 else s for s in (least, most))
    # extreme where both factors are at an end
    bottom = torch.minimum(*(torch.where(s >= 0, low, up) * s for s in (a, b)))
    top = torch.maximum(*(torch.where(s >= 0, up, low) * s for s in (a, b)))
    middle = (bottom + top) / 2
    spread = torch.maximum(top - middle, middle - bottom) + 2.0**-51 * (bottom.abs() + top.abs())
    return from_taps(layer, middle, spread)


def from_taps(layer: Nonlinear[Any], middle: Tensor, spread: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Centre and radius of forms of a nonlinear layer's input from those per tap: summed, the rounding charged."""
    if layer.taps > 1:
        spread = spread + layer.taps * 2.0**-51 * (middle.abs() + spread)
    return [layer.from_taps(middle)], [layer.from_taps(spread)]

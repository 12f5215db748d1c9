"""Upper bounds of Lipschitz constants of logit differences over balls, from bounds of the Jacobian.

Interval form of the chain rule for Clarke's generalised Jacobian (Clarke 1983, 2.6.6): every element of the
Jacobian at a point of the ball is a product of the affine nodes' matrices and of diagonal (ReLU, LeakyReLU,
sigmoid, tanh) or selecting (max pooling) factors, each entry of which lies in a known interval. The ball is
convex, so the mean value theorem makes the largest dual norm a Lipschitz constant there (docs/maths.md 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.lipschitz.linear_maps import AFFINE, LinearMaps, scatter_windows, windows
from verifiers.lipschitz.value_bounds import Interval

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
    order = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    growth = (entries.shape[2] + 16) * 2.0**-51
    return torch.linalg.vector_norm(entries, ord=order, dim=2) * (1 + direction * growth)


def slope_intervals(maps: LinearMaps, values: Sequence[Interval]) -> list[Slopes]:
    """Per node: the interval (lower, upper) of the slope (elementwise) or selection (max pooling), else None.

    values: (lower, upper) of every node's value, (N, *shapes[k]). Shapes: (N, *shape of the node's input), for max
    pooling (N, C, kernel cells, windows).
    """
    return [
        None if isinstance(node, (c.Input, *AFFINE)) else _slope_interval(node, *values[node.inputs[0]])
        for node in maps.network.nodes
    ]


def unrestricted_slopes(maps: LinearMaps) -> list[Slopes]:
    """The slope intervals that hold on the whole space (batch of one)."""
    result: list[Slopes] = []
    for node in maps.network.nodes:
        if isinstance(node, (c.Input, *AFFINE)):
            result.append(None)
            continue
        shape = (1, *maps.network.shapes[node.inputs[0]])
        unbounded = torch.full(shape, math.inf, dtype=torch.float64, device=maps.device)
        result.append(_slope_interval(node, -unbounded, unbounded))
    return result


def _slope_interval(node: c.Node, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(node, c.MaxPool2d):
        low, up = windows(lower, node, -math.inf), windows(upper, node, -math.inf)
        # a cell is out if another's lower bound exceeds its upper bound, alone in if its lower exceeds all uppers
        best = low.argmax(dim=2, keepdim=True)
        rest = up.scatter(2, best, -math.inf).amax(dim=2, keepdim=True)
        alone = low.amax(dim=2, keepdim=True) > rest
        least = torch.zeros_like(low).scatter(2, best, alone.to(low.dtype))
        most = (up >= low.amax(dim=2, keepdim=True)) & (up > -math.inf)
        return least, most.to(low.dtype)
    if isinstance(node, (c.Relu, c.LeakyRelu)):
        low = 0.0 if isinstance(node, c.Relu) else node.slope
        least = torch.where(lower > 0, 1.0, torch.full_like(lower, low))
        return least, torch.where(upper < 0, low, torch.ones_like(lower))
    far = torch.maximum(lower.abs(), upper.abs())
    near = torch.where((lower <= 0) & (upper >= 0), 0.0, torch.minimum(lower.abs(), upper.abs()))
    if isinstance(node, c.Tanh):
        # 1 - tanh² = 4 s (1 - s) at twice the argument: no cancellation
        return _bell(2 * far, -1) * 4, (_bell(2 * near, 1) * 4).clamp(max=1.0)
    return _bell(far, -1), _bell(near, 1).clamp(max=0.25)


def _bell(x: Tensor, direction: int) -> Tensor:
    """Derivative of the sigmoid, rounded in `direction`; decreasing in |x|."""
    return torch.sigmoid(x) * torch.sigmoid(-x) * (1 + direction * 2.0**-46) + max(direction, 0) * 2.0**-1000


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
        node = maps.network.nodes[k]
        if isinstance(node, AFFINE):
            centres, radii = maps.adjoint_step(k, centre, radius)
        else:
            centres, radii = _through(maps, k, slopes[k], centre, radius, number)
        for source, m, r in zip(node.inputs, centres, radii, strict=True):  # type: ignore[union-attr]
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
    low, up = windowed(maps, k, low), windowed(maps, k, up)
    least, most = slopes  # type: ignore[misc]
    a, b = (s.repeat_interleave(number, 0) if len(s) > 1 else s for s in (least, most))
    # 0 <= a <= b: the product's ends are low·(a or b), up·(a or b)
    bottom, top = torch.where(low >= 0, low * a, low * b), torch.where(up >= 0, up * b, up * a)
    middle = (bottom + top) / 2
    spread = torch.maximum(top - middle, middle - bottom) + 2.0**-51 * (bottom.abs() + top.abs())
    return gathered(maps, k, middle, spread)


def windowed(maps: LinearMaps, k: int, forms: Tensor) -> Tensor:
    """Forms of a nonlinear node's value so that they broadcast against its slopes."""
    return forms.flatten(2).unsqueeze(2) if isinstance(maps.network.nodes[k], c.MaxPool2d) else forms


def gathered(maps: LinearMaps, k: int, middle: Tensor, spread: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Forms of the input of nonlinear node k from those per slope: windows are summed, the rounding charged."""
    node = maps.network.nodes[k]
    if not isinstance(node, c.MaxPool2d):
        return [middle], [spread]
    shape, cells = maps.network.shapes[node.inputs[0]], node.kernel[0] * node.kernel[1]
    charged = spread + cells * 2.0**-51 * (middle.abs() + spread)
    return [scatter_windows(middle, node, shape)], [scatter_windows(charged, node, shape)]

"""Interval bound propagation over a lowered network, batched, with a radius per input.

What auto_LiRPA's own interval pass lacks: per-input radii in l2 and l1, first-layer bounds from the dual norm that
are exact at image borders, the ball cut by a domain, and the class differences folded into the last layer.
Floating-point rounding is not accounted for: engines are untrusted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifiers.layers.steps import Value
from verifiers.network import lowering as low
from verifiers.perturbation import BoxedBalls

Interval = tuple[Tensor, Tensor]


def propagate(network: low.Lowered, inputs: BoxedBalls) -> list[Value]:
    """The interval of every step. Weights must have the inputs' dtype and device."""
    values: list[Value] = []
    for step in network.steps:
        values.append(step.interval([values[i] for i in step.inputs], inputs))
    return values


def of_rows(network: low.Lowered, inputs: BoxedBalls, values: list[Value], rows: Tensor) -> Interval:
    """Bounds (N, R) of rows (N, R, K) . z from the intervals of `propagate`; folded into a dense last layer."""
    last = network.steps[-1]
    folded = last.folded(rows)
    if folded is None:
        return _of_forms(rows, torch.zeros(rows.shape[:2]).to(rows), values[-1], inputs)
    return _of_forms(*folded, values[last.inputs[0]], inputs)


def _of_forms(weight: Tensor, bias: Tensor, v: Value, inputs: BoxedBalls) -> Interval:
    """Bounds (N, R) of weight (N, R, m) . value + bias (N, R)."""
    middle, half = (
        torch.einsum("nrm,nm->nr", w, t.flatten(1)) for w, t in ((weight, v.middle), (weight.abs(), v.half))
    )
    lower, upper = bias + middle - half, bias + middle + half
    if v.scale is None or v.point is None or inputs.lp.is_box:
        return lower, upper
    center = bias + torch.einsum("nrm,nm->nr", weight, v.point.flatten(1))
    scaled = weight * v.scale.flatten()
    spread = inputs.radius[:, None] * inputs.lp.dual(scaled)
    return torch.maximum(lower, center - spread), torch.minimum(upper, center + spread)

"""Interval bound propagation over a lowered network, batched, with a radius per input.

What auto_LiRPA's own interval pass lacks: per-input radii in l2 and l1, first-layer bounds from the dual norm that
are exact at image borders, the ball cut by a domain, and the class differences folded into the last layer.
Floating-point rounding is not accounted for: engines are untrusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check.certificate import Norm
from verifiers.network import lowering as low
from verifiers.perturbation import DUAL_ORDER, BoxedBalls

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Value:
    """A step's interval; `scale`, `point` where the value is scale * (x - center) + point for the raw input x."""

    lower: Tensor
    upper: Tensor
    scale: Tensor | None = None
    point: Tensor | None = None

    @property
    def middle(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def half(self) -> Tensor:
        return (self.upper - self.lower) / 2


def propagate(network: low.Lowered, inputs: BoxedBalls) -> list[Value]:
    """The interval of every step. Weights must have the inputs' dtype and device."""
    ones = torch.ones_like(inputs.center[0])
    values = [Value(inputs.lower, inputs.upper, ones, inputs.center)]
    for step in network.steps[1:]:
        values.append(_step(step, [values[i] for i in step.inputs], inputs))
    return values


def of_rows(network: low.Lowered, inputs: BoxedBalls, values: list[Value], rows: Tensor) -> Interval:
    """Bounds (N, R) of rows (N, R, K) . z from the intervals of `propagate`; folded into a dense last layer."""
    last = network.steps[-1]
    if not isinstance(last, low.Dense):
        return _of_forms(rows, torch.zeros(rows.shape[:2]).to(rows), values[-1], inputs)
    return _of_forms(rows @ last.weight, rows @ last.bias, values[last.inputs[0]], inputs)


def _of_forms(weight: Tensor, bias: Tensor, v: Value, inputs: BoxedBalls) -> Interval:
    """Bounds (N, R) of weight (N, R, m) . value + bias (N, R)."""
    middle, half = (
        torch.einsum("nrm,nm->nr", w, t.flatten(1)) for w, t in ((weight, v.middle), (weight.abs(), v.half))
    )
    lower, upper = bias + middle - half, bias + middle + half
    if v.scale is None or v.point is None or inputs.norm == "Linf":
        return lower, upper
    center = bias + torch.einsum("nrm,nm->nr", weight, v.point.flatten(1))
    scaled = weight * v.scale.flatten()
    spread = inputs.radius[:, None] * torch.linalg.vector_norm(scaled, DUAL_ORDER[inputs.norm], dim=2)
    return torch.maximum(lower, center - spread), torch.minimum(upper, center + spread)


def _step(step: low.Step, args: list[Value], inputs: BoxedBalls) -> Value:
    match step:
        case low.Dense() | low.Conv():
            return _affine(step, args[0], inputs)
        case low.Diagonal() | low.Pointwise():
            a, b = args[0].lower * step.scale + step.shift, args[0].upper * step.scale + step.shift
            lower, upper = torch.minimum(a, b), torch.maximum(a, b)
            if args[0].scale is None or args[0].point is None:
                return Value(lower, upper)
            return Value(lower, upper, args[0].scale * step.scale, args[0].point * step.scale + step.shift)
        case low.Flat():
            scale = None if args[0].scale is None else args[0].scale.flatten()
            point = None if args[0].point is None else low.flat(args[0].point)
            return Value(low.flat(args[0].lower), low.flat(args[0].upper), scale, point)
        case low.Pick():
            scale = None if args[0].scale is None else low.pick(step, args[0].scale[None])[0]
            point = None if args[0].point is None else low.pick(step, args[0].point)
            return Value(low.pick(step, args[0].lower), low.pick(step, args[0].upper), scale, point)
        case low.Sum():
            return Value(args[0].lower + args[1].lower, args[0].upper + args[1].upper)
        case low.Activation() | low.MaxPool():
            return Value(monotone(step, args[0].lower), monotone(step, args[0].upper))
        case low.Source():
            raise TypeError("the source has no rule")


def monotone(step: low.Activation | low.MaxPool, x: Tensor) -> Tensor:
    """The step's own function, nondecreasing in every element of x."""
    match step:
        case low.MaxPool():
            return F.max_pool2d(x, step.kernel, step.stride, step.padding)
        case low.Activation(kind="relu"):
            return F.relu(x)
        case low.Activation(kind="leaky_relu"):
            return F.leaky_relu(x, step.slope)
        case low.Activation(kind="sigmoid"):
            return torch.sigmoid(x)
        case _:
            return torch.tanh(x)


def apply(step: low.Dense | low.Conv, weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """`step`'s linear map with another weight."""
    return F.linear(x, weight, bias) if isinstance(step, low.Dense) else low.convolve(x, weight, bias, step)


def _affine(step: low.Dense | low.Conv, v: Value, inputs: BoxedBalls) -> Value:
    middle = apply(step, step.weight, v.middle, step.bias)
    half = apply(step, step.weight.abs(), v.half, None)
    lower, upper = middle - half, middle + half
    if v.scale is None or v.point is None or inputs.norm == "Linf":
        return Value(lower, upper)
    center = apply(step, step.weight, v.point, step.bias)
    spread = dual_norms(step, v.scale, inputs.norm)
    spread = spread * inputs.radius.reshape(-1, *(1 for _ in spread.shape[1:]))
    # an element of the value lies in both intervals
    return Value(torch.maximum(lower, center - spread), torch.minimum(upper, center + spread))


def dual_norms(step: low.Dense | low.Conv, scale: Tensor, norm: Norm) -> Tensor:
    """(1, *out): the dual norm (l2: l2, l1: largest) of each output's coefficients on the input, borders included.

    scale: the input's shape, the factor between the raw input and this step's input.
    """
    if norm == "L2":
        return apply(step, step.weight.square(), scale.square()[None], None).clamp(min=0).sqrt()
    if isinstance(step, low.Dense):
        return (step.weight * scale).abs().amax(1)[None]
    # l1: the largest coefficient among the taps that lie in the image
    taps = F.unfold(scale.abs()[None], step.weight.shape[2:], 1, step.padding, step.stride)[0]
    spread = torch.stack([(row.flatten()[:, None].abs() * taps).amax(0) for row in step.weight])
    rows, columns = _windows(step, scale.shape)
    return spread.reshape(1, len(spread), rows, columns)


def _windows(step: low.Conv, shape: torch.Size) -> tuple[int, int]:
    counts = [
        (shape[axis + 1] + 2 * step.padding[axis] - step.weight.shape[axis + 2]) // step.stride[axis] + 1
        for axis in (0, 1)
    ]
    return counts[0], counts[1]

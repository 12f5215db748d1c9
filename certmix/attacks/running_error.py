"""A plain network's logits at one point, in float64, with a proven bound of every rounding error made.

Used to confirm counterexamples. Written apart from the judge's arithmetic on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from certmix.attacks.functions import FUNCTIONS, Function, function
from proofs_check import certificate as c

Array = NDArray[np.float64]
AnyArray = NDArray[Any]

UNIT = 2.0**-53
TINY = 2.0**-1000


@dataclass(frozen=True, eq=False)
class Approximate:
    """|value − truth| ≤ error, elementwise; the truth is the node's value in real arithmetic."""

    value: Array
    error: Array


def logits_with_error(network: c.PlainNetwork, point: NDArray[np.float32]) -> Approximate:
    """The logits (K,) at `point`. Error bounds: Higham, Accuracy and Stability, §3.1, for any summation order.

    Where a value overflows, its error is NaN or infinite, from which nothing follows.
    """
    values: list[Approximate] = []
    with np.errstate(all="ignore"):
        for k, node in enumerate(network.nodes):
            if k == 0:
                exact = point.astype(np.float64).reshape(network.input_shape)
                values.append(Approximate(exact, np.zeros_like(exact)))
            else:
                values.append(_apply(node, [values[i] for i in getattr(node, "inputs", ())]))
    return values[-1]


def _up(bound: Array, operations: int) -> Array:
    """At least the real value of a sum of products of nonnegative numbers computed with this many roundings."""
    return bound * (1 + (operations + 8) * 2 * UNIT) + TINY


def _rounded(value: Array, error: Array, roundings: int = 1) -> Approximate:
    """`value` came from exact operations on perturbed inputs (`error`) and so many relative roundings of itself.

    |truth| ≤ |value| + …: each rounding adds UNIT · |intermediate| ≤ 2 UNIT · |value|; TINY covers underflow.
    """
    return Approximate(value, _up(error + 2 * UNIT * roundings * np.abs(value), 4))


def _apply(node: c.Node, inputs: list[Approximate]) -> Approximate:
    x = inputs[0]
    match node:
        case c.Linear():
            return _affine(node.weight.astype(np.float64), node.bias.astype(np.float64), x)
        case c.Conv2d():
            return _conv(node, x)
        case c.BatchNorm():
            return _batch_norm(node, x)
        case c.Shift():
            return _rounded(x.value + node.constant.astype(np.float64), x.error)
        case c.Scale():
            constant = node.constant.astype(np.float64)
            return _rounded(x.value * constant, x.error * np.abs(constant))
        case c.Divide():
            constant = node.constant.astype(np.float64)
            return _rounded(x.value / constant, _up(x.error / np.abs(constant), 1))
        case c.Relu():
            return Approximate(np.maximum(x.value, 0), x.error)
        case c.LeakyRelu():
            return _rounded(np.where(x.value >= 0, x.value, node.slope * x.value), x.error)
        case c.Sigmoid() | c.Tanh():
            return _through_arb(FUNCTIONS[type(node)](node), x)
        case c.Abs():
            return Approximate(np.abs(x.value), x.error)
        case c.Product():
            values, errors = np.split(x.value, 2), np.split(x.error, 2)
            return _product(Approximate(values[0], errors[0]), Approximate(values[1], errors[1]))
        case c.MaxPool2d():
            return Approximate(pooled(x.value, node, -math.inf).max(-1), pooled(x.error, node, 0.0).max(-1))
        case c.AveragePool2d():
            return _average(node, x)
        case c.Add():
            return _rounded(x.value + inputs[1].value, x.error + inputs[1].error)
        case _ if (curve := function(node)) is not None:
            return _through_balls(curve, x)
        case _:
            return Approximate(
                rearranged(node, [i.value for i in inputs]), rearranged(node, [i.error for i in inputs], error=True)
            )


def rearranged(node: c.Node, inputs: list[AnyArray], error: bool = False) -> AnyArray:
    """Pad, Slice, Concat, Flatten, Gather: no arithmetic. Cells padded are exact: their error is 0. Any dtype."""
    match node:
        case c.Pad():
            value = 0.0 if error else node.value
            return np.pad(inputs[0], list(zip(node.before, node.after, strict=True)), constant_values=value)
        case c.Slice():
            return inputs[0][tuple(map(slice, node.start, node.stop, node.step))]
        case c.Concat():
            return np.concatenate(inputs, axis=0)
        case c.Flatten():
            return inputs[0].reshape(-1)
        case c.Gather():
            return inputs[0].reshape(-1)[node.index]
        case _:
            raise TypeError(f"no rule for {type(node).__name__}")


def _affine(weight: Array, bias: Array, x: Approximate) -> Approximate:
    """weight (out, n) @ x (n, …) + bias: n products and n sums. γ_n |W||x| + |W| error, rounded up."""
    n = weight.shape[1]
    bias = bias.reshape(-1, *[1] * (x.value.ndim - 1))
    magnitude = np.abs(weight)
    value = weight @ x.value + bias
    rounding = (n + 8) * 2 * UNIT * (magnitude @ np.abs(x.value) + np.abs(bias))
    return Approximate(value, _up(magnitude @ x.error + rounding + n * TINY, n + 4))


def windows(x: AnyArray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> AnyArray:
    """(C, H, W) -> (C, oh, ow, kh, kw) views of a padded input."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(x, span, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def padded(x: AnyArray, padding: tuple[int, int, int, int], value: Any) -> AnyArray:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return np.pad(x, [(0, 0), (top, bottom), (left, right)], constant_values=value)


def columns(x: AnyArray, node: c.Conv2d, group: int) -> AnyArray:
    """(C/groups · kh · kw, positions): the patches a group's filters meet."""
    per_group, kernel = node.weight.shape[1], node.weight.shape[2:]
    part = padded(x[group * per_group : (group + 1) * per_group], node.padding, 0.0)
    patches = windows(part, (kernel[0], kernel[1]), node.stride, node.dilation)
    return patches.transpose(0, 3, 4, 1, 2).reshape(per_group * kernel[0] * kernel[1], -1)


def output_size(x: AnyArray, node: c.Conv2d) -> tuple[int, int]:
    """Height and width of the convolution's value."""
    kernel = (node.weight.shape[2], node.weight.shape[3])
    height, width = windows(padded(x[:1], node.padding, 0.0), kernel, node.stride, node.dilation).shape[1:3]
    return height, width


def _product(x: Approximate, y: Approximate) -> Approximate:
    error = np.abs(x.value) * y.error + x.error * np.abs(y.value) + x.error * y.error
    return _rounded(x.value * y.value, _up(error, 5))


def _conv(node: c.Conv2d, x: Approximate) -> Approximate:
    out = len(node.weight) // node.groups
    parts: list[Approximate] = []
    for g in range(node.groups):
        rows = slice(g * out, (g + 1) * out)
        weight = node.weight[rows].astype(np.float64).reshape(out, -1)
        patches = Approximate(columns(x.value, node, g), columns(x.error, node, g))
        parts.append(_affine(weight, node.bias[rows].astype(np.float64), patches))
    shape = (len(node.weight), *output_size(x.value, node))
    value, error = (np.concatenate([getattr(p, name) for p in parts]).reshape(shape) for name in ("value", "error"))
    return Approximate(value, error)


def _batch_norm(node: c.BatchNorm, x: Approximate) -> Approximate:
    """scale (x − mean) / √(variance + epsilon) + shift. Six roundings, each relative to its own result."""
    per_channel = (-1, *[1] * (x.value.ndim - 1))
    scale, shift, mean, variance = (
        p.astype(np.float64).reshape(per_channel) for p in (node.scale, node.shift, node.mean, node.variance)
    )
    centred = _rounded(x.value - mean, x.error)
    deviation = np.sqrt(variance + node.epsilon)
    factor = np.abs(scale) / deviation
    product = scale * centred.value / deviation
    # sum, root, quotient of the factor: relative error ≤ 4 UNIT; product and quotient: 2 more
    normalised = _rounded(product, _up(factor * centred.error, 8), roundings=8)
    return _rounded(normalised.value + shift, normalised.error)


def pooled(x: AnyArray, node: c.MaxPool2d | c.AveragePool2d, value: Any) -> AnyArray:
    """(C, oh, ow, kh · kw): the cells of every pooling window, padded with `value`."""
    cells = windows(padded(x, node.padding, value), node.kernel, node.stride, (1, 1))
    return cells.reshape(*cells.shape[:3], -1)


def pool_counts(node: c.AveragePool2d, shape: tuple[int, ...]) -> Array:
    """(1, oh, ow): how many cells each mean is over."""
    ones = pooled(np.ones((1, *shape[1:])), node, 1.0 if node.count_padding else 0.0)
    return ones.sum(-1)


def _average(node: c.AveragePool2d, x: Approximate) -> Approximate:
    count = pool_counts(node, x.value.shape)
    cells, errors = pooled(x.value, node, 0.0), pooled(x.error, node, 0.0)
    n = cells.shape[-1]
    rounding = (n + 8) * 2 * UNIT * np.abs(cells).sum(-1) / count
    return Approximate(cells.sum(-1) / count, _up(errors.sum(-1) / count + rounding, n + 4))


def _through_balls(curve: Function, x: Approximate) -> Approximate:
    """A function on each value's ball."""
    value, error = np.full_like(x.value, math.nan), np.full_like(x.error, math.nan)
    for index in np.ndindex(x.value.shape):
        if math.isfinite(x.value[index]) and math.isfinite(x.error[index]):
            exact = curve(arb(float(x.value[index]), float(x.error[index])))
            middle = float(exact.mid())
            value[index], error[index] = middle, float(abs(exact - middle).upper())
    return Approximate(value, _up(error, 2))


def _through_arb(curve: Function, x: Approximate) -> Approximate:
    """A function with slope at most 1 (sigmoid, tanh), through Arb at the float64 value; the error passes through."""
    value, error = np.empty_like(x.value), np.empty_like(x.error)
    for index in np.ndindex(x.value.shape):
        if not math.isfinite(x.value[index]):
            value[index], error[index] = math.nan, math.nan
            continue
        exact = curve(arb(float(x.value[index])))
        middle = float(exact.mid())
        value[index], error[index] = middle, float(abs(exact - middle).upper())
    return Approximate(value, _up(x.error + _up(error, 1), 2))

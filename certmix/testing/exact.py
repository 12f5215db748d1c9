"""Exact arithmetic: rational logits of plain networks, and the softmax comparison decided by ball arithmetic.

A counterexample counts only when it is confirmed here: logits are fractions (the stored float32 weights are
rationals, ReLU networks keep them so), and the sign of a difference of mixed probabilities is decided by Arb with
growing precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import flint
import numpy as np
from numpy.typing import NDArray

from certmix.testing.problem import exponent
from proofs_check import certificate as c

Exact = NDArray[np.object_]
PRECISIONS = (128, 512, 2048, 8192, 32768)


class NotExactError(Exception):
    """The network has a value that is no rational number (sigmoid, tanh, an irrational deviation)."""


def rational(array: NDArray[Any]) -> Exact:
    """Every entry as the fraction it exactly is. Shape is kept."""
    flat = [v if isinstance(v, Fraction) else Fraction(float(v)) for v in array.reshape(-1)]
    return _objects(flat, array.shape)


def logits(network: c.PlainNetwork, point: NDArray[Any]) -> list[Fraction]:
    """The network's logits at one point, (*input_shape), in real arithmetic. Raises NotExactError."""
    values: list[Exact] = []
    for k, node in enumerate(network.nodes):
        arguments = [values[i] for i in getattr(node, "inputs", ())]
        values.append(rational(point) if k == 0 else _apply(node, arguments, network.shapes[k]))
    return list(values[-1])


def _apply(node: c.Node, args: list[Exact], shape: tuple[int, ...]) -> Exact:
    x = args[0]
    match node:
        case c.Linear():
            rows = rational(node.weight).reshape(len(node.bias), -1)
            return _objects([sum((w * v for w, v in zip(r, x, strict=True) if w), b) for r, b in
                             zip(rows, rational(node.bias), strict=True)], shape)  # fmt: skip
        case c.Conv2d():
            return _convolution(node, x, shape)
        case c.BatchNorm():
            deviation = _objects([_root(Fraction(float(v)) + Fraction(node.epsilon)) for v in node.variance], (-1,))
            factor = rational(node.scale) / deviation
            offset = rational(node.shift) - factor * rational(node.mean)
            extra = (1,) * (x.ndim - 1)
            return x * factor.reshape(-1, *extra) + offset.reshape(-1, *extra)
        case c.Shift():
            return x + rational(node.constant)
        case c.Scale():
            return x * rational(node.constant)
        case c.Divide():
            return x / rational(node.constant)
        case c.Relu():
            return _map(x, lambda v: max(v, Fraction(0)))
        case c.LeakyRelu():
            slope = Fraction(node.slope)
            return _map(x, lambda v: v if v >= 0 else slope * v)
        case c.Abs():
            return _map(args[0], abs)
        case c.Square():
            return _map(args[0], lambda v: v * v)
        case c.Cube():
            return _map(args[0], lambda v: v * v * v)
        case c.HardSwish():
            return _map(args[0], lambda v: v * min(max(v + 3, Fraction(0)), Fraction(6)) / 6)
        case c.Product():
            return np.multiply(*np.split(args[0], 2))
        case c.MaxPool2d():
            return _pool(node, x, shape, max)
        case c.AveragePool2d():
            area = node.kernel[0] * node.kernel[1]
            return _pool(node, x, shape, lambda w: sum(w, Fraction(0)) / (area if node.count_padding else len(w)))
        case c.Slice():
            return x[tuple(slice(a, b, s) for a, b, s in zip(node.start, node.stop, node.step, strict=True))]
        case c.Pad():
            sides = list(zip(node.before, node.after, strict=True))
            return np.pad(x, sides, constant_values=Fraction(node.value))  # type: ignore[call-overload]
        case c.Concat():
            return np.concatenate(args)
        case c.Add():
            return args[0] + args[1]
        case c.Flatten():
            return x.reshape(-1)
        case c.Gather():
            return x.reshape(-1)[node.index]
        case _:
            raise NotExactError(f"a {type(node).__name__} node has no rational value")


def _convolution(node: c.Conv2d, x: Exact, shape: tuple[int, ...]) -> Exact:
    weight, bias = rational(node.weight), rational(node.bias)
    top, left, bottom, right = node.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=Fraction(0))  # type: ignore[call-overload]
    per_group = shape[0] // node.groups
    out = np.empty(shape, object)
    for o, i, j in np.ndindex(*shape):
        first = (o // per_group) * weight.shape[1]
        total = bias[o]
        for ch, a, b in np.ndindex(*weight.shape[1:]):
            if weight[o, ch, a, b]:
                row, column = i * node.stride[0] + a * node.dilation[0], j * node.stride[1] + b * node.dilation[1]
                total += weight[o, ch, a, b] * padded[first + ch, row, column]
        out[o, i, j] = total
    return out


def _pool(
    node: c.MaxPool2d | c.AveragePool2d, x: Exact, shape: tuple[int, ...], reduce: Callable[[list[Any]], Any]
) -> Exact:
    out = np.empty(shape, object)
    top, left = node.padding[:2]
    for ch, i, j in np.ndindex(*shape):
        rows = range(i * node.stride[0] - top, i * node.stride[0] - top + node.kernel[0])
        columns = range(j * node.stride[1] - left, j * node.stride[1] - left + node.kernel[1])
        out[ch, i, j] = reduce(
            [x[ch, a, b] for a in rows if 0 <= a < x.shape[1] for b in columns if 0 <= b < x.shape[2]]
        )
    return out


def _root(value: Fraction) -> Fraction:
    up, down = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if up * up != value.numerator or down * down != value.denominator:
        raise NotExactError(f"sqrt({value}) is irrational")
    return Fraction(up, down)


def _map(x: Exact, function: Callable[[Fraction], Fraction]) -> Exact:
    return _objects([function(v) for v in x.reshape(-1)], x.shape)


def _objects(values: Sequence[Any], shape: tuple[int, ...]) -> Exact:
    out = np.empty(len(values), object)
    out[:] = values
    return out.reshape(shape)


# ---------------------------------------------------------------- softmax, by Arb


def softmax(z: Sequence[Fraction], temperature: Fraction = Fraction(1)) -> list[flint.arb]:
    """Enclosures of softmax(temperature z) at the context's precision."""
    top = max(z)
    powers = [flint.arb(_fmpq((v - top) * temperature)).exp() for v in z]
    total = sum(powers, flint.arb(0))
    return [p / total for p in powers]


def decide_sign(value: Callable[[], flint.arb]) -> int | None:
    """The sign of a real number that `value` encloses ever better with precision; None where it stays open.

    Ensures: +1 and -1 are proven. A number that is exactly 0 gives None unless its enclosure is the point 0.
    """
    before = flint.ctx.prec
    try:
        for precision in PRECISIONS:
            flint.ctx.prec = precision
            enclosure = value()
            if enclosure > 0:
                return 1
            if enclosure < 0:
                return -1
            if enclosure == 0:
                return 0
        return None
    finally:
        flint.ctx.prec = before


def mix_sign(
    g: Sequence[Fraction], h: Sequence[Fraction], alpha: float, temperature: float, y: int, i: int
) -> int | None:
    """The sign of mix_y - mix_i, mix = (1-alpha) softmax(g) + alpha softmax(temperature h) (Eq. 4); None: open."""
    a, t = Fraction(alpha), Fraction(temperature)
    signs = {_sign(g[y] - g[i]) if a < 1 else 0, _sign(h[y] - h[i]) if a > 0 else 0}
    if len(signs) == 1 or 0 in signs:  # both classifiers order the pair alike: no exponential is needed
        return signs.pop() if len(signs) == 1 else (signs - {0}).pop()

    def difference() -> flint.arb:
        p, q = softmax(g), softmax(h, t)
        return flint.arb(_fmpq(1 - a)) * (p[y] - p[i]) + flint.arb(_fmpq(a)) * (q[y] - q[i])

    return decide_sign(difference)


def _sign(value: Fraction) -> int:
    return (value > 0) - (value < 0)


def _fmpq(value: Fraction) -> flint.fmpq:
    return flint.fmpq(value.numerator, value.denominator)


def inside(center: NDArray[Any], point: NDArray[Any], radius: float, norm: str) -> bool:
    """Whether |point - center|_norm < radius, strictly, decided in rational arithmetic."""
    if radius == math.inf:
        return True
    gaps = [abs(v) for v in (rational(point) - rational(center)).reshape(-1)]
    r = Fraction(radius)
    if exponent(norm) == math.inf:
        return max(gaps) < r
    p = int(norm.removeprefix("L"))
    return sum((g**p for g in gaps), Fraction(0)) < r**p


def distance(center: NDArray[Any], point: NDArray[Any], norm: str) -> flint.arb:
    """|point - center|_norm as an enclosure, at the context's precision."""
    gaps = [abs(v) for v in (rational(point) - rational(center)).reshape(-1)]
    if exponent(norm) == math.inf:
        return flint.arb(_fmpq(max(gaps)))
    p = int(norm.removeprefix("L"))
    total = sum((g**p for g in gaps), Fraction(0))
    return flint.arb(_fmpq(total)).root(p) if total else flint.arb(0)

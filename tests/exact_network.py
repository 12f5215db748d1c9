"""Plain networks in exact rational arithmetic, random ones of every layer kind, and exact points of a ball.

Irrational functions (the root in batch norm, sigmoid, tanh) are rationals within 2^-190 of the true value. A
function of each element that is not spelled out here is the attacks', which engines and judge do not share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq
from numpy.typing import NDArray
from small_networks import DUAL, ORDER

from certmix.attacks.functions import function
from proofs_check import certificate as c
from proofs_check.kernel.bounds import Ball, Values
from proofs_check.reading.shapes import output_shape
from verifiers.network.module import build

Exact = NDArray[np.object_]
BITS = 200


def rational(value: float) -> fmpq:
    return fmpq(*float(value).as_integer_ratio())


def exact(array: Any) -> Exact:
    """Every entry as the rational it is."""
    source = np.asarray(array, dtype=np.float64)
    result = np.empty(source.size, dtype=object)
    result[:] = [rational(v) for v in source.ravel()]
    return result.reshape(source.shape)


def each(function: Callable[[fmpq], fmpq], values: Exact) -> Exact:
    result = np.empty(values.size, dtype=object)
    result[:] = [function(v) for v in values.ravel()]
    return result.reshape(values.shape)


def root(value: fmpq, p: int = 2) -> fmpq:
    return fmpq((value * fmpq(2 ** (300 * p))).floor().root(p), 2**300)


def _by_arb(function: Callable[[arb], arb]) -> Callable[[fmpq], fmpq]:
    def apply(x: fmpq) -> fmpq:
        with ctx.workprec(BITS):
            mantissa, exponent = function(arb(x)).mid().man_exp()
            return fmpq(mantissa) * fmpq(2) ** max(int(exponent), -5000)  # below every positive double

    return apply


SIGMOID = _by_arb(lambda x: 1 / (1 + (-x).exp()))
TANH = _by_arb(lambda x: x.tanh())
SOFTPLUS = _by_arb(lambda x: x.exp().log1p())
ERF = _by_arb(lambda x: x.erf())
EXP = _by_arb(lambda x: x.exp())
ZERO = fmpq(0)


def hard_swish(v: fmpq) -> fmpq:
    return v * min(max(v + 3, ZERO), fmpq(6)) / 6


def elu(alpha: float) -> Callable[[fmpq], fmpq]:
    below = _by_arb(lambda x: arb(alpha) * x.expm1())
    return lambda v: v if v >= 0 else below(v)


def gelu(divisor: float) -> Callable[[fmpq], fmpq]:
    return _by_arb(lambda x: x * (-x / arb(divisor)).erfc() / 2)  # erf would cancel


def swish(linear: float, cubic: float) -> Callable[[fmpq], fmpq]:
    return _by_arb(lambda x: x / (1 + (-(arb(linear) * x + arb(cubic) * x**3)).exp()))


def exact_values(network: c.PlainNetwork, point: Exact) -> list[Exact]:
    """Every node's value at a point (*input_shape)."""
    values: list[Exact] = []
    for k, node in enumerate(network.nodes):
        arguments = [values[i] for i in getattr(node, "inputs", ())]
        values.append(point if k == 0 else _apply(node, arguments).reshape(network.shapes[k]))
    return values


def of_elements(node: c.Node) -> Callable[[fmpq], fmpq]:
    """The function of a node that is one of each element."""
    return lambda v: _apply(node, [np.array([v], dtype=object)])[0]


def _channels(parameter: Exact, like: Exact) -> Exact:
    return parameter.reshape(-1, *[1] * (like.ndim - 1))


def _apply(node: c.Node, args: list[Exact]) -> Exact:
    x = args[0]
    match node:
        case c.Linear():
            return exact(node.weight) @ x + exact(node.bias)
        case c.Conv2d():
            return _convolve(node, x)
        case c.BatchNorm():
            deviation = each(root, exact(node.variance) + rational(node.epsilon))
            gain = _channels(exact(node.scale) / deviation, x)
            return (x - _channels(exact(node.mean), x)) * gain + _channels(exact(node.shift), x)
        case c.Shift():
            return x + exact(node.constant)
        case c.Scale():
            return x * exact(node.constant)
        case c.Divide():
            return x / exact(node.constant)
        case c.Relu():
            return each(lambda v: max(v, ZERO), x)
        case c.LeakyRelu():
            return each(lambda v: v if v >= 0 else v * rational(node.slope), x)
        case c.Sigmoid():
            return each(SIGMOID, x)
        case c.Tanh():
            return each(TANH, x)
        case c.Softplus():
            return each(SOFTPLUS, x)
        case c.Exp():
            return each(EXP, x)
        case c.Square():
            return x * x
        case c.Cube():
            return x * x * x
        case c.Erf():
            return each(ERF, x)
        case c.Abs():
            return each(abs, x)
        case c.HardSwish():
            return each(hard_swish, x)
        case c.Elu():
            return each(elu(node.alpha), x)
        case c.Gelu():
            return each(gelu(node.divisor), x)
        case c.Swish():
            return each(swish(node.linear, node.cubic), x)
        case c.Product():
            return np.multiply(*np.split(x, 2))
        case c.MaxPool2d():
            return _pool(node, x, max)
        case c.AveragePool2d():
            full = node.kernel[0] * node.kernel[1]
            return _pool(node, x, lambda cells: sum(cells, ZERO) / fmpq(full if node.count_padding else len(cells)))
        case c.Pad():
            result = np.full(
                [b + n + a for b, n, a in zip(node.before, x.shape, node.after, strict=True)], rational(node.value)
            )
            result[tuple(slice(b, b + n) for b, n in zip(node.before, x.shape, strict=True))] = x
            return result
        case c.Slice():
            return x[tuple(slice(a, b, s) for a, b, s in zip(node.start, node.stop, node.step, strict=True))]
        case c.Concat():
            return np.concatenate(args)
        case c.Add():
            return args[0] + args[1]
        case c.Flatten():
            return x.reshape(-1)
        case c.Gather():
            cells = list(x.ravel())
            return np.array([cells[i] for i in node.index.ravel()], dtype=object).reshape(node.index.shape)
        case _ if (curve := function(node)) is not None:  # a kind that is not spelled out here
            return each(_by_arb(curve), x)
        case _:
            raise TypeError(type(node))


def _convolve(node: c.Conv2d, x: Exact) -> Exact:
    """By the definition, cell by cell: no code shared with the judge's maps."""
    top, left, bottom, right = node.padding
    padded = np.full((x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right), ZERO)
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    weight, bias = exact(node.weight), exact(node.bias)
    out, per_group, kh, kw = weight.shape
    (sh, sw), (dh, dw) = node.stride, node.dilation
    height = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    result = np.empty((out, height, width), dtype=object)
    for o in range(out):
        first = o // (out // node.groups) * per_group
        for i in range(height):
            for j in range(width):
                rows, columns = (
                    slice(i * sh, i * sh + dh * (kh - 1) + 1, dh),
                    slice(j * sw, j * sw + dw * (kw - 1) + 1, dw),
                )
                result[o, i, j] = (padded[first : first + per_group, rows, columns] * weight[o]).sum() + bias[o]
    return result


def _pool(node: c.MaxPool2d | c.AveragePool2d, x: Exact, reduce: Callable[[list[fmpq]], fmpq]) -> Exact:
    top, left, bottom, right = node.padding
    height = (x.shape[1] + top + bottom - node.kernel[0]) // node.stride[0] + 1
    width = (x.shape[2] + left + right - node.kernel[1]) // node.stride[1] + 1
    result = np.empty((len(x), height, width), dtype=object)
    for i in range(height):
        for j in range(width):
            y, z = i * node.stride[0] - top, j * node.stride[1] - left
            part = x[:, max(y, 0) : y + node.kernel[0], max(z, 0) : z + node.kernel[1]]
            for channel in range(len(x)):
                result[channel, i, j] = reduce(list(part[channel].ravel()))
    return result


# ---------------------------------------------------------------- random networks

IMAGE_KINDS = (
    "conv", "conv", "norm", "shift", "scale", "divide", "relu", "relu", "leaky", "sigmoid", "tanh", "max", "average",
    "pad", "slice", "concat", "add", "residual", "gather", "product",
)  # fmt: skip
VECTOR_KINDS = (
    "linear", "norm", "shift", "scale", "divide", "relu", "relu", "leaky", "sigmoid", "tanh", "pad", "slice", "concat",
    "add", "gather", "product",
)  # fmt: skip


def _integers(rng: np.random.Generator, low: int, high: int, count: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, count))


def wild(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Normal numbers of very different magnitudes."""
    return rng.normal(size=shape) * 2.0 ** rng.integers(-20, 20, size=shape)


def weights(rng: np.random.Generator, *shape: int) -> c.Float32Array:
    """Normal numbers; sometimes with zeros, sometimes with magnitudes from 2^-30 to 2^30."""
    value = rng.normal(size=shape)
    kind = rng.integers(6)
    if kind == 0:
        value *= rng.integers(0, 2, size=shape)
    if kind == 1:
        value *= 2.0 ** rng.integers(-30, 31, size=shape)
    return value.astype(np.float32)


def _constant(rng: np.random.Generator, shape: tuple[int, ...]) -> c.Float32Array:
    """Shaped to broadcast against `shape`; no zero."""
    kept = tuple(n if rng.integers(2) else 1 for n in shape)[int(rng.integers(len(shape) + 1)) :]
    return np.asarray(np.sign(rng.normal(size=kept)) * (0.3 + rng.uniform(size=kept)), dtype=np.float32)


def _layer(rng: np.random.Generator, kind: str, nodes: list[c.Node], shapes: list[tuple[int, ...]]) -> list[c.Node]:
    last, shape = len(nodes) - 1, shapes[-1]
    channels, at = shape[0], (last,)
    alike = [k for k, s in enumerate(shapes) if s == shape]
    joinable = [k for k, s in enumerate(shapes) if s[1:] == shape[1:]]
    match kind:
        case "linear":
            out = int(rng.integers(2, 6))
            return [c.Linear(at, weights(rng, out, channels), weights(rng, out))]
        case "conv":
            groups = int(rng.choice([g for g in (1, 2) if channels % g == 0]))
            out, kernel = groups * int(rng.integers(1, 4)), _integers(rng, 1, 4, 2)
            weight = weights(rng, out, channels // groups, *kernel)
            geometry = _integers(rng, 1, 3, 2), _integers(rng, 0, 3, 4), _integers(rng, 1, 3, 2)
            return [c.Conv2d(at, weight, weights(rng, out), *geometry, groups)]
        case "norm":
            parts = (weights(rng, channels), weights(rng, channels), weights(rng, channels))
            return [
                c.BatchNorm(at, *parts, rng.uniform(0, 3, channels).astype(np.float32), float(rng.choice([1e-5, 0.3])))
            ]
        case "shift":
            return [c.Shift(at, _constant(rng, shape))]
        case "scale":
            return [c.Scale(at, _constant(rng, shape))]
        case "divide":
            return [c.Divide(at, _constant(rng, shape))]
        case "relu":
            return [c.Relu(at)]
        case "leaky":
            return [c.LeakyRelu(at, float(rng.choice([0.0, 0.01, 0.3, 1.0])))]
        case "sigmoid":
            return [c.Sigmoid(at)]
        case "tanh":
            return [c.Tanh(at)]
        case "max":
            return [c.MaxPool2d(at, _integers(rng, 1, 4, 2), _integers(rng, 1, 3, 2), _integers(rng, 0, 2, 4))]
        case "average":
            kernel = shape[1:] if rng.integers(3) == 0 else _integers(rng, 1, 4, 2)
            pads = _integers(rng, 0, 2, 4)
            return [c.AveragePool2d(at, kernel, _integers(rng, 1, 3, 2), pads, bool(rng.integers(2)))]
        case "pad":
            sides = _integers(rng, 0, 2, len(shape)), _integers(rng, 0, 2, len(shape))
            return [c.Pad(at, *sides, float(rng.choice([0.0, 0.7])))]
        case "slice":
            start = tuple(int(rng.integers(0, n)) for n in shape)
            stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True))
            return [c.Slice(at, start, stop, _integers(rng, 1, 3, len(shape)))]
        case "gather":
            size = math.prod(shape)
            order = rng.permutation(size) if rng.integers(2) else rng.integers(0, size, int(rng.integers(1, 9)))
            return [c.Gather(at, order.reshape(shape if order.size == size else (-1,)).astype(np.int32))]
        case "product":
            return [c.Concat((last, int(rng.choice(alike)))), c.Product((last + 1,))]
        case "concat":
            return [c.Concat((last, int(rng.choice(joinable))))]
        case "add":
            return [c.Add((last, int(rng.choice(alike))))]
        case _:  # a residual block: two branches that meet again
            weight = weights(rng, channels, channels, 3, 3)
            conv = c.Conv2d(at, weight, weights(rng, channels), (1, 1), (1, 1, 1, 1), (1, 1), 1)
            return [conv, c.Relu((last + 1,)), c.Add((last + 2, last))]


def random_network(rng: np.random.Generator, layers: int, kinds: tuple[str, ...] | None = None) -> c.PlainNetwork:
    """A random network of at most `layers` layers, flattened where it is an image, and a last linear layer."""
    first = _integers(rng, 1, 3, 1) + _integers(rng, 3, 6, 2) if rng.integers(3) else _integers(rng, 2, 6, 1)
    nodes: list[c.Node] = [c.Input(first)]
    shapes = [first]
    if kinds is None and rng.integers(8) == 0:  # an input that is no image and no vector
        order = rng.permutation(math.prod(first)).astype(np.int32)
        nodes = [c.Input((1, *first)), c.Gather((0,), order.reshape(first)) if len(first) == 3 else c.Flatten((0,))]
        shapes = [(1, *first), first]
    for _ in range(layers):
        allowed = IMAGE_KINDS if len(shapes[-1]) == 3 else VECTOR_KINDS
        kind = str(rng.choice([k for k in allowed if kinds is None or k in kinds]))
        nodes, shapes = _grown(nodes, shapes, _layer(rng, kind, nodes, shapes))
    if len(shapes[-1]) == 3:
        nodes, shapes = _grown(nodes, shapes, [c.Flatten((len(nodes) - 1,))])
    classes = int(rng.integers(2, 4))
    return build([*nodes, c.Linear((len(nodes) - 1,), weights(rng, classes, shapes[-1][0]), weights(rng, classes))])


def _grown(
    nodes: list[c.Node], shapes: list[tuple[int, ...]], layer: list[c.Node]
) -> tuple[list[c.Node], list[tuple[int, ...]]]:
    """With the layer appended where it fits and stays small, else as before."""
    grown = list(shapes)
    try:
        for node in layer:
            grown.append(output_shape(node, [grown[i] for i in getattr(node, "inputs", ())], "random network"))
    except c.MalformedError:
        return nodes, shapes
    return (nodes, shapes) if any(math.prod(s) > 60 for s in grown) else ([*nodes, *layer], grown)


# ---------------------------------------------------------------- bounds, and exact points of a ball


def boxes(values: Values) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(lower, upper) of every node's value, in its own shape."""
    ends = zip(values.lower, values.upper, values.prepared.network.shapes, strict=True)
    return [(lower.reshape(shape), upper.reshape(shape)) for lower, upper, shape in ends]


def points(rng: np.random.Generator, ball: Ball, directions: list[NDArray[np.float64]]) -> list[Exact]:
    """The centre, and for each direction the ball's farthest point that way (cut to the domain, which may leave it
    inside the ball), exactly in the ball; then as many random ones."""
    center, radius = exact(ball.center), rational(ball.radius)
    found = [center]
    for direction in [*directions, *(rng.normal(size=ball.center.shape) for _ in directions)]:
        step = center + radius * _unit(ball.norm, direction)
        if ball.domain is not None:  # the centre lies in the domain: moving towards it leaves no ball
            low, high = map(rational, ball.domain)
            step = each(lambda v, low=low, high=high: min(max(v, low), high), step)
        found.append(step)
    return found


def _unit(norm: c.Norm, direction: NDArray[np.float64]) -> Exact:
    """Norm at most 1, exactly, and as far along the direction as rationals allow."""
    if ORDER[norm] == np.inf:
        return exact(np.sign(direction))
    if ORDER[norm] == 1:
        vertex = np.zeros(direction.size)
        vertex[np.abs(direction).argmax()] = np.sign(direction.ravel()[np.abs(direction).argmax()])
        return exact(vertex.reshape(direction.shape))
    p = int(ORDER[norm])
    v = exact(direction if p == 2 else np.sign(direction) * np.abs(direction) ** (DUAL[norm] - 1))
    total = (abs(v) ** p).sum()
    return v if total == 0 else v / (root(total, p) + fmpq(1, 2**290))


def random_ball(rng: np.random.Generator, shape: tuple[int, ...]) -> Ball:
    center = rng.uniform(0, 1, shape).astype(np.float32)
    norm: c.Norm = ("Linf", "L2", "L1")[int(rng.integers(3))]
    radius = float(rng.choice([0.0, 1e-6, 0.03, 0.2, 0.7, 2.0]) * rng.uniform(0.5, 1))
    return Ball(center, radius, norm, (0.0, 1.0) if rng.integers(2) else None)

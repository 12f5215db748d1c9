"""A small random instance of every layer kind, in every form it may take: whoever tests layers runs over this table.

Their values in exact rational arithmetic are `exact_network.exact_values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
from small_networks import array

from proofs_check import certificate as c
from proofs_check.reading.shapes import output_shape
from verifiers.layers import KINDS
from verifiers.layers.curve import Curve
from verifiers.layers.nonlinear import Elementwise
from verifiers.network.module import build

Rng = np.random.Generator
Draw = Callable[[Rng, int, tuple[int, ...]], c.Node]
IMAGE, VECTOR = (2, 6, 5), (5,)
CLASSES = 4


def pair(rng: Rng, low: int, high: int) -> tuple[int, int]:
    """Two whole numbers, both ends included."""
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def sides(rng: Rng) -> tuple[int, int, int, int]:
    """Padding (top, left, bottom, right), of one cell at most: none, even or uneven."""
    top, left = pair(rng, 0, 1)
    return (top, left, *pair(rng, 0, 1)) if rng.integers(2) else (top, left, top, left)


def constant(rng: Rng, shape: tuple[int, ...]) -> c.Float32Array:
    """Away from 0; per element, or per channel where `shape` is an image."""
    shape = (shape[0], 1, 1) if len(shape) == 3 and rng.integers(2) else shape
    return (rng.uniform(0.3, 2.0, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


def conv2d(rng: Rng, source: int, channels: int) -> c.Conv2d:
    groups = int(rng.choice([1, 2]))
    kernel, stride, dilation = pair(rng, 1, 3), pair(rng, 1, 2), pair(rng, 1, 2) if rng.integers(2) else (1, 1)
    weight, bias = array(rng, 4, channels // groups, *kernel), array(rng, 4)
    return c.Conv2d((source,), weight, bias, stride, (1, 1, *pair(rng, 0, 2)), dilation, groups)


def batch_norm(rng: Rng, source: int, channels: int) -> c.BatchNorm:
    scale, shift, mean = (array(rng, channels) for _ in range(3))
    return c.BatchNorm((source,), scale, shift, mean, abs(array(rng, channels)), 1e-3)


def cropped(rng: Rng, source: int, shape: tuple[int, ...]) -> c.Slice:
    start = tuple(int(rng.integers(0, n)) for n in shape)
    stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True))
    return c.Slice((source,), start, stop, tuple(int(rng.integers(1, 3)) for _ in shape))


def padded(rng: Rng, source: int, shape: tuple[int, ...]) -> c.Pad:
    before, after = (tuple(int(n) for n in rng.integers(0, 2, len(shape))) for _ in range(2))
    return c.Pad((source,), before, after, float(rng.choice([0.0, 0.5])))


def gathered(rng: Rng, source: int, shape: tuple[int, ...]) -> c.Gather:
    """All cells in another order, some of them, or some of them several times; as vector or image."""
    size, after = math.prod(shape), ((3, 2, 5), (5, 4, 3), (7,), (60,))[rng.integers(4)]
    order = rng.permutation(size) if rng.integers(2) else rng.integers(0, size, size)
    count = min(math.prod(after), size)
    index = np.resize(order[:count], after) if rng.integers(2) else order
    return c.Gather((source,), index.astype(np.int32))


TANH_GELU = 2 * math.sqrt(2 / math.pi)
SWISHES = ((1.0, 0.0), (1.702, 0.0), (TANH_GELU, TANH_GELU * 0.044715))  # SiLU, and two forms of GELU


def is_function(kind: Any) -> bool:
    """Of each element, without fields: such a kind needs no line in the table."""
    return issubclass(KINDS[kind], Elementwise) and [f.name for f in fields(kind)] == ["inputs"]


def without_fields(kind: Any) -> Draw:
    return lambda _g, k, _s: kind((k,))


# op -> the shapes its input may have, and the node on the value `source` of such a shape
DRAWN: dict[str, tuple[tuple[tuple[int, ...], ...], Draw]] = {
    **{op: ((IMAGE, VECTOR), without_fields(kind)) for op, kind in c.NODE_TYPES.items() if is_function(kind)},
    "linear": ((VECTOR,), lambda g, k, s: c.Linear((k,), array(g, 4, s[0]), array(g, 4))),
    "conv2d": ((IMAGE,), lambda g, k, s: conv2d(g, k, s[0])),
    "batch_norm": ((IMAGE, VECTOR), lambda g, k, s: batch_norm(g, k, s[0])),
    "shift": ((IMAGE, VECTOR), lambda g, k, s: c.Shift((k,), constant(g, s))),
    "scale": ((IMAGE, VECTOR), lambda g, k, s: c.Scale((k,), constant(g, s))),
    "divide": ((IMAGE, VECTOR), lambda g, k, s: c.Divide((k,), constant(g, s))),
    "leaky_relu": ((IMAGE, VECTOR), lambda g, k, _s: c.LeakyRelu((k,), float(g.choice([0.0, 0.125, 0.3, 1.0])))),
    "elu": ((IMAGE, VECTOR), lambda g, k, _s: c.Elu((k,), float(g.choice([0.0, 0.5, 1.0, 1.7])))),
    "gelu": ((IMAGE, VECTOR), lambda g, k, _s: c.Gelu((k,), float(g.choice([math.sqrt(2), 0.7])))),
    "swish": ((IMAGE, VECTOR), lambda g, k, _s: c.Swish((k,), *SWISHES[g.integers(len(SWISHES))])),
    "inverse_power": ((IMAGE, VECTOR), lambda g, k, _s: c.InversePower((k,), float(g.choice([0.5, 1.0, 2.0])))),
    "product": ((IMAGE, (6,)), lambda _g, k, _s: c.Product((k,))),
    "max_pool2d": ((IMAGE,), lambda g, k, _s: c.MaxPool2d((k,), (2, 2), pair(g, 1, 2), sides(g))),
    "average_pool2d": (
        (IMAGE,),
        lambda g, k, _s: c.AveragePool2d((k,), (2, 2), pair(g, 1, 2), sides(g), bool(g.integers(2))),
    ),
    "pad": ((IMAGE, VECTOR), padded),
    "slice": ((IMAGE, VECTOR), cropped),
    "concat": ((IMAGE, VECTOR), lambda _g, k, _s: c.Concat((k, 0))),
    "add": ((IMAGE, VECTOR), lambda _g, k, _s: c.Add((k, 0))),
    "flatten": ((IMAGE,), lambda _g, k, _s: c.Flatten((k,))),
    "gather": ((IMAGE, VECTOR), gathered),
}
OPS = tuple(DRAWN)
POSITIVE = ("inverse_power", "square_root")  # of positive numbers only
CURVES: dict[str, c.Node] = {
    **{op: kind((0,)) for op, kind in c.NODE_TYPES.items() if is_function(kind) and issubclass(KINDS[kind], Curve)},
    "reciprocal": c.InversePower((0,), 1.0),
    "inverse_root": c.InversePower((0,), 0.5),
    "elu": c.Elu((0,), 1.0),
    "steep_elu": c.Elu((0,), 1.7),
    "flat_elu": c.Elu((0,), 0.0),
    "gelu": c.Gelu((0,), math.sqrt(2)),
    "silu": c.Swish((0,), 1.0, 0.0),
    "tanh_gelu": c.Swish((0,), 1.595769, 0.0713548),
}


def alone(op: str, seed: int) -> tuple[c.PlainNetwork, int]:
    """A network with a node of this kind on its scaled input, and the number of that node."""
    rng = np.random.default_rng(seed)
    shapes, draw = DRAWN[op]
    shape = shapes[rng.integers(len(shapes))]
    nodes: list[c.Node] = [c.Input(shape), c.Scale((0,), np.full(shape, 2.0, np.float32))]
    nodes += [c.Relu((1,)), c.Shift((2,), np.array([0.5], np.float32))] if op in POSITIVE else []
    k = len(nodes)
    return flattened([*nodes, draw(rng, k - 1, shape)]), k


def among_others(op: str, seed: int) -> c.PlainNetwork:
    """Convolution or linear layer, ReLU, then this kind, and two linear layers to the logits with a ReLU between."""
    rng = np.random.default_rng(seed)
    shapes, draw = DRAWN[op]
    shape = shapes[rng.integers(len(shapes))]
    nodes: list[c.Node] = [c.Input(shape)]
    if len(shape) == 3:
        nodes.append(c.Conv2d((0,), array(rng, 2, 2, 3, 3) / 3, array(rng, 2), (1, 1), (1, 1, 1, 1), (1, 1), 1))
    else:
        nodes.append(c.Linear((0,), array(rng, shape[0], shape[0]) / 2, array(rng, shape[0])))
    nodes += [c.Relu((1,)), *([c.Shift((2,), np.array([0.5], np.float32))] if op in POSITIVE else [])]
    nodes.append(draw(rng, len(nodes) - 1, shape))
    vector = flattened(nodes)
    nodes, width, last = list(vector.nodes), vector.shapes[-1][0], len(vector.nodes) - 1
    nodes += [c.Linear((last,), array(rng, 5, width) / 3, array(rng, 5)), c.Relu((last + 1,))]
    return build([*nodes, c.Linear((last + 2,), array(rng, CLASSES, 5), array(rng, CLASSES))])


def flattened(nodes: list[Any]) -> c.PlainNetwork:
    """The network of these nodes, its last value as a vector; of one element twice, since logits are at least two."""
    shape = output_shapes(nodes)[-1]
    if len(shape) == 3:
        nodes, shape = [*nodes, c.Flatten((len(nodes) - 1,))], (math.prod(shape),)
    return build(nodes if shape[0] > 1 else [*nodes, c.Concat((len(nodes) - 1,) * 2)])


def output_shapes(nodes: list[Any]) -> list[tuple[int, ...]]:
    """Of every node's value."""
    shapes: list[tuple[int, ...]] = []
    for node in nodes:
        shapes.append(output_shape(node, [shapes[i] for i in getattr(node, "inputs", ())], "drawn"))
    return shapes

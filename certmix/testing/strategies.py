"""Hypothesis strategies: networks, inputs, mixes and balls that a certifier may get wrong.

Every weight comes from one byte of a drawn byte string through a table that starts with the simplest numbers, so
that Hypothesis shrinks a failing network to a few small weights quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from certmix.testing.problem import Problem, constant_network, flatten_nodes, prepend
from certmix.testing.protocol import Certifier
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build

_SIMPLE = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1.5, -1.5, 0.25, -0.25, 4.0, -4.0, 0.75, -0.75]
WEIGHTS = np.array([*_SIMPLE, *np.random.default_rng(0).normal(size=256 - len(_SIMPLE))], np.float32)
INPUTS = np.array(
    [0.0, 1.0, 0.5, 0.25, 0.75, *np.random.default_rng(1).uniform(size=251)], np.float32
)  # corners of the usual domain [0, 1] first
EDGES = np.array([0.0, -0.0, 1e-45, 1.1754944e-38, 1.0 - 2.0**-24, 1.0 + 2.0**-23, 16777216.0, 3e7, -1e-30], np.float32)
EPSILON = 2.0**-18  # of batch norm; variance + EPSILON is a perfect square, so that exact evaluation is possible


@dataclass(frozen=True)
class Regime:
    """Where a network's numbers live: powers of two that scale the weights and the last layer; bias offset."""

    scale: float = 1.0
    last: float = 1.0
    offset: float = 0.0


ORDINARY = Regime()
EXTREMES = (
    Regime(scale=2.0**-20),
    Regime(scale=2.0**12, last=2.0**-10),
    Regime(last=2.0**-8),
    Regime(last=2.0**7),
    Regime(last=2.0**30),
    Regime(last=2.0**-60),
    Regime(offset=-3.0),
    Regime(offset=4.0, last=2.0**5),
)


@dataclass(frozen=True)
class Wishes:
    """What one law wants of its problems: network kinds, regimes, the most inputs, ways to choose alpha and g."""

    kinds: tuple[str, ...] = ("linear", "mlp", "residual", "conv", "normalised", "pooled", "moved")
    regimes: tuple[Regime, ...] = (ORDINARY,)
    batch: int = 6
    alphas: tuple[str, ...] = ("one", "plain", "critical")
    standards: tuple[str, ...] = ("worst", "switching", "random")
    edges: bool = False
    far: bool = False
    classes: int = 4


class Source:
    """Draws arrays, one byte per entry."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def numbers(self, shape: tuple[int, ...], values: NDArray[np.float32] = WEIGHTS) -> NDArray[np.float32]:
        size = math.prod(shape)
        data = np.frombuffer(self.draw(st.binary(min_size=size, max_size=size)), np.uint8)
        return values[data.astype(np.int64) % len(values)].reshape(shape)

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


def _linear(source: Source, index: int, rows: int, columns: int, scale: float, offset: float = 0.0) -> c.Linear:
    weight = source.numbers((rows, columns)) * np.float32(scale)
    return c.Linear((index,), weight, source.numbers((rows,)) * np.float32(scale) + np.float32(offset))


def _activation(source: Source, index: int) -> c.Node:
    return c.LeakyRelu((index,), 0.25) if source.whole(0, 3) == 3 else c.Relu((index,))


def _mlp(source: Source, nodes: list[c.Node], width: int, classes: int, regime: Regime, residual: bool) -> None:
    """Append hidden layers and the logits; `width`: the size of the last node's vector."""
    for _ in range(source.whole(1, 2)):
        hidden = source.whole(1, 6)
        nodes.append(_linear(source, len(nodes) - 1, hidden, width, regime.scale, regime.offset))
        nodes.append(_activation(source, len(nodes) - 1))
        width = hidden
    if residual:
        start = len(nodes) - 1
        nodes.append(_linear(source, start, width, width, regime.scale))
        nodes.append(c.Relu((len(nodes) - 1,)))
        nodes.append(c.Add((start, len(nodes) - 1)))
    nodes.append(_linear(source, len(nodes) - 1, classes, width, regime.last))


def _curved(source: Source, nodes: list[c.Node], width: int, classes: int, regime: Regime, kind: str) -> None:
    """Append a hidden layer of curves with rational values, or of products of two values, and the logits."""
    hidden = source.whole(1, 4)
    rows = 2 * hidden if kind == "gated" else hidden
    nodes.append(_linear(source, len(nodes) - 1, rows, width, regime.scale, regime.offset))
    bent = c.Product if kind == "gated" else source.draw(st.sampled_from([c.Square, c.Abs, c.HardSwish, c.Cube]))
    nodes.append(bent((len(nodes) - 1,)))
    nodes.append(_linear(source, len(nodes) - 1, classes, hidden, regime.last))


def _conv(source: Source, shape: tuple[int, ...], classes: int, regime: Regime, extra: str) -> list[c.Node]:
    nodes: list[c.Node] = [c.Input(shape)]
    channels, kernel = source.whole(1, 2), source.whole(1, 2)
    stride, before, after = source.whole(1, 2), source.whole(0, 1), source.whole(0, 1)
    groups = shape[0] if source.whole(0, 2) == 2 else 1
    channels *= groups
    weight = source.numbers((channels, shape[0] // groups, kernel, kernel)) * np.float32(regime.scale)
    bias = source.numbers((channels,)) * np.float32(regime.scale)
    nodes.append(c.Conv2d((0,), weight, bias, (stride, 1), (before, after, after, before), (1, 1), groups))
    size = ((shape[1] + before + after - kernel) // stride + 1, shape[2] + before + after - kernel + 1)
    if extra == "normalised":
        variance = np.float32(4.0) ** source.draw(st.sampled_from([0, -1, 1])) - np.float32(EPSILON)
        scale, shift, mean = (source.numbers((channels,)) for _ in range(3))
        nodes.append(c.BatchNorm((1,), scale, shift, mean, np.full(channels, variance, np.float32), EPSILON))
    nodes.append(_activation(source, len(nodes) - 1))
    if extra == "pooled" and min(size) >= 2:
        last = (len(nodes) - 1,)
        pool = (2, 2), (1, 1), (0, 0, 0, 0)
        nodes.append(c.MaxPool2d(last, *pool) if source.whole(0, 1) else c.AveragePool2d(last, *pool, True))
        size = (size[0] - 1, size[1] - 1)
    nodes.append(c.Flatten((len(nodes) - 1,)))
    nodes.append(_linear(source, len(nodes) - 1, classes, channels * size[0] * size[1], regime.last))
    return nodes


def _wide_conv(source: Source, shape: tuple[int, ...], classes: int, regime: Regime) -> list[c.Node]:
    """A first layer whose window is the whole image, then perhaps a ReLU: its bounds are the dual norm's, no looser."""
    weight, bias = source.numbers((1, *shape)) * np.float32(regime.scale), source.numbers((1,))
    nodes: list[c.Node] = [c.Input(shape), c.Conv2d((0,), weight, bias, (1, 1), (0, 0, 0, 0), (1, 1), 1)]
    if source.whole(0, 1):
        nodes.append(c.Relu((1,)))
    nodes.append(c.Flatten((len(nodes) - 1,)))
    return [*nodes, _linear(source, len(nodes) - 1, classes, 1, regime.last)]


def network(source: Source, kind: str, classes: int, regime: Regime, shape: tuple[int, ...] | None) -> c.PlainNetwork:
    """A network of this kind. shape: the input's, or None to draw one that fits the kind."""
    image = kind in ("conv", "pooled", "wide_conv") or (kind == "normalised" and source.whole(0, 1) == 1)
    if shape is None:
        shape = (
            (source.whole(1, 2), source.whole(2, 3), 3) if image else (source.whole(3 if kind == "moved" else 1, 5),)
        )
    if kind == "wide_conv":
        return build(_wide_conv(source, shape, classes, regime))
    if len(shape) == 3 and image:
        return build(_conv(source, shape, classes, regime, kind))
    nodes: list[c.Node] = [c.Input(shape)]
    if kind == "normalised":
        nodes.append(c.Shift((0,), -source.numbers((1,) * len(shape), INPUTS)))
        deviation = source.draw(st.sampled_from([0.5, 0.25, 2.0, 0.3]))
        nodes.append(c.Divide((1,), np.full((1,) * len(shape), deviation, np.float32)))
    if len(shape) > 1:
        nodes.append(c.Flatten((len(nodes) - 1,)))
    size = math.prod(shape)
    if kind == "moved":  # around, so that there and back differ; some cells may be there twice, others not at all
        cells = np.roll(np.arange(size, dtype=np.int32), source.whole(1, 2))
        cells[: source.whole(0, 1)] = cells[-1]
        nodes.append(c.Gather((len(nodes) - 1,), cells))
    if kind == "linear":
        scale = regime.last
        nodes.append(_linear(source, len(nodes) - 1, classes, size, scale))
    elif kind in ("curved", "gated"):
        _curved(source, nodes, size, classes, regime, kind)
    else:
        _mlp(source, nodes, size, classes, regime, kind == "residual")
    return build(nodes)


def _inputs(source: Source, shape: tuple[int, ...], wishes: Wishes) -> NDArray[np.float32]:
    x = source.numbers((source.whole(1, wishes.batch), *shape), INPUTS)
    if wishes.edges and source.whole(0, 1):
        return np.where(source.numbers(x.shape) > 0, source.numbers(x.shape, EDGES), x).astype(np.float32)
    return x


def switching_network(source: Source, shape: tuple[int, ...], classes: int) -> c.PlainNetwork:
    """A g that jumps between one-hot answers across a hyperplane: the worst g of Lemma 3.2 away from the input."""
    size = math.prod(shape)
    direction = source.numbers((size,))
    weight = np.zeros((classes, size), np.float32)
    class_above, class_below = source.whole(0, classes - 1), source.whole(0, classes - 1)
    weight[class_above] += 4096 * direction
    weight[class_below] -= 4096 * direction
    offset = np.float32(2048 * float(source.numbers((1,))[0]))
    bias = np.full(classes, -4096, np.float32)
    bias[class_above] = -offset
    bias[class_below] = offset
    return build([c.Input(shape), *flatten_nodes(shape), c.Linear((int(len(shape) > 1),), weight, bias)])


def standard_network(source: Source, how: str, robust: c.PlainNetwork) -> c.PlainNetwork:
    """A standard classifier beside `robust`: worst (constant, one-hot), switching, or random."""
    shape, classes = robust.input_shape, robust.classes
    if how == "random":
        return network(source, "mlp" if len(shape) == 1 else "conv", classes, Regime(last=8.0), shape)
    if how == "switching":
        return switching_network(source, shape, classes)
    logits = np.zeros(classes, np.float32)
    logits[source.whole(0, classes - 1)] = 2.0**12
    return constant_network(shape, logits)


def _alpha(source: Source, how: str, robust: c.PlainNetwork, x: NDArray[np.float32], temperature: float) -> float:
    """1, an ordinary weight, 1/2, or the critical 1/(1 + margin) of an input with a factor near 1."""
    if how == "one":
        return 1.0
    if how == "half":
        return source.draw(st.sampled_from([0.5, 0.5 + 2.0**-30, 0.4, 0.0]))
    if how == "plain":
        return source.draw(st.sampled_from([0.75, 0.9, 0.6, 0.55, 0.99, 0.51]))
    z = temperature * PlainModule(robust).double()(torch.from_numpy(x[:1].astype(np.float64)))
    top = torch.softmax(z[0], -1).sort(descending=True).values
    factor = source.draw(st.sampled_from([1.02, 1.0001, 1.3, 1.0, 0.98]))
    return float(np.clip(factor / (1 + float(top[0] - top[1])), 0.0, 1.0)) if bool(torch.isfinite(top).all()) else 1.0


def _moved(
    robust: c.PlainNetwork, standard: c.PlainNetwork, x: NDArray[np.float32], distance: float
) -> tuple[c.PlainNetwork, c.PlainNetwork, NDArray[np.float32]]:
    """The same networks around a point far from the origin: a first layer subtracts the distance."""
    back = c.Shift((0,), np.full((1,) * (x.ndim - 1), -distance, np.float32))
    return prepend(robust, (back,)), prepend(standard, (back,)), x + np.float32(distance)


@st.composite
def problems(draw: st.DrawFn, certifier: Certifier, wishes: Wishes) -> Problem:
    """Problems of the wished kinds that this certifier can be asked (its norms, whether it knows temperatures)."""
    source = Source(draw)
    classes = source.whole(2, wishes.classes)
    regime = draw(st.sampled_from(wishes.regimes))
    robust = network(source, draw(st.sampled_from(wishes.kinds)), classes, regime, None)
    x = _inputs(source, robust.input_shape, wishes)
    mixed = certifier.protocol == "mix"
    temperature = draw(st.sampled_from([1.0, 2.0, 0.5, 8.0])) if mixed and certifier.takes("temperature") else 1.0
    domain = draw(st.sampled_from([None, (0.0, 1.0)])) if certifier.takes("domain") and not wishes.edges else None
    standard, alpha = robust, 1.0
    if mixed:
        standard = standard_network(source, draw(st.sampled_from(wishes.standards)), robust)
        alpha = _alpha(source, draw(st.sampled_from(wishes.alphas)), robust, x, temperature)
    radius = draw(st.sampled_from([0.25, 1.0, 2.0**-4, 2.0**-10, 4.0, 0.1, 16.0, 2.0**-24]))
    norm = draw(st.sampled_from(certifier.norms))
    suspects = np.zeros((0, *robust.input_shape))
    if wishes.far:
        robust, standard, x, domain = *_moved(robust, standard, x, draw(st.sampled_from([2.0**20, 2.0**22]))), None
    return Problem(standard, robust, x, alpha, temperature, norm, radius, domain, suspects)

"""Small random plain networks and the exponents of norms, for the tests of every package."""

from __future__ import annotations

import itertools

import numpy as np

from proofs_check import certificate as c
from verifiers.network.module import build

ORDER: dict[c.Norm, float] = {"Linf": np.inf, "L2": 2, "L1": 1}
DUAL: dict[c.Norm, float] = {norm: {np.inf: 1, 1: np.inf}.get(p) or p / (p - 1) for norm, p in ORDER.items()}
NORMS: tuple[c.Norm, ...] = tuple(ORDER)
ACTIVATIONS = {"relu": c.Relu, "leaky": lambda i: c.LeakyRelu(i, 0.3), "sigmoid": c.Sigmoid, "tanh": c.Tanh}


def array(g: np.random.Generator, *shape: int) -> c.Float32Array:
    return g.normal(size=shape).astype(np.float32)


def mlp(seed: int, widths: tuple[int, ...] = (4, 6, 5, 3), activation: str = "relu") -> c.PlainNetwork:
    """Linear layers of these widths, an activation between any two."""
    g = np.random.default_rng(seed)
    nodes: list[c.Node] = [c.Input((widths[0],))]
    for a, b in itertools.pairwise(widths):
        if len(nodes) > 1:
            nodes.append(ACTIVATIONS[activation]((len(nodes) - 1,)))
        nodes.append(c.Linear((len(nodes) - 1,), array(g, b, a), array(g, b)))
    return build(nodes)


def every_layer(seed: int) -> c.PlainNetwork:
    """One of nearly every kind of node, from a (2, 4, 4) image to three logits."""
    g = np.random.default_rng(seed)
    return build(
        [
            c.Input((2, 4, 4)),
            c.Conv2d((0,), array(g, 4, 1, 2, 2), array(g, 4), (1, 1), (1, 0, 0, 1), (1, 1), 2),
            c.BatchNorm((1,), array(g, 4), array(g, 4), array(g, 4), abs(array(g, 4)), 1e-5),
            c.Relu((2,)),
            c.MaxPool2d((3,), (2, 2), (1, 1), (1, 0, 0, 0)),
            c.Tanh((4,)),
            c.Add((5, 4)),
            c.Concat((6, 5)),
            c.Scale((7,), array(g, 8, 1, 1)),
            c.Divide((8,), np.float32(1) + abs(array(g, 8, 1, 1))),
            c.Slice((9,), (0, 0, 0), (8, 4, 3), (1, 1, 1)),
            c.Pad((10,), (0, 1, 0), (0, 0, 1), 0.5),
            c.AveragePool2d((11,), (2, 2), (2, 2), (1, 0, 0, 0), False),
            c.Sigmoid((12,)),
            c.Flatten((13,)),
            c.Shift((14,), array(g, 48)),
            c.Linear((15,), array(g, 3, 48), array(g, 3)),
        ]
    )

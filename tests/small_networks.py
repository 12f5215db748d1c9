"""Small random plain networks and the exponents of norms, for the tests of every package."""

from __future__ import annotations

import itertools

import numpy as np

from proofs_check import certificate as c
from verifiers.plain import build

NORMS: tuple[c.Norm, ...] = ("Linf", "L2", "L1")
ORDER: dict[c.Norm, float] = {"Linf": np.inf, "L2": 2, "L1": 1}
DUAL: dict[c.Norm, float] = {norm: ORDER[c.DUAL_NORM[norm]] for norm in NORMS}
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

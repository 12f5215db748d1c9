"""One question put to a certifier: two networks, a batch of inputs, a mix and a ball."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_check.certificate import Flatten, Input, Linear, Node, PlainNetwork
from verifiers.network.module import PlainModule, build


@dataclass(frozen=True, eq=False)
class Problem:
    """What a certifier is asked about, and what the laws need to judge its answer.

    standard, robust: plain networks over one input shape with as many classes. inputs: (N, *shape) float32.
    alpha in [0, 1], temperature > 0 of the mix. norm: "Linf", "L2", "L1" or "L3", "L4", … radius: the ball of
    protocols that are asked about a given ball. domain: box every coordinate lies in, or None. suspects:
    (M, *shape) float64, points known by construction to be dangerous.
    """

    standard: PlainNetwork
    robust: PlainNetwork
    inputs: NDArray[np.float32]
    alpha: float
    temperature: float
    norm: str
    radius: float
    domain: tuple[float, float] | None
    suspects: NDArray[np.float64]

    @functools.cached_property
    def robust64(self) -> PlainModule:
        """The robust network in double precision, for attacks."""
        return PlainModule(self.robust).double()

    @functools.cached_property
    def standard64(self) -> PlainModule:
        """The standard network in double precision, for attacks."""
        return PlainModule(self.standard).double()

    @functools.cached_property
    def centers64(self) -> torch.Tensor:
        """The inputs in double precision, (N, *shape)."""
        return torch.from_numpy(self.inputs.astype(np.float64))

    @property
    def size(self) -> int:
        """How large a counterexample made of this problem is: its non-zero numbers, for picking the smallest."""
        arrays = [self.inputs, *weights(self.robust), *weights(self.standard)]
        return sum(int(np.count_nonzero(a)) for a in arrays) + sum(a.size for a in arrays)


def weights(network: PlainNetwork) -> list[NDArray[np.float32]]:
    """Every array the network stores."""
    return [v for node in network.nodes for v in vars(node).values() if isinstance(v, np.ndarray)]


def exponent(norm: str) -> float:
    """p of a norm written "Linf" or "L<p>". Raises ValueError for anything else."""
    if norm == "Linf":
        return math.inf
    try:
        p = float(norm.removeprefix("L"))
    except ValueError:
        p = math.nan
    if not norm.startswith("L") or not p >= 1:
        raise ValueError(f"norm must be Linf or L<p> with p >= 1, got {norm!r}")
    return p


def dual_exponent(p: float) -> float:
    """p* with 1/p + 1/p* = 1."""
    return 1.0 if p == math.inf else math.inf if p == 1 else p / (p - 1)


def constant_network(shape: tuple[int, ...], logits: NDArray[np.float32]) -> PlainNetwork:
    """A network that gives `logits` at every input: the worst g of Lemma 3.2 where one entry dominates."""
    size = math.prod(shape)
    weight = np.zeros((len(logits), size), np.float32)
    return build([Input(shape), *flatten_nodes(shape), Linear((int(len(shape) > 1),), weight, logits)])


def flatten_nodes(shape: tuple[int, ...]) -> list[Node]:
    """The node that turns an input of this shape into a vector, if it needs one."""
    return [Flatten((0,))] if len(shape) > 1 else []


def prepend(network: PlainNetwork, nodes: tuple[Node, ...]) -> PlainNetwork:
    """The network behind more first layers (each reads the one before it)."""
    moved = [
        dataclasses.replace(n, inputs=tuple(i + len(nodes) for i in n.inputs))  # type: ignore[union-attr]
        for n in network.nodes[1:]
    ]
    return build([network.nodes[0], *nodes, *moved])

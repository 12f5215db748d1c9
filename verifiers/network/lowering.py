"""A plain network in the few kinds of steps that bound propagation needs: every layer says its own.

Engines are untrusted: the judge works on the plain network itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from proofs_check import certificate as c
from verifiers.layers import layer
from verifiers.layers.layer import tensors
from verifiers.layers.lowering import Builder
from verifiers.layers.steps import Shape, Step


@dataclass(frozen=True, eq=False)
class Lowered:
    """Steps in topological order, step 0 the source, the last one the logits; shapes without batch axis."""

    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]


def lower(network: c.PlainNetwork) -> Lowered:
    """Ensures: the same function as `network` in real arithmetic, up to the float64 rounding of merged weights.

    Raises EngineError where a layer has no steps.
    """
    builder = Builder()
    place: list[int] = []  # the step that holds plain node k's value
    read = [i for node in network.nodes for i in getattr(node, "inputs", ())]
    readers = [read.count(k) for k in range(len(network.nodes))]

    def is_sole(k: int) -> bool:
        """Node k has one reader, and so has every other plain node that shares its step (a flatten of a vector
        does)."""
        return readers[k] == 1 and all(readers[i] == 1 for i in range(k) if place[i] == place[k])

    for k, node in enumerate(network.nodes):
        inputs: tuple[int, ...] = getattr(node, "inputs", ())
        weights = tensors(node, torch.float64)
        at = tuple(place[i] for i in inputs)
        place.append(layer(network, k, weights).lower(builder, at, bool(inputs) and is_sole(inputs[0])))
    return _reachable(builder.steps, builder.shapes, place[-1])


def _reachable(steps: list[Step], shapes: list[Shape], last: int) -> Lowered:
    """Only the steps that `last` needs, renumbered."""
    needed = {0, last}
    for k in range(last, 0, -1):
        if k in needed:
            needed.update(steps[k].inputs)
    order = sorted(needed)
    position = {k: i for i, k in enumerate(order)}
    kept = tuple(replace(steps[k], inputs=tuple(position[i] for i in steps[k].inputs)) for k in order)
    return Lowered(kept, tuple(shapes[k] for k in order))

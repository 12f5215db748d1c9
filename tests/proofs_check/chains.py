"""Chains of layers that scale a feature, whose last values nothing uses, and float32 arrays from lists."""

from __future__ import annotations

import numpy as np

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.case import Case
from verifiers.network.module import build

F32 = np.float32


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


def dead_chain(scales: list[float], joined: type[c.Add] | type[c.Concat]) -> Case:
    """Logits x + (9, 0), beside a chain of `scales` through ReLUs that are dead, joined with itself."""
    nodes: list[c.Node] = [c.Input((2,))]
    last = 0
    for scale in scales:
        nodes += [c.Scale((last,), array([scale])), c.Shift((len(nodes),), array([-(2.0**100)]))]
        nodes.append(c.Relu((len(nodes) - 1,)))
        last = len(nodes) - 1
    nodes += [joined((last, last)), c.Shift((0,), array([9, 0]))]
    return Case(bounds.prepare(build(nodes)), None, array([0, 0]))

"""Rewrites a list of plain nodes into a shorter one that computes the same function in real arithmetic."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c


def simplify(nodes: Sequence[c.Node], last: int) -> list[c.Node]:
    """The nodes that node `last` depends on, renumbered, with W x + 0 + c merged into W x + c.

    Ensures: the last node of the result computes what node `last` did, in real arithmetic.
    """
    users = Counter(i for node in nodes for i in getattr(node, "inputs", ()))
    merged = list(nodes)
    for k, node in enumerate(nodes):
        if isinstance(node, c.Shift) and users[node.inputs[0]] == 1:
            merged[k] = _with_bias(merged[node.inputs[0]], node.constant) or node
    keep = {0, last}
    for k in range(last, 0, -1):
        if k in keep:
            keep |= set(getattr(merged[k], "inputs", ()))
    new = {old: position for position, old in enumerate(sorted(keep))}
    return [_renumbered(merged[k], new) for k in sorted(keep)]


def _with_bias(node: c.Node, constant: c.Float32Array) -> c.Node | None:
    """`node` + constant as one node, where its bias is zero and the constant is one number per output channel."""
    if not isinstance(node, c.Linear | c.Conv2d) or np.any(node.bias != 0):
        return None
    if constant.size not in (1, len(node.bias)) or constant.shape[0] != constant.size:
        return None
    return dataclasses.replace(node, bias=np.broadcast_to(constant.ravel(), node.bias.shape).copy())


def _renumbered(node: c.Node, new: dict[int, int]) -> c.Node:
    if isinstance(node, c.Input):
        return node
    return dataclasses.replace(node, inputs=tuple(new[i] for i in node.inputs))  # type: ignore[arg-type]

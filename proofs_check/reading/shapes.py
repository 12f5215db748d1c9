"""The shape of a plain network's node, as its layer says; no value of a network is too large to be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from proofs_check import certificate as c
from proofs_check.certificate import wellformed
from proofs_check.kernel.layers import KINDS
from proofs_check.kernel.linear_forms import Shape
from proofs_check.kernel.windows import MAX_ELEMENTS


def output_shape(node: c.Node, inputs: Sequence[Shape], place: str) -> Shape:
    """Shape of `node`'s value given its inputs' shapes. Raises MalformedError where they do not fit."""
    reads_any = isinstance(node, c.Flatten | c.Gather)
    wellformed(reads_any or all(map(_fits, inputs)), place, f"must be flattened before it is read: {inputs}")
    shape = KINDS[type(node)].shape(node, inputs, place)
    wellformed(isinstance(node, c.Input) or _fits(shape), place, f"value is no vector and no image: {shape}")
    wellformed(math.prod(shape) <= MAX_ELEMENTS, place, f"value of shape {shape} is too large")
    return shape


def _fits(shape: Shape) -> bool:
    """(features,) or (channels, height, width)."""
    return len(shape) in (1, 3)

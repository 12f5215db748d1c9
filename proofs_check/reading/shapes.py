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
    shape = KINDS[type(node)].shape(node, inputs, place)
    wellformed(math.prod(shape) <= MAX_ELEMENTS, place, f"value of shape {shape} is too large")
    return shape

"""The table of layer kinds: everything the untrusted side knows of one is in its class, one method per question.

Engines ask the layer; only this table knows the kinds. Kinds that differ in little stand in one file. Nothing here is
trusted: the judge answers for itself (proofs_check/kernel/layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import kinked, powers, relu, smooth
from verifiers.layers.add import Add
from verifiers.layers.average_pool2d import AveragePool2d
from verifiers.layers.concat import Concat
from verifiers.layers.conv2d import Conv2d
from verifiers.layers.cropping import Pad, Slice
from verifiers.layers.diagonal import BatchNorm, Divide, Scale, Shift
from verifiers.layers.gather import Flatten, Gather
from verifiers.layers.input import Input
from verifiers.layers.layer import AnyLayer
from verifiers.layers.linear import Linear
from verifiers.layers.max_pool2d import MaxPool2d
from verifiers.layers.product import Product

KINDS: dict[type[c.Node], type[AnyLayer]] = {
    c.Input: Input,
    c.Linear: Linear,
    c.Conv2d: Conv2d,
    c.BatchNorm: BatchNorm,
    c.Shift: Shift,
    c.Scale: Scale,
    c.Divide: Divide,
    **relu.KINDS,
    **smooth.KINDS,
    **kinked.KINDS,
    **powers.KINDS,
    c.Product: Product,
    c.MaxPool2d: MaxPool2d,
    c.AveragePool2d: AveragePool2d,
    c.Pad: Pad,
    c.Slice: Slice,
    c.Concat: Concat,
    c.Add: Add,
    c.Flatten: Flatten,
    c.Gather: Gather,
}


def layer(network: c.PlainNetwork, k: int, weights: Mapping[str, Tensor]) -> AnyLayer:
    """Node k of the network with its arrays as tensors, by field."""
    node: Any = network.nodes[k]
    shapes = tuple(network.shapes[i] for i in getattr(node, "inputs", ()))
    return KINDS[type(node)](node, shapes, network.shapes[k], weights)

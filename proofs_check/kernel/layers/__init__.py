"""The table of layer kinds. Everything the judge knows of one is in its class, one method per question: `layer` and
`affine` ask them. Kinds that differ in little stand in one file."""

from __future__ import annotations

from proofs_check import certificate as c
from proofs_check.kernel.layers import gates, kinked, powers, relu, smooth
from proofs_check.kernel.layers.add import Add
from proofs_check.kernel.layers.average_pool2d import AveragePool2d
from proofs_check.kernel.layers.concat import Concat
from proofs_check.kernel.layers.conv2d import Conv2d
from proofs_check.kernel.layers.cropping import Pad, Slice
from proofs_check.kernel.layers.diagonal import BatchNorm, Divide, Scale, Shift
from proofs_check.kernel.layers.gather import Flatten, Gather
from proofs_check.kernel.layers.input import Input
from proofs_check.kernel.layers.layer import Layer
from proofs_check.kernel.layers.linear import Linear
from proofs_check.kernel.layers.max_pool2d import MaxPool2d
from proofs_check.kernel.layers.product import Product

KINDS: dict[type[c.Node], type[Layer]] = {
    c.Input: Input,
    c.Linear: Linear,
    c.Conv2d: Conv2d,
    c.BatchNorm: BatchNorm,
    c.Shift: Shift,
    c.Scale: Scale,
    c.Divide: Divide,
    **relu.KINDS,
    **smooth.KINDS,
    **gates.KINDS,
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

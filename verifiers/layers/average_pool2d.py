"""`average_pool2d`: the mean of every window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Monotone
from verifiers.layers.windows import pad
from verifiers.linear_forms.convolution import adjoint_of
from verifiers.linear_forms.forms import DenseForms, LinearForms, Summand


@dataclass(frozen=True, eq=False)
class AveragePool2d(Monotone[c.AveragePool2d]):
    """The denominator counts padded cells iff `node.count_padding`."""

    mixes: ClassVar[bool] = True

    @property
    def even(self) -> bool:
        """All windows have the same denominator."""
        return self.node.count_padding or not any(self.node.padding)

    def value(self, *inputs: Tensor) -> Tensor:
        node, x = self.node, inputs[0]
        padded = pad(x, node.padding, 0.0)
        if self.even:
            return F.avg_pool2d(padded, node.kernel, node.stride)
        ones = pad(torch.ones_like(x[:1, :1]), node.padding, 0.0)
        share = F.avg_pool2d(ones, node.kernel, node.stride)
        return F.avg_pool2d(padded, node.kernel, node.stride) / share

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        node, coefficients = self.node, forms.to_dense().coefficients
        channels, height, width = self.shapes[0]
        share, ones = 1.0 / (node.kernel[0] * node.kernel[1]), coefficients.new_ones(1, 1, *node.kernel)
        if not self.even:
            counted = pad(coefficients.new_ones(1, 1, height, width), node.padding, 0.0)
            coefficients, share = coefficients / F.conv2d(counted, ones, None, node.stride), 1.0
        kernel = (ones * share).expand(channels, 1, *node.kernel)
        spread = adjoint_of(kernel, node.stride, node.padding[:2], (1, 1), channels)
        return (DenseForms(spread.to_image(coefficients, (height, width))),)

    @property
    def terms(self) -> int:
        return math.prod(self.node.kernel)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        node, shape, (rows, columns) = self.node, self.shape, self.node.kernel
        taps = torch.eye(shape[0], dtype=torch.float64)[:, :, None, None].expand(-1, -1, rows, columns)
        k = builder.push(low.padded(at, taps / (rows * columns), node.stride, node.padding), shape)
        if self.even:
            return k
        ones = torch.ones(1, 1, *self.shapes[0][1:], dtype=torch.float64)
        one = torch.full((1, 1, rows, columns), 1 / (rows * columns), dtype=torch.float64)
        step = low.padded(at, one, node.stride, node.padding)
        share = step.mapped(ones, step.weight, None)[0].expand(shape)
        return builder.affine(low.Pointwise((k,), 1 / share, torch.zeros_like(share)), False, shape)

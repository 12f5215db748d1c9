"""`max_pool2d`: the largest element of every window.

Relaxation: one pixel of each window stands for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.layer import Interval, LayerError
from verifiers.layers.nonlinear import Nonlinear
from verifiers.layers.windows import overlap, pad, scatter_windows, windows
from verifiers.linear_forms.forms import DenseForms, FormToInput, LinearForms, dot
from verifiers.linear_forms.relaxation import Relaxation
from verifiers.norms import NORMS


@dataclass(frozen=True, eq=False)
class MaxPool2d(Nonlinear[c.MaxPool2d]):
    """Padded cells take no part: they count as -inf."""

    def value(self, *inputs: Tensor) -> Tensor:
        return F.max_pool2d(pad(inputs[0], self.node.padding, -math.inf), self.node.kernel, self.node.stride)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> MaxPoolRelaxation:
        return max_pool_relaxation(lower, upper, self.node)

    def forms_below(self, forms: LinearForms) -> LinearForms:
        return DenseForms(forms.coefficients.new_zeros(len(forms.coefficients), *self.shapes[0]))

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        low, high = windows(lower, self.node, -math.inf), windows(upper, self.node, -math.inf)
        # a cell is out if another's lower bound exceeds its upper bound, alone in if its lower exceeds all uppers
        best = low.argmax(dim=2, keepdim=True)
        rival_upper = high.scatter(2, best, -math.inf).amax(dim=2, keepdim=True)
        alone = low.amax(dim=2, keepdim=True) > rival_upper
        least = torch.zeros_like(low).scatter(2, best, alone.to(low.dtype))
        most = (high >= low.amax(dim=2, keepdim=True)) & (high > -math.inf)
        return least, most.to(low.dtype)

    @property
    def taps(self) -> int:
        return math.prod(self.node.kernel)

    def rounding(self, x: Tensor) -> Tensor:
        """Nothing but comparisons."""
        return torch.zeros_like(self.value(x))

    def at_taps(self, x: Tensor) -> Tensor:
        return windows(x, self.node, 0.0)

    def from_taps(self, x: Tensor) -> Tensor:
        return scatter_windows(x, self.node, self.shapes[0])

    def over_taps(self, value: Tensor) -> Tensor:
        return value.flatten(2).unsqueeze(2)

    def sum_of_taps(self, x: Tensor) -> Tensor:
        return x.sum(dim=2).reshape(len(x), *self.shape)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        top, left, bottom, right = self.node.padding
        if (top, left) != (bottom, right):
            raise LayerError(f"no bounds for a max-pool with uneven padding {self.node.padding}")
        return builder.push(low.MaxPool(at, self.node.kernel, self.node.stride, (top, left)), self.shape)

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        """|max(a) - max(b)|^p, summed over windows, is at most sum |a - b|^p with each cell once per window."""
        return before[0] * NORMS[norm].of_ones(overlap(self.node.kernel, self.node.stride))


@dataclass(frozen=True, eq=False)
class MaxPoolRelaxation(Relaxation):
    """Of each pooled value, (N, C, h, w): selected, the flat index of the pixel that stands for it in the padded image;
    dominates: 1 where that pixel is the largest for sure; rival_constant: the largest value possible, 0 where it
    dominates.

    padded: (height, width) of the padded image. corner, size: where the image starts in it, and its own height and
    width.
    """

    selected: Tensor
    dominates: Tensor
    rival_constant: Tensor
    padded: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    def backward(self, forms: LinearForms, form_to_input: FormToInput) -> tuple[LinearForms, Tensor]:
        """Coefficients of pooled values, moved to the selected pixels; positive ones take a constant where these have
        rivals."""
        dense = forms.to_dense()
        selected, dominates, rival_constant = (
            dense.gather(v, form_to_input) for v in (self.selected, self.dominates, self.rival_constant)
        )
        coefficients = dense.grouped(rival_constant)
        positive = coefficients.clamp(min=0)
        negative_or_dominant = coefficients - positive + positive * dominates
        moved, selected = (v.movedim(-1, 2).flatten(3) for v in (negative_or_dominant, selected))
        image = moved.new_zeros(*moved.shape[:3], math.prod(self.padded))
        spread = image.scatter_add(3, selected.expand_as(moved), moved).flatten(0, 1).unflatten(2, self.padded)
        (top, left), (height, width) = self.corner, self.size
        inside = spread[:, :, top : top + height, left : left + width]
        return DenseForms(inside), dot(positive, rival_constant)

    def pick(self, index: Tensor | slice) -> MaxPoolRelaxation:
        return dataclasses.replace(
            self,
            selected=self.selected[index],
            dominates=self.dominates[index],
            rival_constant=self.rival_constant[index],
        )


def max_pool_relaxation(lower: Tensor, upper: Tensor, node: c.MaxPool2d) -> MaxPoolRelaxation:
    """The pixel with the largest lower bound; above it, where others may exceed it, only the constant holds."""
    low, high = (pad(v, node.padding, -math.inf) for v in (lower, upper))
    best, selected = F.max_pool2d(low, node.kernel, node.stride, return_indices=True)
    rival_constant = F.max_pool2d(high, node.kernel, node.stride)
    pool_taps = [_pool_taps(v, node) for v in (high, _pixel_indices(high))]
    rival = pool_taps[0].masked_fill(pool_taps[1] == selected[:, :, None].to(high.dtype), -math.inf).amax(2)
    dominates = best >= rival
    return MaxPoolRelaxation(
        selected,
        dominates.to(lower.dtype),
        torch.where(dominates, torch.zeros_like(rival_constant), rival_constant),
        padded=(high.shape[2], high.shape[3]),
        corner=node.padding[:2],
        size=(lower.shape[2], lower.shape[3]),
    )


def _pixel_indices(images: Tensor) -> Tensor:
    """The flat index of every pixel, in the shape of `images`."""
    height, width = images.shape[2:]
    return torch.arange(height * width, dtype=images.dtype, device=images.device).view(height, width).expand_as(images)


def _pool_taps(images: Tensor, node: c.MaxPool2d) -> Tensor:
    """(N, C, H, W) -> (N, C, kh * kw, h, w)."""
    views = images.unfold(2, node.kernel[0], node.stride[0]).unfold(3, node.kernel[1], node.stride[1])
    return views.permute(0, 1, 4, 5, 2, 3).flatten(2, 3)

"""`conv2d`: cross-correlation with zero padding, and a bias per channel."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import SVD_ERROR, Affine, interval_by_centre, spectral_norm, with_weights
from verifiers.layers.convolution_norm import by_frequencies
from verifiers.layers.layer import Interval
from verifiers.layers.windows import overlap, pad
from verifiers.linear_forms.blocks import Pair
from verifiers.linear_forms.convolution import Adjoint, adjoint_of
from verifiers.linear_forms.forms import LinearForms, PatchForms, Summand, channels_last
from verifiers.linear_forms.patches import Patches
from verifiers.norms import NORMS

MAX_MATRIX_ENTRIES = 2**20  # of a map between patches that is kept as one matrix
MAX_UNROLLED_ENTRIES = 2**22  # and of a convolution's whole matrix, of so many
MAX_UNROLLED_ROWS = 1024
MAX_PRODUCT_OVERHEAD = 16  # times as many products as needed that are as fast in one matrix product


@dataclass(frozen=True, eq=False)
class Conv2d(Affine[c.Conv2d]):
    """repeated: the biases of every position in turn, by the number of positions. patch_matrices: maps between patches,
    by the size of the patch above. Both once computed."""

    mixes: ClassVar[bool] = True
    repeated: dict[int, Tensor] = field(init=False, default_factory=lambda: {})
    patch_matrices: dict[Pair, Tensor] = field(init=False, default_factory=lambda: {})

    def value(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], self.weights["weight"], self.weights["bias"])

    def interval(self, *inputs: Interval) -> Interval:
        return interval_by_centre(self._convolve, self.weights["weight"], self.weights["bias"], inputs[0])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        node = self.node
        top, left, bottom, right = node.padding
        if (top, left) == (bottom, right):  # the convolution's own padding copies nothing
            return F.conv2d(x, weight, bias, node.stride, (top, left), node.dilation, node.groups)
        return F.conv2d(pad(x, node.padding, 0.0), weight, bias, node.stride, 0, node.dilation, node.groups)

    # ------------------------------------------------------------ forms

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        forms = forms.masked()
        if isinstance(forms, PatchForms):
            patches = forms.patches.below_convolution(self.node.stride, self.node.padding[:2])
            below = PatchForms(self._on_patches(forms.coefficients), patches, self.shapes[0])
            return (below.dense_if_large(),)
        return (self.adjoint_map.on_input(forms, self.shapes[0]),)

    def offset(self, forms: LinearForms) -> Tensor | None:
        flat = channels_last(forms.masked().coefficients).flatten(1)
        positions = flat.shape[1] // self.shape[0]
        if positions not in self.repeated:
            self.repeated[positions] = self.weights["bias"].repeat(positions)
        return flat @ self.repeated[positions]

    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        node = self.node
        if node.groups > 1 or node.dilation != (1, 1):
            return None
        channel, pixel = index // (self.shape[1] * self.shape[2]), index % (self.shape[1] * self.shape[2])
        patches = Patches(pixel, (self.shape[1], self.shape[2]), node.stride, (-node.padding[0], -node.padding[1]))
        taps = self.weights["weight"][channel].contiguous(memory_format=torch.channels_last)
        return PatchForms(taps, patches, self.shapes[0]).dense_if_large(), self.weights["bias"][channel]

    @functools.cached_property
    def adjoint_map(self) -> Adjoint:
        node = self.node
        return adjoint_of(self.weights["weight"], node.stride, node.padding[:2], node.dilation, node.groups)

    def _on_patches(self, forms: Tensor) -> Tensor:
        """Forms (R, C, h, w) on patches of the output as forms on the patches of the input below: one matrix product,
        where small."""
        node, weight = self.node, self.weights["weight"]
        size = forms.shape[2], forms.shape[3]
        taps = [node.dilation[a] * (weight.shape[2 + a] - 1) + 1 for a in (0, 1)]
        full = [(size[a] - 1) * node.stride[a] + taps[a] for a in (0, 1)]
        entries = forms.shape[1:].numel() * weight.shape[1] * node.groups * full[0] * full[1]
        wasteful = full[0] * full[1] * node.groups > MAX_PRODUCT_OVERHEAD * weight.shape[2] * weight.shape[3]
        if wasteful or entries > MAX_MATRIX_ENTRIES:
            return F.conv_transpose2d(forms, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        if size not in self.patch_matrices:
            self.patch_matrices[size] = self._patch_matrix(forms.shape[1:])
        images = channels_last(forms).flatten(1) @ self.patch_matrices[size]
        return images.view(len(forms), *full, -1).permute(0, 3, 1, 2)

    def _patch_matrix(self, patch: torch.Size) -> Tensor:
        """From a patch (C, h, w) of the output to the one below, pixel after pixel on both sides."""
        node, weight = self.node, self.weights["weight"]
        units = torch.eye(patch.numel(), dtype=weight.dtype, device=weight.device).view(*patch, *patch)
        units = units.permute(1, 2, 0, 3, 4, 5).flatten(0, 2)  # one per pixel and channel, channels last
        pulled = F.conv_transpose2d(units, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        return channels_last(pulled).flatten(1)

    # ------------------------------------------------------------ weights

    @property
    def terms(self) -> int:
        out, per_group, height, width = self.node.weight.shape
        return max(out, per_group) * height * width

    def linear(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.zeros_like, "bias"))

    def absolute(self) -> Self:
        linear = self.linear()
        return dataclasses.replace(linear, weights=with_weights(linear.weights, torch.abs, "weight"))

    def operator_norm(self, norm: c.Norm) -> float:
        """L2: also `spectral_norm`, once computed."""
        between = super().operator_norm(norm)
        return min(between, self.spectral_norm) if NORMS[norm].euclidean else between

    @functools.cached_property
    def spectral_norm(self) -> float:
        """Of the matrix itself where that is small; else by frequencies or, where these are too many, as a matrix
        applied to every patch, where an input cell lies in at most `overlap` patches; of groups the largest."""
        node, image, counts = self.node, self.shapes[0], self.shape[1:]
        cells = math.prod(self.shape), math.prod(image)
        if cells[0] <= MAX_UNROLLED_ROWS and math.prod(cells) <= MAX_UNROLLED_ENTRIES:
            units = torch.eye(cells[1], dtype=torch.float64).reshape(-1, *image)
            matrix = self._convolve(units, torch.from_numpy(node.weight.astype(np.float64)), None)
            return float(torch.linalg.matrix_norm(matrix.flatten(1), 2)) * (1 + SVD_ERROR)
        found = by_frequencies(node, (image[1], image[2]), (counts[0], counts[1]))
        if found is not None:
            return found * (1 + SVD_ERROR)
        kernels = node.weight.reshape(node.groups, node.weight.shape[0] // node.groups, -1)
        patches_per_cell = overlap((node.weight.shape[2], node.weight.shape[3]), node.stride, node.dilation)
        return max(map(spectral_norm, kernels)) * math.sqrt(patches_per_cell)

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        """Groups become zero blocks of a dense kernel."""
        node, weight = self.node, self.weights["weight"]
        out, per_group = weight.shape[:2]
        dense = weight.new_zeros(out, per_group * node.groups, *weight.shape[2:])
        for g in range(node.groups):
            rows = slice(g * out // node.groups, (g + 1) * out // node.groups)
            dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
        step = low.padded(at, dense, node.stride, node.padding, self.weights["bias"], node.dilation)
        return builder.affine(step, only, self.shape)

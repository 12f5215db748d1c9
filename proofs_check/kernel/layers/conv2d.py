"""`conv2d`: cross-correlation with zero padding, and a bias per channel.

Precondition and postcondition: `affine`. Charged: by `terms`; cells beyond the image are exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proofs_check import certificate as c
from proofs_check.certificate import Norm, wellformed
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, Shape
from proofs_check.kernel.norms import NORMS, spectral_norm
from proofs_check.kernel.rounding import Array, float_up
from proofs_check.kernel.spectra import convolution_norm
from proofs_check.kernel.windows import Sliding

MAX_ROWS, MAX_ENTRIES = 1024, 2**22  # of the matrix of a convolution that is written out


class Conv2d(Affine):
    """terms: the products of a window, or of the windows that hold a cell, and the bias; the weights are exact."""

    def __init__(self, node: c.Conv2d, shapes: Sequence[Shape]) -> None:
        super().__init__(node, shapes)
        out, per_group, kh, kw = node.weight.shape
        self.sliding = Sliding((kh, kw), node.stride, node.padding, node.dilation)
        self.terms = max(per_group, out // node.groups) * kh * kw + 1
        weight = node.weight.astype(np.float64).reshape(node.groups, out // node.groups, per_group, kh, kw)
        self.weight = np.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2))  # (G, out / G, kh, kw, in / G)
        self.size = np.abs(self.weight)
        self._biased(node.bias.astype(np.float64)[:, None, None])

    @staticmethod
    def shape(node: c.Conv2d, inputs: Sequence[Shape], place: str) -> Shape:
        (shape,) = inputs
        wellformed(node.weight.ndim == 4 and len(shape) == 3, place, "conv2d needs a 4-axis weight and a 3-axis input")
        out, per_group, kh, kw = node.weight.shape
        wellformed(node.groups >= 1 and out % node.groups == 0, place, f"groups {node.groups} does not divide {out}")
        wellformed(per_group * node.groups == shape[0], place, f"weight {node.weight.shape} does not fit {shape}")
        wellformed(node.bias.shape == (out,), place, f"bias {node.bias.shape} does not fit")
        return (out, *Sliding((kh, kw), node.stride, node.padding, node.dilation).counts(shape, place))

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        weight = self.size if absolute else self.weight
        groups, out, kh, kw, per_group = weight.shape
        windows = self.sliding.windows(values[0], 0.0)
        oh, ow = windows.shape[3:]
        columns = windows.reshape(groups, per_group, kh, kw, oh * ow).transpose(0, 2, 3, 1, 4)
        product = weight.reshape(groups, out, -1) @ columns.reshape(groups, -1, oh * ow)
        return product.reshape(groups * out, oh, ow)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        weight = self.size if absolute else self.weight
        grouped = forms.values.reshape(-1, *weight.shape[:2]).transpose(1, 0, 2)  # (G, R h w, out / G)

        def tap(i: int, j: int) -> Array:
            return (grouped @ weight[:, :, i, j]).transpose(1, 0, 2).reshape(*forms.values.shape[:3], -1)

        return (self.sliding.spread(forms, tap, self.shapes[0]),)

    def operator_norm(self, norm: Norm) -> float:
        """L2: of the matrix itself where that is small; else by frequencies or, where these are too many, as a matrix
        applied to every patch, where an input cell lies in at most `overlap` patches."""
        between = super().operator_norm(norm)
        if not NORMS[norm].euclidean:
            return between
        shape, counts = self.shapes[0], self.sliding.counts(self.shapes[0], "conv2d")
        out = (math.prod(self.weight.shape[:2]), *counts)
        cells = math.prod(out)
        if cells <= MAX_ROWS and cells * math.prod(shape) <= MAX_ENTRIES:
            units = np.eye(cells).reshape(-1, *counts, out[0])  # their adjoints are weights: nothing rounds
            return min(between, spectral_norm(self.adjoint(LinearForms(units, None))[0].values.reshape(cells, -1)))
        found = convolution_norm(self.weight, self.sliding, shape[1:], counts)
        if found is None:
            largest = max(spectral_norm(kernel.reshape(len(kernel), -1)) for kernel in self.weight)
            found = float_up(largest * float_up(math.sqrt(self.sliding.overlap())))
        return min(between, found)

"""Windows that slide over an image, and their adjoint; how many fit.

Precondition: an image that `counts` accepted. Postcondition: `windows` holds every cell of every window, and `spread`
is its transpose. Charged: nothing here; `spread` adds up at most as many coefficients as a window has cells, and its
caller charges that sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from proofs_check.certificate import wellformed
from proofs_check.kernel.linear_forms import LinearForms, Shape, clip_to_image
from proofs_check.kernel.rounding import Array

MAX_ELEMENTS = 2**26
MAX_TAPS = 2**27  # cells of all windows together
MAX_STRIDE = 16  # beyond the length it moves along


@dataclass(frozen=True)
class Sliding:
    """Windows over height and width; padding (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)

    def counts(self, shape: Shape, place: str) -> Shape:
        """Number of windows along height and width of an image (channels, height, width). Raises MalformedError.

        Ensures: the padded image and all windows together are of bounded size.
        """
        result: list[int] = []
        cells = shape[0]  # of the padded image
        ends = zip(self.padding[:2], shape[1:], self.padding[2:], strict=True)
        for (before, length, after), k, s, d in zip(ends, self.kernel, self.stride, self.dilation, strict=True):
            wellformed(min(k, s, d) >= 1, place, "kernel, stride, dilation must be >= 1")
            wellformed(min(before, after) >= 0, place, f"padding must be >= 0, got {self.padding}")
            padded = before + length + after
            span = padded - d * (k - 1) - 1
            wellformed(span >= 0, place, f"window {self.kernel} is larger than the padded input {shape}")
            need_stride(max(s, d), padded, place)
            result.append(span // s + 1)
            cells *= padded
        wellformed(cells <= MAX_ELEMENTS, place, f"input {shape} padded by {self.padding} is too large")
        taps = shape[0] * math.prod(self.kernel) * math.prod(result)
        wellformed(
            taps <= MAX_TAPS, place, f"windows {self.kernel} over {shape} hold {taps} cells, more than {MAX_TAPS}"
        )
        return tuple(result)

    def windows(self, value: Array, fill: float) -> Array:
        """(C, H, W) -> a view (C, kh, kw, oh, ow)."""
        top, left, bottom, right = self.padding
        padded = np.pad(value, ((0, 0), (top, bottom), (left, right)), constant_values=fill)
        (dh, dw), (sh, sw) = self.dilation, self.stride
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        every = sliding_window_view(padded, spans, axis=(1, 2))  # (C, oh, ow, kh, kw) at stride and dilation 1
        return every[:, ::sh, ::sw, ::dh, ::dw].transpose(0, 3, 4, 1, 2)

    def spread(self, forms: LinearForms, tap: Callable[[int, int], Array], shape: Shape) -> LinearForms:
        """Adjoint of `windows`: tap(i, j), (R, h, w, C), is added at cell (i, j) of every window; forms on `shape`."""
        count, h, w = forms.values.shape[:3]
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        result = np.zeros((count, (h - 1) * sh + (kh - 1) * dh + 1, (w - 1) * sw + (kw - 1) * dw + 1, shape[0]))
        for i in range(kh):
            for j in range(kw):
                y, x = i * dh, j * dw
                result[:, y : y + (h - 1) * sh + 1 : sh, x : x + (w - 1) * sw + 1 : sw] += tap(i, j)
        first = 0 if forms.corner is None else forms.corner * np.array(self.stride)
        return clip_to_image(result, first - np.array(self.padding[:2]), forms.corner is None, shape)

    def overlap(self) -> int:
        """At most that many windows hold one cell: per axis, the taps t with t dilation = cell modulo stride."""
        periods = [s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        return math.prod(-(-k // p) for k, p in zip(self.kernel, periods, strict=True))


def need_stride(stride: int, length: int, place: str) -> None:
    """A stride, step or dilation far beyond the length changes nothing, but a backward pass may reach that far."""
    wellformed(stride <= length + MAX_STRIDE, place, f"stride or dilation {stride} is too large for {length} cells")


def pooled_shape(sliding: Sliding, shape: Shape, place: str) -> Shape:
    """Of a pooled image; every window meets at least one real cell. Raises MalformedError."""
    wellformed(len(shape) == 3, place, "pooling needs a 3-axis input")
    fits = all(sliding.padding[a] < sliding.kernel[a % 2] for a in range(4))
    wellformed(fits, place, f"padding {sliding.padding} must be smaller than the kernel {sliding.kernel}")
    return (shape[0], *sliding.counts(shape, place))

"""The adjoint of a convolution as an ordinary convolution. Part of the native CROWN engine.

With stride s, the input cells of one remainder modulo s (a phase) are a stride-1 convolution of the output's rows, so
all phases together are one convolution with s * s times the channels. On a processor it is several times as fast as a
transposed convolution, most of all with the few channels of a network's first layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of the phase convolution: tap t feeds phase[t], from `shift[t]` cells on; taps reach over `length`."""

    phase: tuple[int, ...]
    shift: tuple[int, ...]
    length: int
    before: int


def _axis(taps: int, stride: int, padding: int, dilation: int) -> Axis:
    phase = tuple((t * dilation - padding) % stride for t in range(taps))
    moves = [(q + padding - t * dilation) // stride for t, q in enumerate(phase)]
    return Axis(phase, tuple(m - min(moves) for m in moves), max(moves) - min(moves) + 1, -min(moves))


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint of one convolution. kernel: (s * s * C', C / groups, h, w), in each group the phases of the input
    outermost. before: cells to pad above and to the left."""

    kernel: Tensor
    before: Pair
    stride: Pair
    groups: int

    def phases(self, rows: Tensor, image: Pair) -> Tensor:
        """Rows (R, C, h, w) of the output as rows of the input, (R, s * s * C', ⌈H / s⌉, ⌈W / s⌉): see `to_phases`.

        Cells that stick out of the image (H, W) where s does not divide it are not zero.
        """
        wanted = [-(-image[a] // self.stride[a]) for a in (0, 1)]
        after = [wanted[a] + self.kernel.shape[2 + a] - 1 - rows.shape[2 + a] - self.before[a] for a in (0, 1)]
        if min(*self.before, *after) < 0:
            cut = F.pad(rows, (self.before[1], after[1], self.before[0], after[0]))
            return self._sorted(F.conv2d(cut, self.kernel, None, 1, 0, 1, self.groups))
        # the same padding on both sides costs a few cells more and no copy of the rows
        padding = [max(self.before[a], after[a]) for a in (0, 1)]
        found = F.conv2d(rows, self.kernel, None, 1, padding, 1, self.groups)
        top, left = (padding[a] - self.before[a] for a in (0, 1))
        return self._sorted(found[:, :, top : top + wanted[0], left : left + wanted[1]])

    def _sorted(self, found: Tensor) -> Tensor:
        """Channels by phase and then by group."""
        phases = self.stride[0] * self.stride[1]
        if self.groups == 1 or phases == 1:
            return found
        return found.unflatten(1, (self.groups, phases, -1)).transpose(1, 2).flatten(1, 3)

    def whole(self, rows: Tensor, image: Pair) -> Tensor:
        """Rows (R, C, h, w) of the output as rows (R, C', H, W) of the input."""
        return from_phases(self.phases(rows, image), self.stride, image)


def adjoint_of(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Adjoint:
    """weight: (C, C' / groups, h, w) of the convolution. padding: above, left."""
    down, right = (_axis(weight.shape[2 + a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    out, inputs = weight.shape[0] // groups, weight.shape[1]
    taps = weight.view(groups, out, inputs, *weight.shape[2:]).transpose(1, 2)
    kernel = weight.new_zeros(groups, *stride, inputs, out, down.length, right.length)
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            kernel[:, down.phase[y], right.phase[x], :, :, down.shift[y], right.shift[x]] = taps[..., y, x]
    merged = kernel.reshape(groups * inputs * stride[0] * stride[1], out, down.length, right.length)
    return Adjoint(merged, (down.before, right.before), stride, groups)


def to_phases(images: Tensor, stride: Pair) -> Tensor:
    """(N, C, H, W) -> (N, s * s * C, ⌈H / s⌉, ⌈W / s⌉): cell (y, x) of phase (a, b) is pixel (s y + a, s x + b), zero
    outside."""
    n, channels, height, width = images.shape
    rows, columns = -(-height // stride[0]), -(-width // stride[1])
    padded = F.pad(images, (0, columns * stride[1] - width, 0, rows * stride[0] - height))
    parts = padded.unflatten(3, (columns, stride[1])).unflatten(2, (rows, stride[0])).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, channels * stride[0] * stride[1], rows, columns)


def from_phases(rows: Tensor, stride: Pair, image: Pair) -> Tensor:
    """The inverse of `to_phases`, cut to the image."""
    if stride == (1, 1):
        return rows[:, :, : image[0], : image[1]]
    parts = rows.unflatten(1, (*stride, -1)).permute(0, 4, 1, 5, 2, 3)  # (R, h, s, w, s, C'), channels last
    merged = parts.flatten(3, 4).flatten(1, 2)[:, : image[0], : image[1]]
    return merged.permute(0, 3, 1, 2)

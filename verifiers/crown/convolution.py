"""The adjoint of a convolution as an ordinary convolution. Part of the native CROWN engine.

With stride s, the input cells of one remainder modulo s (a phase) are a stride-1 convolution of the output's rows, so
all phases together are one convolution with s * s times the channels. On a processor it is several times as fast as a
transposed convolution, most of all with the few channels of a network's first layers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # cells to add to the left, to the right, above and below; negative: to cut
NO_SIDES = (0, 0, 0, 0)


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
    """The adjoint of one convolution. kernel: (s * s * C' - missing, C / groups, h, w), in each group the phases of the
    input outermost; the `missing` channels are the last, which no tap reaches. before: cells to pad above and to the
    left. canvases: kept from one convolution to the next, of each thread and image size, zero at the sides."""

    kernel: Tensor
    missing: int
    before: Pair
    stride: Pair
    groups: int
    canvases: dict[tuple[int, ...], Tensor] = field(init=False, default_factory=lambda: {})

    def phases(self, rows: Tensor, image: Pair, split: Pair = (1, 1)) -> Tensor:
        """Rows of the output as rows of the input, (R, s * s * C', ⌈H / s⌉, ⌈W / s⌉): see `to_phases`.

        rows: (R, C, h, w), or split in phases themselves. Cells that stick out of the image (H, W) where s does not
        divide it are not zero.
        """
        found = self.reached(rows, image, split)
        return F.pad(found, (0, 0, 0, 0, 0, self.missing)) if self.missing else found

    def reached(self, rows: Tensor, image: Pair, split: Pair = (1, 1)) -> Tensor:
        """`phases` without the missing channels, which are zero."""
        size = [rows.shape[2 + a] * split[a] for a in (0, 1)]
        wanted = [-(-image[a] // self.stride[a]) for a in (0, 1)]
        after = [wanted[a] + self.kernel.shape[2 + a] - 1 - size[a] - self.before[a] for a in (0, 1)]
        even = min(after) >= 0 and tuple(after) == self.before  # padded by the convolution itself, without a copy
        sides = NO_SIDES if even else (self.before[1], after[1], self.before[0], after[0])
        padded = self._padded(rows, split, (size[0], size[1]), sides)
        return self._sorted(F.conv2d(padded, self.kernel, None, 1, self.before if even else 0, 1, self.groups))

    def _padded(self, rows: Tensor, split: Pair, size: Pair, sides: Sides) -> Tensor:
        """`from_phases` with zeros on its sides, to be used up at once: the next call writes over it."""
        if not any(sides):
            return from_phases(rows, split, size)
        if min(sides) < 0 or torch.is_grad_enabled():
            return F.pad(from_phases(rows, split, size), sides)
        left, right, above, below = sides
        channels = rows.shape[1] // (split[0] * split[1])
        shape = above + size[0] + below, left + size[1] + right, channels
        place = threading.get_ident(), *shape
        if place not in self.canvases or len(self.canvases[place]) < len(rows):
            self.canvases[place] = rows.new_zeros(len(rows), *shape)
        canvas = self.canvases[place][: len(rows)]
        _put(rows, split, canvas[:, above : above + size[0], left : left + size[1]])
        return canvas.permute(0, 3, 1, 2)

    def _sorted(self, found: Tensor) -> Tensor:
        """Channels by phase and then by group."""
        phases = self.stride[0] * self.stride[1]
        if self.groups == 1 or phases == 1:
            return found
        return found.unflatten(1, (self.groups, phases, -1)).transpose(1, 2).flatten(1, 3)

    def whole(self, rows: Tensor, image: Pair, split: Pair = (1, 1)) -> Tensor:
        """`phases` put together: rows (R, C', H, W) of the input."""
        return from_phases(self.phases(rows, image, split), self.stride, image)


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
    last = inputs * (1 + max(y * stride[1] + x for y in down.phase for x in right.phase))  # that a tap reaches
    kept = merged[:last] if groups == 1 else merged
    return Adjoint(kept, len(merged) - len(kept), (down.before, right.before), stride, groups)


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
    inner = rows.shape[2] * stride[0], rows.shape[3] * stride[1]
    merged = rows.new_empty(len(rows), *inner, rows.shape[1] // (stride[0] * stride[1]))
    _put(rows, stride, merged)
    return merged[:, : image[0], : image[1]].permute(0, 3, 1, 2)


def _put(rows: Tensor, stride: Pair, images: Tensor) -> None:
    """The inverse of `to_phases`, written into images (R, H, W, C)."""
    last = rows.permute(0, 2, 3, 1)
    if stride == (1, 1):
        images.copy_(last)
    else:
        cells = images.unflatten(2, (-1, stride[1])).unflatten(1, (-1, stride[0]))  # (R, h, s, w, s, C)
        cells.copy_(last.unflatten(3, (*stride, -1)).transpose(2, 3))

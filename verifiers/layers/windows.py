"""What layers that slide windows over images have in common."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c


def pad(x: Tensor, padding: tuple[int, int, int, int], value: float) -> Tensor:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def windows(x: Tensor, node: c.MaxPool2d, fill: float) -> Tensor:
    """(N, C, H, W) -> (N, C, kernel cells, windows) with padded cells at `fill`."""
    top, left, bottom, right = node.padding
    padded = F.pad(x, (left, right, top, bottom), value=fill)
    cells = F.unfold(padded, node.kernel, stride=node.stride)
    return cells.reshape(len(x), x.shape[1], node.kernel[0] * node.kernel[1], -1)


def scatter_windows(cells: Tensor, node: c.MaxPool2d, shape: tuple[int, ...]) -> Tensor:
    """Adjoint of `windows` with fill 0: (N, C, kernel cells, windows) -> (N, *shape)."""
    channels, height, width = shape
    top, left, bottom, right = node.padding
    flat = cells.reshape(len(cells), channels * node.kernel[0] * node.kernel[1], -1)
    size = (height + top + bottom, width + left + right)
    return F.fold(flat, size, node.kernel, stride=node.stride)[:, :, top : top + height, left : left + width]


def overlap(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> int:
    """At most that many windows hold one cell: per axis, the taps t with t·dilation = cell modulo stride."""
    periods = (s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))
    return math.prod(-(-k // p) for k, p in zip(kernel, periods, strict=True))

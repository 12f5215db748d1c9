"""Images in space-to-depth blocks: the pixels of one remainder modulo a stride moved to channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def space_to_depth(images: Tensor, block: Pair) -> Tensor:
    """(N, C, H, W) -> (N, s * s * C, ⌈H / s⌉, ⌈W / s⌉): position (a, b) of block (y, x) is pixel (s y + a,
    s x + b), zero outside."""
    n, channels, height, width = images.shape
    rows, columns = -(-height // block[0]), -(-width // block[1])
    padded = F.pad(images, (0, columns * block[1] - width, 0, rows * block[0] - height))
    parts = padded.unflatten(3, (columns, block[1])).unflatten(2, (rows, block[0])).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, channels * block[0] * block[1], rows, columns)


def depth_to_space(forms: Tensor, block: Pair, image: Pair) -> Tensor:
    """The inverse of `space_to_depth`, cut to the image."""
    if block == (1, 1):
        return forms[:, :, : image[0], : image[1]]
    inner = forms.shape[2] * block[0], forms.shape[3] * block[1]
    merged = forms.new_empty(len(forms), *inner, forms.shape[1] // (block[0] * block[1]))
    write_depth_to_space(forms, block, merged)
    return merged[:, : image[0], : image[1]].permute(0, 3, 1, 2)


def write_depth_to_space(forms: Tensor, block: Pair, images: Tensor) -> None:
    """The inverse of `space_to_depth`, written into images (R, H, W, C)."""
    last = forms.permute(0, 2, 3, 1)
    if block == (1, 1):
        images.copy_(last)
    else:
        pixels = images.unflatten(2, (-1, block[1])).unflatten(1, (-1, block[0]))  # (R, h, s, w, s, C)
        pixels.copy_(last.unflatten(3, (*block, -1)).transpose(2, 3))

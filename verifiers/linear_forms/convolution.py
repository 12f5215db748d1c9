"""The adjoint of a convolution as an ordinary convolution.

With stride s, the input pixels of one remainder modulo s (one position in a space-to-depth block) are a stride-1
convolution of the forms on the output, so all positions together are one convolution with s * s times the channels. On
a processor it is several times as fast as a transposed convolution, most of all with the few channels of a network's
first layers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from verifiers.linear_forms.blocks import Pair, depth_to_space, write_depth_to_space
from verifiers.linear_forms.forms import BlockForms, DenseForms, Shape, Summand, on_image

Sides = tuple[int, int, int, int]  # pixels to add to the left, to the right, above and below; negative: to cut
NO_SIDES = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of the space-to-depth convolution: tap t feeds position `in_block[t]` of each block, from `shift[t]`
    blocks on; taps reach over `length` blocks, the first of them `before` the block they are for."""

    in_block: tuple[int, ...]
    shift: tuple[int, ...]
    length: int
    before: int


def _axis(taps: int, stride: int, padding: int, dilation: int) -> Axis:
    in_block = tuple((t * dilation - padding) % stride for t in range(taps))
    moves = [(q + padding - t * dilation) // stride for t, q in enumerate(in_block)]
    return Axis(in_block, tuple(m - min(moves) for m in moves), max(moves) - min(moves) + 1, -min(moves))


class ScratchBuffers(threading.local):
    """Images to be filled and used up at once, kept from one convolution to the next: one per size, each thread its
    own."""

    def __init__(self) -> None:
        self.by_size: dict[tuple[int, int, int], Tensor] = {}

    def zero_sided(self, like: Tensor, inner: Pair, channels: int, sides: Sides) -> tuple[Tensor, Tensor]:
        """An image (R, H, W, C), zero at its sides, for each of the R of `like`, and the view (R, *inner, C) of it that
        is to be written over.

        Requires: sides >= 0, and nothing but that view is ever written. The next call for this size gives the same
        memory.
        """
        left, right, above, below = sides
        size = above + inner[0] + below, left + inner[1] + right, channels
        buffer = self.by_size.get(size)
        if buffer is None or len(buffer) < len(like):
            buffer = self.by_size[size] = like.new_zeros(len(like), *size)
        images = buffer[: len(like)]
        return images, images[:, above : above + inner[0], left : left + inner[1]]


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint of one convolution.

    kernel: (s * s * C' - missing_channels, C / groups, h, w), in each group the positions in a block outermost; the
    missing channels are the last, which no tap reaches. before: blocks to pad above and to the left. scratch: its
    padded inputs; all of one size have the same sides.
    """

    kernel: Tensor
    missing_channels: int
    before: Pair
    stride: Pair
    groups: int
    scratch: ScratchBuffers = field(init=False, default_factory=ScratchBuffers)

    def on_input(self, forms: DenseForms | BlockForms, image: Shape) -> Summand:
        """Forms on the output as forms on the input, of shape `image`. Requires: they are masked."""
        return on_image(self.nonzero_blocks(forms.coefficients, (image[1], image[2]), forms.block), self.stride, image)

    def blocks(self, forms: Tensor, image: Pair, block: Pair = (1, 1)) -> Tensor:
        """Forms on the output as forms on the input in blocks, (R, s * s * C', ⌈H / s⌉, ⌈W / s⌉).

        forms: (R, C, h, w), or themselves in blocks of size `block`. What sticks out of the image (H, W) where s does
        not divide it is not zero. See `space_to_depth`.
        """
        reached = self.nonzero_blocks(forms, image, block)
        return F.pad(reached, (0, 0, 0, 0, 0, self.missing_channels)) if self.missing_channels else reached

    def nonzero_blocks(self, forms: Tensor, image: Pair, block: Pair = (1, 1)) -> Tensor:
        """`blocks` without the missing channels, which are zero."""
        size = [forms.shape[2 + a] * block[a] for a in (0, 1)]
        wanted = [-(-image[a] // self.stride[a]) for a in (0, 1)]
        after = [wanted[a] + self.kernel.shape[2 + a] - 1 - size[a] - self.before[a] for a in (0, 1)]
        even = min(after) >= 0 and tuple(after) == self.before  # padded by the convolution itself, without a copy
        sides = NO_SIDES if even else (self.before[1], after[1], self.before[0], after[0])
        padded = self._padded(forms, block, (size[0], size[1]), sides)
        return self._block_major(F.conv2d(padded, self.kernel, None, 1, self.before if even else 0, 1, self.groups))

    def _padded(self, forms: Tensor, block: Pair, size: Pair, sides: Sides) -> Tensor:
        """`depth_to_space` with zeros on its sides, to be used up at once: the next call writes over it."""
        if not any(sides):
            return depth_to_space(forms, block, size)
        if min(sides) < 0 or torch.is_grad_enabled():
            return F.pad(depth_to_space(forms, block, size), sides)
        images, inner = self.scratch.zero_sided(forms, size, forms.shape[1] // (block[0] * block[1]), sides)
        write_depth_to_space(forms, block, inner)
        return images.permute(0, 3, 1, 2)

    def _block_major(self, images: Tensor) -> Tensor:
        """Channels by position in a block and then by group."""
        positions = self.stride[0] * self.stride[1]
        if self.groups == 1 or positions == 1:
            return images
        return images.unflatten(1, (self.groups, positions, -1)).transpose(1, 2).flatten(1, 3)

    def to_image(self, forms: Tensor, image: Pair, block: Pair = (1, 1)) -> Tensor:
        """`blocks` put together: forms (R, C', H, W) on the input."""
        return depth_to_space(self.blocks(forms, image, block), self.stride, image)


def adjoint_of(weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Adjoint:
    """weight: (C, C' / groups, h, w) of the convolution. padding: above, left."""
    down, right = (_axis(weight.shape[2 + a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    out, inputs = weight.shape[0] // groups, weight.shape[1]
    taps = weight.view(groups, out, inputs, *weight.shape[2:]).transpose(1, 2)
    kernel = weight.new_zeros(groups, *stride, inputs, out, down.length, right.length)
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            kernel[:, down.in_block[y], right.in_block[x], :, :, down.shift[y], right.shift[x]] = taps[..., y, x]
    merged = kernel.reshape(groups * inputs * stride[0] * stride[1], out, down.length, right.length)
    reached = inputs * (1 + max(y * stride[1] + x for y in down.in_block for x in right.in_block))  # by some tap
    trimmed = merged[:reached] if groups == 1 else merged
    return Adjoint(trimmed, len(merged) - len(trimmed), (down.before, right.before), stride, groups)

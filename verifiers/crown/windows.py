"""Windows of images: where the receptive fields of neurons lie, and what an image looks like through them.

Part of the native CROWN engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE_SHARE = 0.25  # windows looked at per window there is, above which all of them are copied out first

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows (channels, h, w) of an image (channels, height, width), on a grid that may hang over the border.

    The window of grid cell (y, x) starts at (y * step[0] + offset[0], x * step[1] + offset[1]) of the image.
    cells: (R,) the flat grid cell of each row.
    """

    cells: Tensor
    grid: Pair
    step: Pair
    offset: Pair

    def seen(self, images: Tensor, size: Pair, owner: Tensor) -> Tensor:
        """(R, h, w, C): what each row's window shows of image owner[r] of (N, C, H, W); zeros outside it."""
        views = self._views(images, size)
        if len(images) == 1:
            owner = torch.zeros_like(self.cells)
        area = self.grid[0] * self.grid[1]
        if len(self.cells) > TABLE_SHARE * area * len(images):
            table = views.reshape(len(images) * area, -1)
            return table.index_select(0, owner * area + self.cells).view(-1, *views.shape[3:])
        return views[owner, self.cells // self.grid[1], self.cells % self.grid[1]]

    def _views(self, images: Tensor, size: Pair) -> Tensor:
        """(N, *grid, h, w, C), a view of the padded images."""
        sides: list[int] = []
        for axis in (1, 0):
            last = (self.grid[axis] - 1) * self.step[axis] + self.offset[axis] + size[axis]
            sides += [-self.offset[axis], last - images.shape[2 + axis]]
        padded = F.pad(images, sides)  # negative sides cut
        rows = padded.unfold(2, size[0], self.step[0]).unfold(3, size[1], self.step[1])
        return rows.permute(0, 2, 3, 4, 5, 1)

    def inside(self, size: Pair, image: Pair, like: Tensor) -> Tensor:
        """(R, h, w, 1): 1 where a window's cell lies in the image, else 0."""
        return self.seen(like.new_ones(1, 1, *image), size, self.cells)

    def places(self, size: Pair, image: Pair) -> Tensor:
        """(R, h * w): the flat place in the image of every window cell, 0 outside it."""
        numbers = torch.arange(image[0] * image[1], device=self.cells.device).view(1, 1, *image)
        return self.seen(numbers, size, self.cells).flatten(1)

    def through(self, stride: Pair, padding: Pair) -> Windows:
        """The windows of a convolution's input that correspond to these of its output."""
        step = (self.step[0] * stride[0], self.step[1] * stride[1])
        offset = (self.offset[0] * stride[0] - padding[0], self.offset[1] * stride[1] - padding[1])
        return Windows(self.cells, self.grid, step, offset)

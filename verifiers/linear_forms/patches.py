"""Patches of images: where the receptive fields of neurons lie, and what an image holds there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE_SHARE = 0.25  # patches wanted per patch there is, above which all of them are copied out first

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches (channels, h, w) of an image (channels, height, width), on a grid that may hang over the border.

    The patch at grid position (y, x) starts at (y * step[0] + offset[0], x * step[1] + offset[1]) of the image.
    positions: (R,) the flat grid position of each form.
    """

    positions: Tensor
    grid: Pair
    step: Pair
    offset: Pair

    def extract(self, images: Tensor, size: Pair, image_index: Tensor) -> Tensor:
        """(R, h, w, C): the patch of each form in image image_index[r] of (N, C, H, W); zeros outside it."""
        patches = self._all_patches(images, size)
        if len(images) == 1:
            image_index = torch.zeros_like(self.positions)
        area = self.grid[0] * self.grid[1]
        if len(self.positions) > TABLE_SHARE * area * len(images):
            table = patches.reshape(len(images) * area, -1)
            return table.index_select(0, image_index * area + self.positions).view(-1, *patches.shape[3:])
        return patches[image_index, self.positions // self.grid[1], self.positions % self.grid[1]]

    def _all_patches(self, images: Tensor, size: Pair) -> Tensor:
        """(N, *grid, h, w, C), a view of the padded images."""
        sides: list[int] = []
        for axis in (1, 0):
            last = (self.grid[axis] - 1) * self.step[axis] + self.offset[axis] + size[axis]
            sides += [-self.offset[axis], last - images.shape[2 + axis]]
        padded = F.pad(images, sides)  # negative sides cut
        patches = padded.unfold(2, size[0], self.step[0]).unfold(3, size[1], self.step[1])
        return patches.permute(0, 2, 3, 4, 5, 1)

    def inside_mask(self, size: Pair, image: Pair, like: Tensor) -> Tensor:
        """(R, h, w, 1): 1 where a patch's pixel lies in the image, else 0."""
        return self.extract(like.new_ones(1, 1, *image), size, self.positions)

    def pixel_indices(self, size: Pair, image: Pair) -> Tensor:
        """(R, h * w): the flat index in the image of every patch pixel, 0 outside it."""
        numbers = torch.arange(image[0] * image[1], device=self.positions.device).view(1, 1, *image)
        return self.extract(numbers, size, self.positions).flatten(1)

    def below_convolution(self, stride: Pair, padding: Pair) -> Patches:
        """The patches of a convolution's input that correspond to these of its output."""
        step = (self.step[0] * stride[0], self.step[1] * stride[1])
        offset = (self.offset[0] * stride[0] - padding[0], self.offset[1] * stride[1] - padding[1])
        return Patches(self.positions, self.grid, step, offset)

    def same_grid(self, other: Patches) -> bool:
        """The patches of both at one position move alike over the image."""
        return (self.grid, self.step) == (other.grid, other.step)

    def moved(self, by: Pair) -> Patches:
        """The patches that start `by` pixels further down and to the right."""
        offset = (self.offset[0] + by[0], self.offset[1] + by[1])
        return Patches(self.positions, self.grid, self.step, offset)

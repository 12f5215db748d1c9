"""Linear forms on one node's value, R of them, in the three ways their coefficients may lie in memory.

`DenseForms` cover the whole value. `BlockForms` do too, an image's pixels in space-to-depth blocks: what the adjoint of
a strided convolution gives, and the next convolution takes, without putting the image together. `PatchForms` cover the
receptive field of one neuron each, which costs its own size and not the image's. They are read the same way, as
`LinearForms`. `LeadingBlockForms` cannot be read: their last channels are missing, which only `add` (it is cheaper so)
and `complete` know to be zero.

Images lie in memory with their channels last, which convolutions of few channels like best.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from verifiers.linear_forms.blocks import Pair, depth_to_space, space_to_depth
from verifiers.linear_forms.patches import Patches

DENSE_SHARE = 0.3  # a patch larger than this share of the image is stored as a whole image

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FormToInput:
    """index: (R,) the input each form is about. forms_per_input: of every input, if they stand input after input."""

    index: Tensor
    forms_per_input: int | None


def consecutive_forms(inputs: int, forms_per_input: int, device: torch.device) -> FormToInput:
    """The same number of forms for every input, input after input."""
    return FormToInput(torch.arange(inputs, device=device).repeat_interleave(forms_per_input), forms_per_input)


# ---------------------------------------------------------------- the types


@dataclass(frozen=True, eq=False)
class Summand(abc.ABC):
    """R linear forms on one node's value, of `shape`, to be added up.

    coefficients: (R, channels, h, w), or (R, n) on a vector. owned: nobody else holds them; who writes asks `writable`.
    """

    coefficients: Tensor
    owned: bool = dataclasses.field(default=False, kw_only=True)

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """Of the value, without a batch axis."""

    @abc.abstractmethod
    def complete(self) -> LinearForms:
        """The same forms with every coefficient present."""

    @property
    def writable(self) -> bool:
        """The coefficients may be written over, here and now."""
        return self.owned and not torch.is_grad_enabled()


@dataclass(frozen=True, eq=False)
class ReadableForms(Summand):
    """R linear forms of which every coefficient is present.

    Coefficients of pixels outside the image mean nothing: whoever reads them looks at values that are zero there, or
    asks for the forms `masked`.
    """

    @property
    @abc.abstractmethod
    def block(self) -> Pair | None:
        """The space-to-depth block in which all forms see the value's pixels; None: each form sees its own pixels."""

    @abc.abstractmethod
    def gather(self, value: Tensor, form_to_input: FormToInput) -> Tensor:
        """`value` (N, *shape) laid out as the forms are: (G, 1, h, w, C) or (G, 1, n), to stand beside those
        `grouped` by input. N = 1: shared by all. Pixels outside the image are zero."""

    @abc.abstractmethod
    def masked(self) -> Self:
        """The same forms, zero outside the image."""

    @abc.abstractmethod
    def to_dense(self) -> DenseForms:
        """The same forms with every coefficient in its place."""

    def grouped(self, values: Tensor) -> Tensor:
        """The coefficients as (G, R / G, h, w, C) or (G, R / G, n), the forms that share one of the G gathered `values`
        together."""
        forms_per_input = len(self.coefficients) // max(1, len(values))
        last = channels_last(self.coefficients)
        return last.reshape(len(values), forms_per_input, *last.shape[1:])

    def with_grouped(self, coefficients: Tensor) -> Self:
        """Forms on the same pixels with other coefficients, as `grouped`, that nobody else holds."""
        shape = self.coefficients.shape
        if len(shape) == 4:
            image = coefficients.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
            return dataclasses.replace(self, coefficients=image, owned=True)
        return dataclasses.replace(self, coefficients=coefficients.reshape(shape), owned=True)

    def shared(self) -> Self:
        """The same forms, held by several."""
        return dataclasses.replace(self, owned=False)


@dataclass(frozen=True, eq=False)
class DenseForms(ReadableForms):
    """coefficients: (R, *shape)."""

    @property
    def shape(self) -> Shape:
        return tuple(self.coefficients.shape[1:])

    @property
    def block(self) -> Pair:
        return (1, 1)

    def gather(self, value: Tensor, form_to_input: FormToInput) -> Tensor:
        return _per_input(value, form_to_input)

    def masked(self) -> Self:
        return self

    def to_dense(self) -> DenseForms:
        return self

    def complete(self) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class BlockForms(ReadableForms):
    """coefficients: (R, s * t * C, ⌈H / s⌉, ⌈W / t⌉) on `image` (C, H, W), which `space_to_depth` lays out so in blocks
    of `size` (s, t), other than (1, 1)."""

    size: Pair
    image: Shape

    @property
    def shape(self) -> Shape:
        return self.image

    @property
    def block(self) -> Pair:
        return self.size

    def gather(self, value: Tensor, form_to_input: FormToInput) -> Tensor:
        return _per_input(space_to_depth(value, self.size), form_to_input)

    def masked(self) -> Self:
        if all(self.image[1 + axis] % self.size[axis] == 0 for axis in (0, 1)):
            return self
        inside = space_to_depth(self.coefficients.new_ones(1, *self.image), self.size)
        return dataclasses.replace(self, coefficients=self.coefficients * inside, owned=True)

    def to_dense(self) -> DenseForms:
        image = depth_to_space(self.coefficients, self.size, (self.image[1], self.image[2]))
        return DenseForms(image, owned=True)

    def complete(self) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class PatchForms(ReadableForms):
    """coefficients: (R, C, h, w) on `patches` of `image`, (C, H, W)."""

    patches: Patches
    image: Shape

    @property
    def shape(self) -> Shape:
        return self.image

    @property
    def block(self) -> None:
        return None

    @property
    def size(self) -> Pair:
        """Height and width of a patch."""
        return self.coefficients.shape[2], self.coefficients.shape[3]

    def gather(self, value: Tensor, form_to_input: FormToInput) -> Tensor:
        return self.patches.extract(value, self.size, form_to_input.index)[:, None]

    def masked(self) -> Self:
        return self._masked

    @functools.cached_property
    def _masked(self) -> Self:
        inside = self.patches.inside_mask(self.size, (self.image[1], self.image[2]), self.coefficients)
        return self.with_grouped(channels_last(self.coefficients) * inside)

    def to_dense(self) -> DenseForms:
        (r, channels), (_, height, width) = self.coefficients.shape[:2], self.image
        first_pixel = height * width * torch.arange(r, device=self.patches.positions.device)[:, None]
        pixels = first_pixel + self.patches.pixel_indices(self.size, (height, width))
        coefficients = channels_last(self.masked().coefficients).flatten(0, 2)
        spread = coefficients.new_zeros(r * height * width, channels).index_add_(0, pixels.flatten(), coefficients)
        return DenseForms(spread.view(r, height, width, channels).permute(0, 3, 1, 2), owned=True)

    def complete(self) -> Self:
        return self

    def dense_if_large(self) -> PatchForms | DenseForms:
        """The same forms, large patches as whole images."""
        small = self.size[0] * self.size[1] < DENSE_SHARE * self.image[1] * self.image[2]
        return self if small else self.to_dense()


@dataclass(frozen=True, eq=False)
class LeadingBlockForms(Summand):
    """The first channels (R, c, ⌈H / s⌉, ⌈W / t⌉), c < s * t * C, of forms in blocks; the others are zero."""

    size: Pair
    image: Shape

    @property
    def shape(self) -> Shape:
        return self.image

    def complete(self) -> BlockForms:
        missing = self.size[0] * self.size[1] * self.image[0] - self.coefficients.shape[1]
        padded = F.pad(self.coefficients, (0, 0, 0, 0, 0, missing))
        return BlockForms(padded, self.size, self.image, owned=True)


LinearForms = DenseForms | BlockForms | PatchForms


def on_image(blocks: Tensor, size: Pair, image: Shape) -> Summand:
    """Owned forms on `image` from their coefficients in blocks of `size`, of which the last channels may be missing."""
    if size == (1, 1):
        return DenseForms(blocks, owned=True)
    if blocks.shape[1] < size[0] * size[1] * image[0]:
        return LeadingBlockForms(blocks, size, image, owned=True)
    return BlockForms(blocks, size, image, owned=True)


# ---------------------------------------------------------------- reading


def channels_last(images: Tensor) -> Tensor:
    """(R, C, h, w) -> (R, h, w, C); vectors stay as they are."""
    return images.permute(0, 2, 3, 1) if images.dim() == 4 else images


def _per_input(value: Tensor, form_to_input: FormToInput) -> Tensor:
    """(N, C, h, w) or (N, n), seen alike by all forms on one input: `LinearForms.gather`."""
    last = channels_last(value).contiguous()
    if form_to_input.forms_per_input is None and len(value) > 1:
        last = last.index_select(0, form_to_input.index)
    return last[:, None]


def dot(coefficients: Tensor, values: Tensor) -> Tensor:
    """(R,): grouped coefficients (G, R / G, *shape) times gathered values (G, 1, *shape), summed."""
    groups, forms_per_input = coefficients.shape[:2]
    if groups == 1:
        return coefficients.flatten(2)[0] @ values.flatten()
    if forms_per_input == 1:
        products = (coefficients * values).flatten(1)
        return products @ products.new_ones(products.shape[1])
    return torch.bmm(coefficients.flatten(2), values.flatten(2).transpose(1, 2)).flatten()


# ---------------------------------------------------------------- sums


def add(a: Summand, b: Summand) -> Summand:
    """a + b: patches on one grid are aligned, blocks of one size stay blocks; all else becomes dense."""
    match a, b:
        case PatchForms(), PatchForms() if a.patches.same_grid(b.patches):
            return _add_patches(a, b)
        case ((BlockForms() | LeadingBlockForms()), (BlockForms() | LeadingBlockForms())) if a.size == b.size:
            return on_image(_sum(a, b), a.size, a.image)
        case _:
            return DenseForms(_sum(a.complete().to_dense(), b.complete().to_dense()), owned=True)


def _add_patches(a: PatchForms, b: PatchForms) -> LinearForms:
    dy, dx = (b.patches.offset[i] - a.patches.offset[i] for i in (0, 1))
    (ah, aw), (bh, bw) = a.size, b.size
    top, left = min(0, dy), min(0, dx)
    height, width = max(ah, dy + bh) - top, max(aw, dx + bw) - left
    grown_a = F.pad(a.coefficients, (-left, width + left - aw, -top, height + top - ah))
    grown_b = F.pad(b.coefficients, (dx - left, width - (dx - left) - bw, dy - top, height - (dy - top) - bh))
    return PatchForms(grown_a + grown_b, a.patches.moved((top, left)), a.image).dense_if_large()


def _sum(a: Summand, b: Summand) -> Tensor:
    """The sum of coefficients laid out alike, of which one may lack channels; written over one where that may be."""
    if a.coefficients.shape[1:2] < b.coefficients.shape[1:2]:
        a, b = b, a
    if a.coefficients.shape == b.coefficients.shape and b.writable:
        a, b = b, a
    target = a.coefficients if a.writable else a.coefficients.clone()
    target[:, : b.coefficients.shape[1]] += b.coefficients
    return target

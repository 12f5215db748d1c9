"""Linear forms on a node's value, and the adjoint map of every node on them.

A form's coefficients cover the whole value, or, for an image (channels, height, width), a patch of it: the receptive
field of one neuron costs its own size and not the image's. Coefficients of patch pixels outside the image mean
nothing; whoever reads them looks at values that are zero there. Images lie in memory with their channels last, which
convolutions of few channels like best. Part of the native CROWN engine.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.convolution import Adjoint, Pair, adjoint_of, depth_to_space, space_to_depth
from verifiers.crown.network import CrownNetwork
from verifiers.crown.patches import Patches

DENSE_SHARE = 0.3  # a patch larger than this share of the image is stored as a whole image
MAX_MATRIX_ENTRIES = 2**20  # of a map between patches that is kept as one matrix
MAX_PRODUCT_OVERHEAD = 16  # times as many products as needed that are as fast in one matrix product


@dataclass(frozen=True, eq=False)
class LinearForm:
    """R linear forms on one node's value: coefficients (R, *shape), or (R, C, h, w) on the `patches` of it.

    block: whole images may be in space-to-depth blocks for a while, (R, s * s * C, H / s, W / s). Their last channels
    may be missing: they are zero (see `pad_blocks`). owned: nobody else holds the coefficients, so they may be written
    over.
    """

    coefficients: Tensor
    patches: Patches | None = None
    block: Pair = (1, 1)
    owned: bool = False

    @property
    def size(self) -> Pair:
        """Height and width of the coefficients."""
        return self.coefficients.shape[2], self.coefficients.shape[3]

    def with_coefficients(self, coefficients: Tensor) -> LinearForm:
        """Other coefficients (G, R / G, …) on the same pixels, as `grouped_by_input`, that nobody else holds."""
        shape = self.coefficients.shape
        if len(shape) == 4:
            image = coefficients.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
            return LinearForm(image, self.patches, self.block, True)
        return LinearForm(coefficients.reshape(shape), self.patches, self.block, True)

    @property
    def may_overwrite(self) -> bool:
        """They may be written over, here and now."""
        return self.owned and not torch.is_grad_enabled()


@dataclass(frozen=True, eq=False)
class FormToInput:
    """index: (R,) the input each form is about. forms_per_input: of every input, if they stand input after input."""

    index: Tensor
    forms_per_input: int | None


def consecutive_forms(inputs: int, forms_per_input: int, device: torch.device) -> FormToInput:
    """The same number of forms for every input, input after input."""
    return FormToInput(torch.arange(inputs, device=device).repeat_interleave(forms_per_input), forms_per_input)


@dataclass(frozen=True, eq=False)
class Step:
    """Forms on node k rewritten: sum of forms on its inputs (one entry per input) plus a constant (R,)."""

    inputs: tuple[LinearForm, ...]
    constant: Tensor | None = None


# ---------------------------------------------------------------- forms and values


def channels_last(images: Tensor) -> Tensor:
    """(R, C, h, w) -> (R, h, w, C); vectors stay as they are."""
    return images.permute(0, 2, 3, 1) if images.dim() == 4 else images


def gather(value: Tensor, forms: LinearForm, form_to_input: FormToInput) -> Tensor:
    """`value` (N, *shape) laid out as the forms are: (G, 1, h, w, C) or (G, 1, n), to stand beside those
    `grouped_by_input`.

    N = 1: shared by all. Pixels outside the image are zero.
    """
    if forms.patches is not None:
        return forms.patches.extract(value, forms.size, form_to_input.index)[:, None]
    last = channels_last(value if forms.block == (1, 1) else space_to_depth(value, forms.block)).contiguous()
    if form_to_input.forms_per_input is None and len(value) > 1:
        last = last.index_select(0, form_to_input.index)
    return last[:, None]


def grouped_by_input(coefficients: Tensor, values: Tensor) -> Tensor:
    """Coefficients (R, C, h, w) or (R, n) as (G, R / G, h, w, C), the forms that share one of the G gathered
    `values` together."""
    forms_per_input = len(coefficients) // max(1, len(values))
    last = channels_last(coefficients)
    return last.reshape(len(values), forms_per_input, *last.shape[1:])


def dot(coefficients: Tensor, values: Tensor) -> Tensor:
    """(R,): grouped coefficients (G, R / G, *shape) times values (G, 1, *shape), summed."""
    groups, forms_per_input = coefficients.shape[:2]
    if groups == 1:
        return coefficients.flatten(2)[0] @ values.flatten()
    if forms_per_input == 1:
        products = (coefficients * values).flatten(1)
        return products @ products.new_ones(products.shape[1])
    return torch.bmm(coefficients.flatten(2), values.flatten(2).transpose(1, 2)).flatten()


def mask_padding(forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    """The same forms, zero outside the image."""
    if forms.patches is None:
        return forms
    inside = forms.patches.inside_mask(forms.size, (shape[1], shape[2]), forms.coefficients)
    return forms.with_coefficients(channels_last(forms.coefficients) * inside)


def to_dense(forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    """The forms as whole images."""
    if forms.patches is None:
        if forms.block == (1, 1):
            return forms
        padded = pad_blocks(forms, shape)
        return LinearForm(depth_to_space(padded.coefficients, padded.block, (shape[1], shape[2])), owned=True)
    r, channels = forms.coefficients.shape[:2]
    area = shape[1] * shape[2]
    first_pixel = area * torch.arange(r, device=forms.patches.positions.device)[:, None]
    pixels = first_pixel + forms.patches.pixel_indices(forms.size, (shape[1], shape[2]))
    coefficients = channels_last(mask_padding(forms, shape).coefficients).flatten(0, 2)
    spread = coefficients.new_zeros(r * area, channels).index_add_(0, pixels.flatten(), coefficients)
    return LinearForm(spread.view(r, shape[1], shape[2], channels).permute(0, 3, 1, 2), owned=True)


def pad_blocks(forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    """The same forms with the block channels that were missing."""
    if forms.block == (1, 1):
        return forms
    missing = forms.block[0] * forms.block[1] * shape[0] - forms.coefficients.shape[1]
    if not missing:
        return forms
    return LinearForm(F.pad(forms.coefficients, (0, 0, 0, 0, 0, missing)), None, forms.block, True)


def densify_if_large(forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    """Large patches as whole images."""
    if forms.patches is None or forms.size[0] * forms.size[1] < DENSE_SHARE * shape[1] * shape[2]:
        return forms
    return to_dense(forms, shape)


def add(a: LinearForm, b: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    """a + b: patches on one grid are aligned; all else gives whole images."""
    if a.patches is None and b.patches is None and a.block == b.block:
        return _sum(a, b)
    if a.patches is None or b.patches is None or (a.patches.grid, a.patches.step) != (b.patches.grid, b.patches.step):
        return _sum(to_dense(a, shape), to_dense(b, shape))
    dy, dx = (b.patches.offset[i] - a.patches.offset[i] for i in (0, 1))
    (ah, aw), (bh, bw) = a.size, b.size
    top, left = min(0, dy), min(0, dx)
    height, width = max(ah, dy + bh) - top, max(aw, dx + bw) - left
    grown_a = F.pad(a.coefficients, (-left, width + left - aw, -top, height + top - ah))
    grown_b = F.pad(b.coefficients, (dx - left, width - (dx - left) - bw, dy - top, height - (dy - top) - bh))
    offset = (a.patches.offset[0] + top, a.patches.offset[1] + left)
    return densify_if_large(
        LinearForm(grown_a + grown_b, Patches(a.patches.positions, a.patches.grid, a.patches.step, offset)), shape
    )


def _sum(a: LinearForm, b: LinearForm) -> LinearForm:
    """The sum of forms on whole images in the same blocks, written over one of them where that may be."""
    if a.coefficients.shape[1:2] < b.coefficients.shape[1:2]:
        a, b = b, a  # b has channels missing
    if a.coefficients.shape == b.coefficients.shape and b.may_overwrite:
        a, b = b, a
    target = a.coefficients if a.may_overwrite else a.coefficients.clone()
    target[:, : b.coefficients.shape[1]] += b.coefficients
    return LinearForm(target, None, a.block, True)


def add_to_frontier(net: CrownNetwork, frontier: dict[int, LinearForm], k: int, below: tuple[LinearForm, ...]) -> None:
    """Add forms on the inputs of node k, one entry per input, to the forms of the frontier."""
    for i, forms in zip(net.parents(k), below, strict=True):
        frontier[i] = add(frontier[i], forms, net.network.shapes[i]) if i in frontier else forms


# ---------------------------------------------------------------- adjoint maps


def adjoint(net: CrownNetwork, k: int, forms: LinearForm) -> Step:
    """Forms on an affine node k, rewritten as forms on its inputs."""
    node, forms = net.nodes[k], pad_blocks(forms, net.network.shapes[k])
    shapes = [net.network.shapes[i] for i in net.parents(k)]
    match node:
        case c.Linear():
            constant = forms.coefficients @ net.weight(k, "bias")
            return Step((LinearForm(forms.coefficients @ net.weight(k, "weight")),), constant)
        case c.Conv2d():
            return _conv_adjoint(net, k, node, forms)
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            return _scale_adjoint(net, k, forms)
        case c.Add():
            shared = dataclasses.replace(forms, owned=False)
            return Step((shared, shared))
        case c.Flatten():
            image = forms.coefficients.reshape(-1, *shapes[0])
            return Step(
                (LinearForm(image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image),)
            )
        case c.Concat():
            forms = forms if forms.block == (1, 1) else to_dense(forms, net.network.shapes[k])
            parts = torch.split(forms.coefficients, [s[0] for s in shapes], dim=1)
            return Step(tuple(LinearForm(p, forms.patches) for p in parts))
        case c.AveragePool2d():
            return Step((_average_adjoint(node, to_dense(forms, net.network.shapes[k]), shapes[0]),))
        case c.Pad():
            return _pad_adjoint(node, to_dense(forms, net.network.shapes[k]), shapes[0])
        case c.Slice():
            return Step((_slice_adjoint(node, to_dense(forms, net.network.shapes[k]), shapes[0]),))
        case _:
            raise TypeError(f"{type(node).__name__} is not affine")


def _scale_adjoint(net: CrownNetwork, k: int, forms: LinearForm) -> Step:
    everyone = FormToInput(torch.zeros(len(forms.coefficients), dtype=torch.long, device=net.device), None)
    shape = net.network.shapes[k]
    factor, offset = (gather(t.expand(shape)[None], forms, everyone) for t in net.element_scale(k))
    coefficients = grouped_by_input(forms.coefficients, factor)
    return Step((forms.with_coefficients(coefficients * factor),), dot(coefficients, offset))


def conv_adjoint(net: CrownNetwork, k: int) -> Adjoint:
    """The adjoint of the convolution k; computed once."""
    node = net.nodes[k]
    if not isinstance(node, c.Conv2d):
        raise TypeError(f"{type(node).__name__} is not a convolution")
    if k not in net.adjoints:
        weight = net.weight(k, "weight")
        net.adjoints[k] = adjoint_of(weight, node.stride, node.padding[:2], node.dilation, node.groups)
    return net.adjoints[k]


def _conv_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, forms: LinearForm) -> Step:
    forms = mask_padding(forms, net.network.shapes[k])
    flat = channels_last(forms.coefficients).flatten(1)
    constant = flat @ net.biases(k, flat.shape[1] // net.network.shapes[k][0])
    shape = net.network.shapes[node.inputs[0]]
    if forms.patches is None:
        conv, below = conv_adjoint(net, k), (shape[1], shape[2])
        if any(below[a] % node.stride[a] for a in (0, 1)):
            return Step((LinearForm(conv.to_image(forms.coefficients, below, forms.block), owned=True),), constant)
        pulled = conv.nonzero_blocks(forms.coefficients, below, forms.block)
        return Step((LinearForm(pulled, None, node.stride, True),), constant)
    patches = forms.patches.below_convolution(node.stride, node.padding[:2])
    return Step(
        (densify_if_large(LinearForm(_patch_adjoint(net, k, node, forms.coefficients), patches), shape),), constant
    )


def _patch_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, forms: Tensor) -> Tensor:
    """Forms (R, C, h, w) on patches of the output as forms on the patches of the input below: one matrix product, where
    small."""
    size, weight = forms.shape[2:], net.weight(k, "weight")
    taps = [node.dilation[a] * (weight.shape[2 + a] - 1) + 1 for a in (0, 1)]
    full = [(size[a] - 1) * node.stride[a] + taps[a] for a in (0, 1)]
    entries = forms.shape[1:].numel() * weight.shape[1] * node.groups * full[0] * full[1]
    if (
        entries > MAX_MATRIX_ENTRIES
        or full[0] * full[1] * node.groups > MAX_PRODUCT_OVERHEAD * weight.shape[2] * weight.shape[3]
    ):
        return F.conv_transpose2d(forms, weight, None, node.stride, 0, 0, node.groups, node.dilation)
    if (k, *size) not in net.patch_matrices:
        units = torch.eye(forms.shape[1:].numel(), dtype=net.dtype, device=net.device).view(-1, *forms.shape[1:])
        units = (
            units.unflatten(0, forms.shape[1:]).permute(1, 2, 0, 3, 4, 5).flatten(0, 2)
        )  # one per pixel, channels last
        pulled = F.conv_transpose2d(units, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        net.patch_matrices[k, size[0], size[1]] = channels_last(pulled).flatten(1)
    images = channels_last(forms).flatten(1) @ net.patch_matrices[k, size[0], size[1]]
    return images.view(len(forms), *full, -1).permute(0, 3, 1, 2)


def _average_adjoint(node: c.AveragePool2d, forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    share = 1.0 / (node.kernel[0] * node.kernel[1])
    coefficients = forms.coefficients
    ones = coefficients.new_ones(1, 1, *node.kernel)
    if not node.count_padding and any(node.padding):
        top, left, bottom, right = node.padding
        counted = F.pad(coefficients.new_ones(1, 1, *shape[1:]), (left, right, top, bottom))
        coefficients, share = coefficients / F.conv2d(counted, ones, None, node.stride), 1.0
    kernel = (ones * share).expand(shape[0], 1, *node.kernel)
    spread = adjoint_of(kernel, node.stride, node.padding[:2], (1, 1), shape[0])
    return LinearForm(spread.to_image(coefficients, (shape[1], shape[2])))


def _pad_adjoint(node: c.Pad, forms: LinearForm, shape: tuple[int, ...]) -> Step:
    inner = tuple(slice(b, b + n) for b, n in zip(node.before, shape, strict=True))
    inside = forms.coefficients[(slice(None), *inner)]
    return Step((LinearForm(inside),), node.value * (forms.coefficients.flatten(1).sum(1) - inside.flatten(1).sum(1)))


def _slice_adjoint(node: c.Slice, forms: LinearForm, shape: tuple[int, ...]) -> LinearForm:
    spread = forms.coefficients.new_zeros(len(forms.coefficients), *shape)
    ranges = zip(node.start, node.stop, node.step, strict=True)
    spread[(slice(None), *(slice(a, b, s) for a, b, s in ranges))] = forms.coefficients
    return LinearForm(spread)


# ---------------------------------------------------------------- unit forms


def unit_forms(net: CrownNetwork, k: int, index: Tensor) -> dict[int, tuple[LinearForm, Tensor]]:
    """The neurons `index` (R,) of node k as forms (and constants) on earlier nodes: {node: (forms, constant)}.

    Each entry is one summand. Convolutions and linear maps hand out their own weights, with no multiplication.
    """
    node, shape = net.nodes[k], net.network.shapes[k]
    match node:
        case c.Add():
            total, second = (unit_forms(net, i, index) for i in node.inputs)
            for i, (forms, constant) in second.items():
                merged = (
                    (add(total[i][0], forms, net.network.shapes[i]), total[i][1] + constant)
                    if i in total
                    else (forms, constant)
                )
                total[i] = merged
            return total
        case c.Linear():
            return {node.inputs[0]: (LinearForm(net.weight(k, "weight")[index]), net.weight(k, "bias")[index])}
        case c.Conv2d() if node.groups == 1 and node.dilation == (1, 1):
            channel = index // (shape[1] * shape[2])
            pixel = index % (shape[1] * shape[2])
            offset = (-node.padding[0], -node.padding[1])
            patches = Patches(pixel, (shape[1], shape[2]), node.stride, offset)
            taps = net.weight(k, "weight")[channel].contiguous(memory_format=torch.channels_last)
            forms = densify_if_large(LinearForm(taps, patches), net.network.shapes[node.inputs[0]])
            return {node.inputs[0]: (forms, net.weight(k, "bias")[channel])}
        case _:
            return {k: (_one_hot(shape, index, net), torch.zeros(len(index), dtype=net.dtype, device=net.device))}


def _one_hot(shape: tuple[int, ...], index: Tensor, net: CrownNetwork) -> LinearForm:
    """Form r picks neuron index[r] of a value of this shape."""
    if len(shape) != 3:
        return LinearForm(F.one_hot(index, shape[0]).to(net.dtype))
    area = shape[1] * shape[2]
    channels = F.one_hot(index // area, shape[0]).to(net.dtype)[:, :, None, None]
    return LinearForm(channels, Patches(index % area, (shape[1], shape[2]), (1, 1), (0, 0)))

"""Rows of linear functionals of a node's value, and the adjoint map of every node on them.

A row's coefficients cover the whole value, or, for an image (channels, height, width), a window of it: the receptive
field of one neuron costs its own size and not the image's. Coefficients of window cells outside the image mean
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
from verifiers.crown.convolution import Adjoint, Pair, adjoint_of, from_phases, to_phases
from verifiers.crown.network import CrownNetwork
from verifiers.crown.windows import Windows

DENSE_SHARE = 0.3  # a window larger than this share of the image is stored as a whole image
MATRIX = 2**20  # entries of a map between windows that is kept as one matrix
WASTE = 16  # times as many products as needed that are as fast in one matrix product


@dataclass(frozen=True, eq=False)
class Rows:
    """coefficients: (R, *shape) of a node's value, or (R, C, h, w) of the windows `at` of it.

    phases: whole images may be split as by `to_phases`, for a while: (R, s * s * C, H / s, W / s). The last phases may
    be missing: they are zero (see `filled`). fresh: nobody else holds the coefficients, they may be written over.
    """

    coefficients: Tensor
    at: Windows | None = None
    phases: Pair = (1, 1)
    fresh: bool = False

    @property
    def size(self) -> Pair:
        """Height and width of the coefficients."""
        return self.coefficients.shape[2], self.coefficients.shape[3]

    def of(self, coefficients: Tensor) -> Rows:
        """Other coefficients (G, R / G, …) of the same cells, as `grouped`, that nobody else holds."""
        shape = self.coefficients.shape
        if len(shape) == 4:
            image = coefficients.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
            return Rows(image, self.at, self.phases, True)
        return Rows(coefficients.reshape(shape), self.at, self.phases, True)

    @property
    def writable(self) -> bool:
        """They may be written over, here and now."""
        return self.fresh and not torch.is_grad_enabled()


@dataclass(frozen=True, eq=False)
class Owners:
    """index: (R,) the input each row is about. each: rows of every input, if they stand input after input."""

    index: Tensor
    each: int | None


def evenly(inputs: int, each: int, device: torch.device) -> Owners:
    """`each` rows for every input, input after input."""
    return Owners(torch.arange(inputs, device=device).repeat_interleave(each), each)


@dataclass(frozen=True, eq=False)
class Step:
    """Rows of node k rewritten: sum of rows of its inputs (one entry per input) plus a constant (R,)."""

    inputs: tuple[Rows, ...]
    constant: Tensor | None = None


# ---------------------------------------------------------------- rows and values


def channels_last(images: Tensor) -> Tensor:
    """(R, C, h, w) -> (R, h, w, C); vectors stay as they are."""
    return images.permute(0, 2, 3, 1) if images.dim() == 4 else images


def gather(value: Tensor, rows: Rows, owners: Owners) -> Tensor:
    """`value` (N, *shape) as the rows see it: (G, 1, h, w, C) or (G, 1, n), to stand beside `grouped` rows.

    N = 1: shared by all. Cells outside the image are zero.
    """
    if rows.at is not None:
        return rows.at.seen(value, rows.size, owners.index)[:, None]
    last = channels_last(value if rows.phases == (1, 1) else to_phases(value, rows.phases)).contiguous()
    if owners.each is None and len(value) > 1:
        last = last.index_select(0, owners.index)
    return last[:, None]


def grouped(coefficients: Tensor, seen: Tensor) -> Tensor:
    """Coefficients (R, C, h, w) or (R, n) as (G, R / G, h, w, C), the rows that share one of the G `seen` values
    together."""
    each = len(coefficients) // max(1, len(seen))
    last = channels_last(coefficients)
    return last.reshape(len(seen), each, *last.shape[1:])


def dot(coefficients: Tensor, seen: Tensor) -> Tensor:
    """(R,): grouped coefficients (G, R / G, *shape) times values (G, 1, *shape), summed."""
    groups, each = coefficients.shape[:2]
    if groups == 1:
        return coefficients.flatten(2)[0] @ seen.flatten()
    if each == 1:
        products = (coefficients * seen).flatten(1)
        return products @ products.new_ones(products.shape[1])
    return torch.bmm(coefficients.flatten(2), seen.flatten(2).transpose(1, 2)).flatten()


def within(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """The same rows, zero outside the image."""
    if rows.at is None:
        return rows
    inside = rows.at.inside(rows.size, (shape[1], shape[2]), rows.coefficients)
    return rows.of(channels_last(rows.coefficients) * inside)


def whole(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """The rows as whole images."""
    if rows.at is None:
        if rows.phases == (1, 1):
            return rows
        split = filled(rows, shape)
        return Rows(from_phases(split.coefficients, split.phases, (shape[1], shape[2])), fresh=True)
    r, channels = rows.coefficients.shape[:2]
    area = shape[1] * shape[2]
    first = area * torch.arange(r, device=rows.at.cells.device)[:, None]
    places = first + rows.at.places(rows.size, (shape[1], shape[2]))
    kept = channels_last(within(rows, shape).coefficients).flatten(0, 2)
    spread = kept.new_zeros(r * area, channels).index_add_(0, places.flatten(), kept)
    return Rows(spread.view(r, shape[1], shape[2], channels).permute(0, 3, 1, 2), fresh=True)


def filled(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """The same rows with the phases that were missing."""
    if rows.phases == (1, 1):
        return rows
    missing = rows.phases[0] * rows.phases[1] * shape[0] - rows.coefficients.shape[1]
    if not missing:
        return rows
    return Rows(F.pad(rows.coefficients, (0, 0, 0, 0, 0, missing)), None, rows.phases, True)


def settle(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Large windows as whole images."""
    if rows.at is None or rows.size[0] * rows.size[1] < DENSE_SHARE * shape[1] * shape[2]:
        return rows
    return whole(rows, shape)


def add(a: Rows, b: Rows, shape: tuple[int, ...]) -> Rows:
    """a + b: windows on one grid are aligned; all else gives whole images."""
    if a.at is None and b.at is None and a.phases == b.phases:
        return _sum(a, b)
    if a.at is None or b.at is None or (a.at.grid, a.at.step) != (b.at.grid, b.at.step):
        return _sum(whole(a, shape), whole(b, shape))
    dy, dx = (b.at.offset[i] - a.at.offset[i] for i in (0, 1))
    (ah, aw), (bh, bw) = a.size, b.size
    top, left = min(0, dy), min(0, dx)
    height, width = max(ah, dy + bh) - top, max(aw, dx + bw) - left
    grown_a = F.pad(a.coefficients, (-left, width + left - aw, -top, height + top - ah))
    grown_b = F.pad(b.coefficients, (dx - left, width - (dx - left) - bw, dy - top, height - (dy - top) - bh))
    offset = (a.at.offset[0] + top, a.at.offset[1] + left)
    return settle(Rows(grown_a + grown_b, Windows(a.at.cells, a.at.grid, a.at.step, offset)), shape)


def _sum(a: Rows, b: Rows) -> Rows:
    """The sum of two whole rows in the same phases, written over one of them where that may be."""
    if a.coefficients.shape[1:2] < b.coefficients.shape[1:2]:
        a, b = b, a  # b has phases missing
    if a.coefficients.shape == b.coefficients.shape and b.writable:
        a, b = b, a
    target = a.coefficients if a.writable else a.coefficients.clone()
    target[:, : b.coefficients.shape[1]] += b.coefficients
    return Rows(target, None, a.phases, True)


# ---------------------------------------------------------------- adjoint maps


def adjoint(net: CrownNetwork, k: int, rows: Rows) -> Step:
    """Rows of an affine node k, rewritten as rows of its inputs."""
    node, rows = net.nodes[k], filled(rows, net.network.shapes[k])
    shapes = [net.network.shapes[i] for i in net.parents(k)]
    match node:
        case c.Linear():
            constant = rows.coefficients @ net.weight(k, "bias")
            return Step((Rows(rows.coefficients @ net.weight(k, "weight")),), constant)
        case c.Conv2d():
            return _conv_adjoint(net, k, node, rows)
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            return _scale_adjoint(net, k, rows)
        case c.Add():
            both = dataclasses.replace(rows, fresh=False)
            return Step((both, both))
        case c.Flatten():
            image = rows.coefficients.reshape(-1, *shapes[0])
            return Step((Rows(image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image),))
        case c.Concat():
            rows = rows if rows.phases == (1, 1) else whole(rows, net.network.shapes[k])
            parts = torch.split(rows.coefficients, [s[0] for s in shapes], dim=1)
            return Step(tuple(Rows(p, rows.at) for p in parts))
        case c.AveragePool2d():
            return Step((_average_adjoint(node, whole(rows, net.network.shapes[k]), shapes[0]),))
        case c.Pad():
            return _pad_adjoint(node, whole(rows, net.network.shapes[k]), shapes[0])
        case c.Slice():
            return Step((_slice_adjoint(node, whole(rows, net.network.shapes[k]), shapes[0]),))
        case _:
            raise TypeError(f"{type(node).__name__} is not affine")


def _scale_adjoint(net: CrownNetwork, k: int, rows: Rows) -> Step:
    everyone = Owners(torch.zeros(len(rows.coefficients), dtype=torch.long, device=net.device), None)
    shape = net.network.shapes[k]
    factor, offset = (gather(t.expand(shape)[None], rows, everyone) for t in net.element_scale(k))
    own = grouped(rows.coefficients, factor)
    return Step((rows.of(own * factor),), dot(own, offset))


def conv_adjoint(net: CrownNetwork, k: int) -> Adjoint:
    """The adjoint of the convolution k; computed once."""
    node = net.nodes[k]
    if not isinstance(node, c.Conv2d):
        raise TypeError(f"{type(node).__name__} is not a convolution")
    if k not in net.adjoints:
        weight = net.weight(k, "weight")
        net.adjoints[k] = adjoint_of(weight, node.stride, node.padding[:2], node.dilation, node.groups)
    return net.adjoints[k]


def _conv_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, rows: Rows) -> Step:
    rows = within(rows, net.network.shapes[k])
    last = channels_last(rows.coefficients).flatten(1)
    constant = last @ net.biases(k, last.shape[1] // net.network.shapes[k][0])
    shape = net.network.shapes[node.inputs[0]]
    if rows.at is None:
        maps, below = conv_adjoint(net, k), (shape[1], shape[2])
        if any(below[a] % node.stride[a] for a in (0, 1)):
            return Step((Rows(maps.whole(rows.coefficients, below, rows.phases), fresh=True),), constant)
        pulled = maps.reached(rows.coefficients, below, rows.phases)
        return Step((Rows(pulled, None, node.stride, True),), constant)
    at = rows.at.through(node.stride, node.padding[:2])
    return Step((settle(Rows(_window_adjoint(net, k, node, rows.coefficients), at), shape),), constant)


def _window_adjoint(net: CrownNetwork, k: int, node: c.Conv2d, rows: Tensor) -> Tensor:
    """Windows (R, C, h, w) of the output as full windows of the input: one matrix product, where small."""
    size, weight = rows.shape[2:], net.weight(k, "weight")
    taps = [node.dilation[a] * (weight.shape[2 + a] - 1) + 1 for a in (0, 1)]
    full = [(size[a] - 1) * node.stride[a] + taps[a] for a in (0, 1)]
    entries = rows.shape[1:].numel() * weight.shape[1] * node.groups * full[0] * full[1]
    if entries > MATRIX or full[0] * full[1] * node.groups > WASTE * weight.shape[2] * weight.shape[3]:
        return F.conv_transpose2d(rows, weight, None, node.stride, 0, 0, node.groups, node.dilation)
    if (k, *size) not in net.matrices:
        units = torch.eye(rows.shape[1:].numel(), dtype=net.dtype, device=net.device).view(-1, *rows.shape[1:])
        units = (
            units.unflatten(0, rows.shape[1:]).permute(1, 2, 0, 3, 4, 5).flatten(0, 2)
        )  # one per cell, channels last
        pulled = F.conv_transpose2d(units, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        net.matrices[k, size[0], size[1]] = channels_last(pulled).flatten(1)
    images = channels_last(rows).flatten(1) @ net.matrices[k, size[0], size[1]]
    return images.view(len(rows), *full, -1).permute(0, 3, 1, 2)


def _average_adjoint(node: c.AveragePool2d, rows: Rows, shape: tuple[int, ...]) -> Rows:
    share = 1.0 / (node.kernel[0] * node.kernel[1])
    coefficients = rows.coefficients
    ones = coefficients.new_ones(1, 1, *node.kernel)
    if not node.count_padding and any(node.padding):
        top, left, bottom, right = node.padding
        cells = F.pad(coefficients.new_ones(1, 1, *shape[1:]), (left, right, top, bottom))
        coefficients, share = coefficients / F.conv2d(cells, ones, None, node.stride), 1.0
    kernel = (ones * share).expand(shape[0], 1, *node.kernel)
    spread = adjoint_of(kernel, node.stride, node.padding[:2], (1, 1), shape[0])
    return Rows(spread.whole(coefficients, (shape[1], shape[2])))


def _pad_adjoint(node: c.Pad, rows: Rows, shape: tuple[int, ...]) -> Step:
    inner = tuple(slice(b, b + n) for b, n in zip(node.before, shape, strict=True))
    kept = rows.coefficients[(slice(None), *inner)]
    return Step((Rows(kept),), node.value * (rows.coefficients.flatten(1).sum(1) - kept.flatten(1).sum(1)))


def _slice_adjoint(node: c.Slice, rows: Rows, shape: tuple[int, ...]) -> Rows:
    spread = rows.coefficients.new_zeros(len(rows.coefficients), *shape)
    ranges = zip(node.start, node.stop, node.step, strict=True)
    spread[(slice(None), *(slice(a, b, s) for a, b, s in ranges))] = rows.coefficients
    return Rows(spread)


# ---------------------------------------------------------------- unit rows


def unit_rows(net: CrownNetwork, k: int, index: Tensor) -> dict[int, tuple[Rows, Tensor]]:
    """The elements `index` (R,) of node k as rows (and constants) of earlier nodes: {node: (rows, constant)}.

    Each entry is one summand. Convolutions and linear maps hand out their own weights, with no multiplication.
    """
    node, shape = net.nodes[k], net.network.shapes[k]
    match node:
        case c.Add():
            first, second = (unit_rows(net, i, index) for i in node.inputs)
            for i, (rows, constant) in second.items():
                merged = (
                    (add(first[i][0], rows, net.network.shapes[i]), first[i][1] + constant)
                    if i in first
                    else (rows, constant)
                )
                first[i] = merged
            return first
        case c.Linear():
            return {node.inputs[0]: (Rows(net.weight(k, "weight")[index]), net.weight(k, "bias")[index])}
        case c.Conv2d() if node.groups == 1 and node.dilation == (1, 1):
            channel = index // (shape[1] * shape[2])
            cell = index % (shape[1] * shape[2])
            offset = (-node.padding[0], -node.padding[1])
            at = Windows(cell, (shape[1], shape[2]), node.stride, offset)
            taps = net.weight(k, "weight")[channel].contiguous(memory_format=torch.channels_last)
            rows = settle(Rows(taps, at), net.network.shapes[node.inputs[0]])
            return {node.inputs[0]: (rows, net.weight(k, "bias")[channel])}
        case _:
            return {k: (_one_hot(shape, index, net), torch.zeros(len(index), dtype=net.dtype, device=net.device))}


def _one_hot(shape: tuple[int, ...], index: Tensor, net: CrownNetwork) -> Rows:
    """Row r picks element index[r] of a value of this shape."""
    if len(shape) != 3:
        return Rows(F.one_hot(index, shape[0]).to(net.dtype))
    area = shape[1] * shape[2]
    channels = F.one_hot(index // area, shape[0]).to(net.dtype)[:, :, None, None]
    return Rows(channels, Windows(index % area, (shape[1], shape[2]), (1, 1), (0, 0)))

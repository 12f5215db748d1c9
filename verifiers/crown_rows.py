"""Rows of linear functionals of a node's value, and the adjoint map of every node on them.

A row's coefficients cover the whole value, or, for an image (channels, height, width), a window of it: the receptive
field of one neuron costs its own size and not the image's. Coefficients of window cells outside the image mean
nothing; whoever reads them looks at values that are zero there. Part of the native CROWN engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown_convolution import Adjoint, Pair, adjoint_of
from verifiers.crown_network import CrownNetwork
from verifiers.crown_windows import Windows

DENSE_SHARE = 0.3  # a window larger than this share of the image is stored as a whole image
MATRIX = 2**20  # entries of a map between windows that is kept as one matrix
WASTE = 16  # times as many products as needed that are as fast in one matrix product


@dataclass(frozen=True, eq=False)
class Rows:
    """coefficients: (R, *shape) of a node's value, or (R, C, h, w) of the windows `at` of it."""

    coefficients: Tensor
    at: Windows | None = None

    @property
    def size(self) -> Pair:
        """Height and width of the coefficients."""
        return self.coefficients.shape[2], self.coefficients.shape[3]


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


def gather(value: Tensor, rows: Rows, owners: Owners) -> Tensor:
    """`value` (N, *shape) as the rows see it: (G, 1, *shape), to stand beside `grouped` rows. N = 1: shared by all.

    Cells outside the image are zero.
    """
    if rows.at is not None:
        return rows.at.seen(value, rows.size, owners.index)[:, None]
    if owners.each is None and len(value) > 1:
        value = value.index_select(0, owners.index)
    return value[:, None]


def grouped(coefficients: Tensor, seen: Tensor) -> Tensor:
    """Coefficients (R, *shape) as (G, R / G, *shape), the rows that share one of the G `seen` values together."""
    each = len(coefficients) // max(1, len(seen))
    return coefficients.reshape(len(seen), each, *coefficients.shape[1:])


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
    return Rows(rows.coefficients * inside, rows.at)


def whole(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """The rows as whole images."""
    if rows.at is None:
        return rows
    r, channels = rows.coefficients.shape[:2]
    places = rows.at.places(rows.size, (shape[1], shape[2]))
    image = rows.coefficients.new_zeros(r, channels, shape[1] * shape[2])
    spread = places[:, None, :].expand(r, channels, -1)
    kept = within(rows, shape).coefficients
    return Rows(image.scatter_add(2, spread, kept.flatten(2)).view(r, *shape))


def settle(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Large windows as whole images."""
    if rows.at is None or rows.size[0] * rows.size[1] < DENSE_SHARE * shape[1] * shape[2]:
        return rows
    return whole(rows, shape)


def add(a: Rows, b: Rows, shape: tuple[int, ...]) -> Rows:
    """a + b: windows on one grid are aligned; all else gives whole images."""
    if a.at is None or b.at is None or (a.at.grid, a.at.step) != (b.at.grid, b.at.step):
        return Rows(whole(a, shape).coefficients + whole(b, shape).coefficients)
    dy, dx = (b.at.offset[i] - a.at.offset[i] for i in (0, 1))
    (ah, aw), (bh, bw) = a.size, b.size
    top, left = min(0, dy), min(0, dx)
    height, width = max(ah, dy + bh) - top, max(aw, dx + bw) - left
    grown_a = F.pad(a.coefficients, (-left, width + left - aw, -top, height + top - ah))
    grown_b = F.pad(b.coefficients, (dx - left, width - (dx - left) - bw, dy - top, height - (dy - top) - bh))
    offset = (a.at.offset[0] + top, a.at.offset[1] + left)
    return settle(Rows(grown_a + grown_b, Windows(a.at.cells, a.at.grid, a.at.step, offset)), shape)


# ---------------------------------------------------------------- adjoint maps


def adjoint(net: CrownNetwork, k: int, rows: Rows) -> Step:
    """Rows of an affine node k, rewritten as rows of its inputs."""
    node = net.nodes[k]
    shapes = [net.network.shapes[i] for i in net.parents(k)]
    match node:
        case c.Linear():
            constant = rows.coefficients @ net.weight(k, "bias")
            return Step((Rows(rows.coefficients @ net.weight(k, "weight")),), constant)
        case c.Conv2d():
            return _conv_adjoint(net, k, node, within(rows, net.network.shapes[k]))
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            return _scale_adjoint(net, k, rows)
        case c.Add():
            return Step((rows, rows))
        case c.Flatten():
            return Step((Rows(rows.coefficients.reshape(-1, *shapes[0])),))
        case c.Concat():
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
    return Step((Rows((own * factor).reshape(rows.coefficients.shape), rows.at),), dot(own, offset))


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
    """rows: zero outside the image."""
    height, width = rows.size
    bias = net.weight(k, "bias")[:, None].expand(-1, height * width)
    constant = rows.coefficients.flatten(1) @ bias.flatten()
    shape = net.network.shapes[node.inputs[0]]
    if rows.at is None:
        return Step((Rows(conv_adjoint(net, k).whole(rows.coefficients, (shape[1], shape[2]))),), constant)
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
        pulled = F.conv_transpose2d(units, weight, None, node.stride, 0, 0, node.groups, node.dilation)
        net.matrices[k, size[0], size[1]] = pulled.flatten(1)
    return (rows.flatten(1) @ net.matrices[k, size[0], size[1]]).view(len(rows), -1, *full)


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
            rows = settle(Rows(net.weight(k, "weight")[channel], at), net.network.shapes[node.inputs[0]])
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

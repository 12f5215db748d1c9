"""Rows of linear functionals of a node's value, and the adjoint map of every node on them.

A row's coefficients cover the whole value, or, for an image (channels, height, width), a window of it with its
own top-left corner: the receptive field of one neuron costs its own size and not the image's. Windows may hang
over the image's border; coefficients out there are zero. Part of the native CROWN engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown_network import CrownNetwork

DENSE_SHARE = 0.3  # a window larger than this share of the image is stored as a whole image


@dataclass(frozen=True, eq=False)
class Rows:
    """coefficients: (R, *shape) of a node's value, or (R, C, h, w) windows whose first cell is `corner` (R, 2)."""

    coefficients: Tensor
    corner: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """Rows of node k rewritten: sum of rows of its inputs (one entry per input) plus a constant (R,)."""

    inputs: tuple[Rows, ...]
    constant: Tensor | None = None


def total(coefficients: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return coefficients.flatten(1).sum(1)


# ---------------------------------------------------------------- windows


def _cells(corner: Tensor, size: tuple[int, int], image: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Per row, the flat index of each window cell in the image (clamped), (R, h * w), and whether it is inside."""
    y = corner[:, :1] + torch.arange(size[0], device=corner.device)
    x = corner[:, 1:] + torch.arange(size[1], device=corner.device)
    inside = ((y >= 0) & (y < image[0]))[:, :, None] & ((x >= 0) & (x < image[1]))[:, None, :]
    flat = y.clamp(0, image[0] - 1)[:, :, None] * image[1] + x.clamp(0, image[1] - 1)[:, None, :]
    return flat.flatten(1), inside.flatten(1)


def gather(values: tuple[Tensor, ...], rows: Rows, sample: Tensor) -> tuple[Tensor, ...]:
    """Each (N, *shape) of `values` at [sample], cut to each row's window: (R, *window), or (1, *shape) if N = 1.

    Cells outside the image repeat its border.
    """
    if rows.corner is None:
        return values if len(values[0]) == 1 else tuple(v[sample] for v in values)
    _, channels, height, width = values[0].shape
    size = (rows.coefficients.shape[2], rows.coefficients.shape[3])
    flat, _ = _cells(rows.corner, size, (height, width))
    table = torch.cat([v.permute(0, 2, 3, 1).reshape(-1, channels) for v in values], 1)
    index = flat if len(values[0]) == 1 else flat + sample[:, None] * (height * width)
    found = table[index.flatten()].view(len(flat), *size, -1).permute(0, 3, 1, 2)
    return found.split(channels, 1)


def dot(coefficients: Tensor, values: Tensor) -> Tensor:
    """Row by row: coefficients (R, *shape) . values (R or 1, *shape) -> (R,)."""
    if len(values) == 1:
        return coefficients.flatten(1) @ values.flatten()
    return total(coefficients * values)


def _trim(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Zero the coefficients outside the image, and store large windows as whole images."""
    if rows.corner is None:
        return rows
    r, channels, h, w = rows.coefficients.shape
    flat, inside = _cells(rows.corner, (h, w), (shape[1], shape[2]))
    coefficients = rows.coefficients * inside.view(r, 1, h, w)
    if h * w < DENSE_SHARE * shape[1] * shape[2]:
        return Rows(coefficients, rows.corner)
    image = coefficients.new_zeros(r, channels, shape[1] * shape[2])
    spread = flat[:, None, :].expand(r, channels, h * w)
    return Rows(image.scatter_add(2, spread, coefficients.flatten(2)).view(r, *shape))


def _whole(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """The rows as whole images."""
    if rows.corner is None:
        return rows
    r, channels, h, w = rows.coefficients.shape
    flat, _ = _cells(rows.corner, (h, w), (shape[1], shape[2]))
    image = rows.coefficients.new_zeros(r, channels, shape[1] * shape[2])
    spread = flat[:, None, :].expand(r, channels, h * w)
    return Rows(image.scatter_add(2, spread, rows.coefficients.flatten(2)).view(r, *shape))


def add(a: Rows, b: Rows, shape: tuple[int, ...]) -> Rows:
    """a + b: windows are aligned; a window and a whole image give a whole image."""
    if a.corner is None or b.corner is None:
        return Rows(_whole(a, shape).coefficients + _whole(b, shape).coefficients)
    offset = b.corner - a.corner
    if bool((offset != offset[:1]).any()):
        return Rows(_whole(a, shape).coefficients + _whole(b, shape).coefficients)
    dy, dx = (int(n) for n in offset[0])
    ah, aw = a.coefficients.shape[2:]
    bh, bw = b.coefficients.shape[2:]
    top, left = min(0, dy), min(0, dx)
    height, width = max(ah, dy + bh) - top, max(aw, dx + bw) - left
    grown_a = F.pad(a.coefficients, (-left, width + left - aw, -top, height + top - ah))
    grown_b = F.pad(b.coefficients, (dx - left, width - (dx - left) - bw, dy - top, height - (dy - top) - bh))
    return _trim(Rows(grown_a + grown_b, a.corner + offset.new_tensor([top, left])), shape)


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
            constant = rows.coefficients.sum((2, 3)) @ net.weight(k, "bias")
            pulled = _conv_adjoint(
                rows, net.weight(k, "weight"), node.stride, node.padding, node.dilation, node.groups, shapes[0]
            )
            return Step((pulled,), constant)
        case c.BatchNorm() | c.Shift() | c.Scale() | c.Divide():
            scale, shift = (t.expand(shapes[0])[None] for t in net.element_scale(k))
            nobody = torch.zeros(len(rows.coefficients), dtype=torch.long, device=net.device)
            factor, offset = gather((scale, shift), rows, nobody)
            return Step((Rows(rows.coefficients * factor, rows.corner),), dot(rows.coefficients, offset))
        case c.Add():
            return Step((rows, rows))
        case c.Flatten():
            return Step((Rows(rows.coefficients.view(-1, *shapes[0])),))
        case c.Concat():
            parts = torch.split(rows.coefficients, [s[0] for s in shapes], dim=1)
            return Step(tuple(Rows(p, rows.corner) for p in parts))
        case c.AveragePool2d():
            return Step((_average_adjoint(node, _whole(rows, net.network.shapes[k]), shapes[0]),))
        case c.Pad():
            return _pad_adjoint(node, _whole(rows, net.network.shapes[k]), shapes[0])
        case c.Slice():
            return Step((_slice_adjoint(node, _whole(rows, net.network.shapes[k]), shapes[0]),))
        case _:
            raise TypeError(f"{type(node).__name__} is not affine")


def _conv_adjoint(
    rows: Rows,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    shape: tuple[int, ...],
) -> Rows:
    pulled = F.conv_transpose2d(rows.coefficients, weight, None, stride, 0, 0, groups, dilation)
    top, left, _, _ = padding
    if rows.corner is not None:
        corner = rows.corner * rows.corner.new_tensor(stride) - rows.corner.new_tensor([top, left])
        return _trim(Rows(pulled, corner), shape)
    right, bottom = shape[2] + left - pulled.shape[3], shape[1] + top - pulled.shape[2]
    return Rows(F.pad(pulled, (-left, right, -top, bottom)))  # negative pads cut


def _average_adjoint(node: c.AveragePool2d, rows: Rows, shape: tuple[int, ...]) -> Rows:
    share = 1.0 / (node.kernel[0] * node.kernel[1])
    coefficients = rows.coefficients
    ones = coefficients.new_ones(1, 1, *node.kernel)
    if not node.count_padding and any(node.padding):
        top, left, bottom, right = node.padding
        cells = F.pad(coefficients.new_ones(1, 1, *shape[1:]), (left, right, top, bottom))
        coefficients, share = coefficients / F.conv2d(cells, ones, None, node.stride), 1.0
    kernel = (ones * share).expand(shape[0], 1, *node.kernel)
    return _conv_adjoint(Rows(coefficients), kernel, node.stride, node.padding, (1, 1), shape[0], shape)


def _pad_adjoint(node: c.Pad, rows: Rows, shape: tuple[int, ...]) -> Step:
    inner = tuple(slice(b, b + n) for b, n in zip(node.before, shape, strict=True))
    kept = rows.coefficients[(slice(None), *inner)]
    return Step((Rows(kept),), node.value * (total(rows.coefficients) - total(kept)))


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
            place = torch.stack([cell // shape[2], cell % shape[2]], 1) * index.new_tensor(node.stride)
            corner = place - index.new_tensor(node.padding[:2])
            rows = _trim(Rows(net.weight(k, "weight")[channel], corner), net.network.shapes[node.inputs[0]])
            return {node.inputs[0]: (rows, net.weight(k, "bias")[channel])}
        case _:
            return {k: (_one_hot(shape, index, net), torch.zeros(len(index), dtype=net.dtype, device=net.device))}


def _one_hot(shape: tuple[int, ...], index: Tensor, net: CrownNetwork) -> Rows:
    """Row r picks element index[r] of a value of this shape."""
    if len(shape) != 3:
        return Rows(F.one_hot(index, shape[0]).to(net.dtype))
    area = shape[1] * shape[2]
    channels = F.one_hot(index // area, shape[0]).to(net.dtype)[:, :, None, None]
    cell = index % area
    return Rows(channels, torch.stack([cell // shape[2], cell % shape[2]], 1))

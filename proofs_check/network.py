"""The affine nodes of the plain network as maps: forward, adjoint, and both with absolute values.

Inside the judge every value is an image (channels, height, width); a vector of n features is (n, 1, 1).
Backward passes carry `Rows`: R linear forms of one node's value, channels last.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.rounding import Array, need_bounded

Shape = tuple[int, ...]
IntArray = NDArray[np.int64]
NO_PADDING = (0, 0, 0, 0)


def image(shape: Shape) -> Shape:
    """(channels, height, width) of a value of this shape."""
    return shape if len(shape) == 3 else (shape[0], 1, 1)


# ---------------------------------------------------------------- rows: linear forms of one node's value


@dataclass(frozen=True, eq=False)
class Rows:
    """Coefficients (R, h, w, C) on a window of the image; everything outside the window is zero.

    corner: (R, 2), the window's top-left cell (windows may reach beyond the image, with zeros there), or
    None where the window is the whole image.
    """

    values: Array
    corner: IntArray | None


def take(parameter: Array, rows: Rows) -> Array:
    """A per-element parameter (C or 1, H, W) or (C, 1, 1) at the cells of `rows`; zero beyond the image."""
    last = np.moveaxis(parameter, 0, -1)
    if rows.corner is None or parameter.shape[1:] == (1, 1):
        return last
    h, w = rows.values.shape[1:3]
    before = np.maximum(-rows.corner.min(axis=0), 0)
    after = np.maximum(rows.corner.max(axis=0) + np.array([h, w]) - last.shape[:2], 0)
    padded = np.pad(last, ((before[0], after[0]), (before[1], after[1]), (0, 0)))
    s0, s1, s2 = padded.strides
    shape = (padded.shape[0] - h + 1, padded.shape[1] - w + 1, h, w, last.shape[2])
    windows = as_strided(padded, shape, (s0, s1, s0, s1, s2), writeable=False)
    return windows[rows.corner[:, 0] + before[0], rows.corner[:, 1] + before[1]]


def dot(values: Array, parameter: Array) -> Array:
    """Sum over each row of values (R, h, w, C) times a parameter that broadcasts against it."""
    if parameter.ndim == 3 and parameter.shape == values.shape[1:]:
        return values.reshape(len(values), -1) @ parameter.ravel()
    if parameter.ndim == 3:
        per_cell = values.reshape(-1, values.shape[-1]) @ np.broadcast_to(parameter, (1, 1, values.shape[-1])).ravel()
        return per_cell.reshape(len(values), -1).sum(axis=1)
    return np.einsum("rx,rx->r", values.reshape(len(values), -1), parameter.reshape(len(parameter), -1))


def settle(values: Array, corner: IntArray, whole: bool, shape: Shape) -> Rows:
    """Rows on an image of `shape` from windows that may reach beyond it: what lies beyond is dropped.

    corner: (R, 2), or (2,) if `whole`, the same for all rows. Large windows become the whole image.
    """
    h, w = values.shape[1:3]
    height, width = shape[1:]
    if whole:
        return Rows(_place(values, corner, shape), None)
    if 2 * h * w >= height * width:
        return widen(Rows(values, corner), shape)
    y, x = corner[:, :1] + np.arange(h, dtype=np.int64), corner[:, 1:] + np.arange(w, dtype=np.int64)
    within = np.logical_and(y >= 0, y < height), np.logical_and(x >= 0, x < width)
    inside = np.logical_and(within[0][:, :, None], within[1][:, None, :])
    partly = np.flatnonzero(~inside.all(axis=(1, 2)))
    values[partly] *= inside[partly][..., None]
    return Rows(values, corner)


def _place(values: Array, corner: IntArray, shape: Shape) -> Array:
    """Windows at one common corner, cut and filled with zeros to the whole image."""
    (top, left), (h, w), (height, width) = corner.tolist(), values.shape[1:3], shape[1:]
    if (top, left, h, w) == (0, 0, height, width):
        return values
    result = np.zeros((len(values), height, width, shape[0]))
    y0, y1, x0, x1 = max(top, 0), min(top + h, height), max(left, 0), min(left + w, width)
    if y0 < y1 and x0 < x1:
        result[:, y0:y1, x0:x1] = values[:, y0 - top : y1 - top, x0 - left : x1 - left]
    return result


def widen(rows: Rows, shape: Shape) -> Rows:
    """The same rows with the whole image as their window."""
    if rows.corner is None:
        return rows
    result = np.zeros((len(rows.values), shape[1], shape[2], shape[0]))
    cells, index = np.unique(rows.corner, axis=0, return_inverse=True)
    for k, cell in enumerate(cells):
        members = np.flatnonzero(index.ravel() == k)
        result[members] = _place(rows.values[members], cell, shape)
    return Rows(result, None)


def add(first: Rows, second: Rows, shape: Shape) -> Rows:
    """The sum of two sets of rows of one node, each coefficient rounded once."""
    if first.corner is not None and second.corner is not None:
        shift = second.corner - first.corner
        if (shift == shift[0]).all():
            return _overlay(first, second, shift[0], shape)
    return Rows(widen(first, shape).values + widen(second, shape).values, None)


def _overlay(first: Rows, second: Rows, shift: IntArray, shape: Shape) -> Rows:
    """The sum on the smallest window that holds both; `shift`: second corner - first corner."""
    a, b = np.maximum(-shift, 0), np.maximum(shift, 0)
    size = np.maximum(a + first.values.shape[1:3], b + second.values.shape[1:3])
    result = np.zeros((len(first.values), *size, shape[0]))
    for rows, at in ((first, a), (second, b)):
        h, w = rows.values.shape[1:3]
        result[:, at[0] : at[0] + h, at[1] : at[1] + w] += rows.values
    corner = first.corner if first.corner is not None else np.zeros((len(result), 2), dtype=np.int64)
    return settle(result, corner - a, False, shape)


# ---------------------------------------------------------------- sliding windows


@dataclass(frozen=True)
class Sliding:
    """Windows over height and width; padding (top, left, bottom, right), negative: cells cut away."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def windows(self, value: Array, fill: float) -> Array:
        """(C, H, W) -> a view (C, kh, kw, oh, ow)."""
        top, left, bottom, right = self.padding
        padded = np.pad(value, ((0, 0), (top, bottom), (left, right)), constant_values=fill)
        sizes: list[int] = []
        for axis in (0, 1):
            span = padded.shape[axis + 1] - self.dilation[axis] * (self.kernel[axis] - 1) - 1
            sizes.append(span // self.stride[axis] + 1)
        s0, s1, s2 = padded.strides
        inner = (s1 * self.dilation[0], s2 * self.dilation[1])
        outer = (s1 * self.stride[0], s2 * self.stride[1])
        return as_strided(padded, (len(value), *self.kernel, *sizes), (s0, *inner, *outer), writeable=False)

    def spread(self, rows: Rows, taps: Array, shape: Shape) -> Rows:
        """Adjoint of `windows`: taps (R, h, w, kh, kw, C), broadcastable, summed into rows on `shape`."""
        count, h, w = rows.values.shape[:3]
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        result = np.zeros((count, (h - 1) * sh + (kh - 1) * dh + 1, (w - 1) * sw + (kw - 1) * dw + 1, shape[0]))
        taps = np.broadcast_to(taps, (*taps.shape[:3], kh, kw, taps.shape[-1]))
        for i in range(kh):
            for j in range(kw):
                y, x = i * dh, j * dw
                result[:, y : y + (h - 1) * sh + 1 : sh, x : x + (w - 1) * sw + 1 : sw] += taps[:, :, :, i, j]
        origin = np.array(self.padding[:2])
        if rows.corner is None:
            return settle(result, -origin, True, shape)
        return settle(result, rows.corner * np.array(self.stride) - origin, False, shape)


# ---------------------------------------------------------------- the maps


class Map(abc.ABC):
    """value = apply(inputs) + bias.

    terms: at most that many products in any sum of `apply` or `adjoint`, plus the relative error of the
    stored weights in units of 2^-53; 0: the weights are 0 and 1 and `adjoint` does not round.
    bias: broadcasts against the value. bias_size >= |bias| holds the terms that cancelled in it.
    """

    terms: int = 0
    bias: Array = np.zeros((1, 1, 1))
    bias_size: Array = np.zeros((1, 1, 1))

    @abc.abstractmethod
    def apply(self, *values: Array, absolute: bool = False) -> Array:
        """Images -> image, without bias; `absolute`: with the weights' absolute values."""

    @abc.abstractmethod
    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        """Rows of this node's value -> rows of each input."""

    def _biased(self, bias: Array, size: Array | None = None) -> None:
        self.bias = bias
        self.bias_size = np.abs(bias) if size is None else size


class Dense(Map):
    def __init__(self, node: c.Linear) -> None:
        self.weight = node.weight.astype(np.float64)
        self.size = np.abs(self.weight)
        self.terms = max(self.weight.shape) + 1
        self._biased(node.bias.astype(np.float64)[:, None, None])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return ((self.size if absolute else self.weight) @ values[0][:, 0, 0])[:, None, None]

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        weight = self.size if absolute else self.weight
        flat = rows.values[:, 0, 0]
        used = np.flatnonzero(flat.any(axis=0))
        product = flat @ weight if 4 * len(used) > 3 * len(weight) else flat[:, used] @ weight[used]
        return (Rows(product[:, None, None, :], None),)


class Convolution(Map):
    def __init__(self, node: c.Conv2d, shape: Shape) -> None:
        out, per_group, kh, kw = node.weight.shape
        self.sliding = Sliding((kh, kw), node.stride, node.padding, node.dilation)
        self.shape = shape
        self.terms = max(per_group, out // node.groups) * kh * kw + 1
        weight = node.weight.astype(np.float64).reshape(node.groups, out // node.groups, per_group, kh, kw)
        self.weight = np.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2))  # (G, out / G, kh, kw, in / G)
        self.size = np.abs(self.weight)
        self._biased(node.bias.astype(np.float64)[:, None, None])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        weight = self.size if absolute else self.weight
        groups, out, kh, kw, per_group = weight.shape
        windows = self.sliding.windows(values[0], 0.0)
        oh, ow = windows.shape[3:]
        columns = windows.reshape(groups, per_group, kh, kw, oh * ow).transpose(0, 2, 3, 1, 4)
        product = weight.reshape(groups, out, -1) @ columns.reshape(groups, -1, oh * ow)
        return product.reshape(groups * out, oh, ow)

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        weight = self.size if absolute else self.weight
        groups, out, kh, kw, per_group = weight.shape
        count, h, w, _ = rows.values.shape
        grouped = rows.values.reshape(-1, groups, out).transpose(1, 0, 2)
        taps = grouped @ weight.reshape(groups, out, -1)  # (G, R h w, kh kw in / G)
        taps = np.moveaxis(taps.reshape(groups, count, h, w, kh, kw, per_group), 0, -2)
        return (self.sliding.spread(rows, taps.reshape(count, h, w, kh, kw, -1), self.shape),)


class Averaging(Map):
    def __init__(self, node: c.AveragePool2d, shape: Shape) -> None:
        self.sliding = Sliding(node.kernel, node.stride, node.padding, (1, 1))
        self.shape = shape
        self.terms = math.prod(node.kernel) + 2
        ones = self.sliding.windows(np.ones((1, *shape[1:])), 1.0 if node.count_padding else 0.0)
        self.share = 1.0 / ones.sum(axis=(1, 2))

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return self.sliding.windows(values[0], 0.0).sum(axis=(1, 2)) * self.share

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        shares = rows.values * take(self.share, rows)
        return (self.sliding.spread(rows, shares[:, :, :, None, None, :], self.shape),)


class Diagonal(Map):
    """gain * x + bias, elementwise. `known_to`: relative error of the gain in units of 2^-53."""

    def __init__(self, gain: Array, bias: Array, bias_size: Array, known_to: int) -> None:
        need_bounded(gain, "network")
        self.gain = gain
        self.terms = 2 + known_to
        self._biased(bias, bias_size)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] * (np.abs(self.gain) if absolute else self.gain)

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        gain = take(np.abs(self.gain) if absolute else self.gain, rows)
        return (Rows(rows.values * gain, rows.corner),)


class Shifting(Map):
    def __init__(self, constant: Array) -> None:
        self._biased(constant)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0]

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        return (rows,)


class Padding(Map):
    def __init__(self, before: Shape, after: Shape, value: float, shape: Shape) -> None:
        self.pads = tuple(zip(before, after, strict=True))
        self.shape = shape
        if value != 0:
            self._biased(np.pad(np.zeros(shape), self.pads, constant_values=value))

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.pad(values[0], self.pads)

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        (channel, _), (top, _), (left, _) = self.pads
        kept = rows.values[..., channel : channel + self.shape[0]].copy()
        if rows.corner is None:
            return (settle(kept, np.array([-top, -left]), True, self.shape),)
        return (settle(kept, rows.corner - (top, left), False, self.shape),)


class Slicing(Map):
    def __init__(self, start: Shape, stop: Shape, step: Shape, shape: Shape) -> None:
        self.ranges = tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))
        self.sliding = Sliding((1, 1), (step[1], step[2]), (-start[1], -start[2], 0, 0), (1, 1))
        self.shape = shape

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0][self.ranges]

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        channels = np.zeros((*rows.values.shape[:3], self.shape[0]))
        channels[..., self.ranges[0]] = rows.values
        return (self.sliding.spread(rows, channels[:, :, :, None, None, :], self.shape),)


class Concatenation(Map):
    def __init__(self, shapes: list[Shape]) -> None:
        self.ends = np.cumsum([s[0] for s in shapes])[:-1].tolist()

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.concatenate(values)

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        return tuple(Rows(part, rows.corner) for part in np.split(rows.values, self.ends, axis=-1))


class Addition(Map):
    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] + values[1]

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        return rows, rows


class Flattening(Map):
    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0].reshape(-1, 1, 1)

    def adjoint(self, rows: Rows, absolute: bool = False) -> tuple[Rows, ...]:
        images = rows.values.reshape(-1, *self.shape)
        return (Rows(np.ascontiguousarray(np.moveaxis(images, 1, -1)), None),)


def _normalisation(node: c.BatchNorm) -> Map:
    """gain = scale / sqrt(variance + epsilon), known to 5 units; bias = shift - mean gain."""
    scale, shift, mean, variance = (
        p.astype(np.float64)[:, None, None] for p in (node.scale, node.shift, node.mean, node.variance)
    )
    gain = scale / np.sqrt(variance + node.epsilon)
    moved = mean * gain
    return Diagonal(gain, shift - moved, np.abs(shift) + np.abs(moved), 8)


def affine_map(node: Any, shapes: list[Shape]) -> Map | None:
    """The map of an affine node whose inputs have these image shapes; None for a nonlinear node or the input."""
    zero = np.zeros((1, 1, 1))
    match node:
        case c.Linear():
            return Dense(node)
        case c.Conv2d():
            return Convolution(node, shapes[0])
        case c.AveragePool2d():
            return Averaging(node, shapes[0])
        case c.BatchNorm():
            return _normalisation(node)
        case c.Shift():
            return Shifting(_constant(node.constant, shapes[0]))
        case c.Scale():
            return Diagonal(_constant(node.constant, shapes[0]), zero, zero, 0)
        case c.Divide():
            return Diagonal(1.0 / _constant(node.constant, shapes[0]), zero, zero, 1)
        case c.Pad():
            return Padding(_axes(node.before, 0), _axes(node.after, 0), node.value, shapes[0])
        case c.Slice():
            return Slicing(_axes(node.start, 0), _axes(node.stop, 1), _axes(node.step, 1), shapes[0])
        case c.Concat():
            return Concatenation(shapes)
        case c.Add():
            return Addition()
        case c.Flatten():
            return Flattening(shapes[0])
        case _:
            return None


def _axes(per_axis: Shape, missing: int) -> Shape:
    return per_axis + (missing,) * (3 - len(per_axis))


def _constant(value: c.Float32Array, shape: Shape) -> Array:
    """A constant that broadcasts against a value, as an image: (C, 1, 1) where it can be, else full."""
    exact = value.astype(np.float64)
    if shape[1:] == (1, 1) and value.ndim == 1:
        return exact[:, None, None]
    return np.broadcast_to(exact, (shape[0], 1, 1) if exact.ndim == 3 and exact.shape[1:] == (1, 1) else shape)

"""The affine nodes of the plain network as maps: forward, adjoint, and both with absolute values.

Inside the judge every value is an image (channels, height, width); a vector of n features is (n, 1, 1).
Backward passes carry `LinearForms`: R linear forms of one node's value, channels last.

Precondition: a well-formed network; numbers of at most LIMIT. Postcondition: `adjoint` is the transpose of `apply`.
Charged: nothing here. `terms` says how much either may round, and the caller charges that: `bounds` to constants,
`jacobian` to radii. Windows are cut and filled with exact zeros; `add` rounds each coefficient once.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel.rounding import Array, need_bounded

Shape = tuple[int, ...]
IntArray = NDArray[np.int64]


def image(shape: Shape) -> Shape:
    """(channels, height, width) of a value of this shape."""
    return shape if len(shape) == 3 else (shape[0], 1, 1)


# ---------------------------------------------------------------- linear forms of one node's value


@dataclass(frozen=True, eq=False)
class LinearForms:
    """Coefficients (R, h, w, C) on a window of the image; everything outside the window is zero.

    corner: (R, 2), the window's top-left cell (windows may reach beyond the image, with zeros there), or
    None where the window is the whole image.
    """

    values: Array
    corner: IntArray | None


def unit_forms(shape: Shape, cells: IntArray) -> LinearForms:
    """The form v for each of the cells (R, 3): row, column, channel."""
    values = np.zeros((len(cells), 1, 1, shape[0]))
    values[np.arange(len(cells)), 0, 0, cells[:, 2]] = 1.0
    return LinearForms(values, None if shape[1:] == (1, 1) else cells[:, :2])


def take(parameter: Array, forms: LinearForms) -> Array:
    """A per-element parameter (C or 1, H, W) or (C, 1, 1) at the cells of `forms`; beyond the image, where forms
    are zero, it is zero or that of the channel."""
    last = np.moveaxis(parameter, 0, -1)
    if forms.corner is None or parameter.shape[1:] == (1, 1):
        return last
    framed = np.pad(last, ((1, 1), (1, 1), (0, 0)))  # zeros around the image stand for all cells beyond it
    (h, w), (height, width) = forms.values.shape[1:3], last.shape[:2]
    y = np.clip(forms.corner[:, :1] + np.arange(h, dtype=np.int64), -1, height) + 1
    x = np.clip(forms.corner[:, 1:] + np.arange(w, dtype=np.int64), -1, width) + 1
    return framed[y[:, :, None], x[:, None, :]]


def dot(values: Array, parameter: Array) -> Array:
    """Per form, the sum of values (R, h, w, C) times a parameter that broadcasts against it."""
    flat = values.reshape(len(values), -1)
    if parameter.ndim == 3:
        return flat @ np.broadcast_to(parameter, values.shape[1:]).ravel()
    return np.einsum("rx,rx->r", flat, parameter.reshape(len(parameter), -1))


def clip_to_image(values: Array, corner: IntArray, shared: bool, shape: Shape) -> LinearForms:
    """Forms on an image of `shape` from windows that may reach beyond it: what lies beyond is dropped.

    corner: (R, 2), or (2,) if `shared`, the same for all forms. Large windows become the whole image. `values` may be
    written to: it must be the caller's own.
    """
    if shared:
        return LinearForms(_into_image(values, corner, shape[1:]), None)
    forms = LinearForms(values, corner)
    if 2 * math.prod(values.shape[1:3]) >= math.prod(shape[1:]):
        return to_dense(forms, shape)
    values *= take(np.ones((1, *shape[1:])), forms)
    return forms


def _into_image(values: Array, corner: IntArray, size: Shape) -> Array:
    """Windows at one common corner, cut and filled with zeros to (height, width)."""
    (top, left), (h, w), (height, width) = corner.tolist(), values.shape[1:3], size
    result = np.zeros((len(values), height, width, values.shape[3]))
    y, x = max(top, 0), max(left, 0)
    below, right = max(min(top + h, height), y), max(min(left + w, width), x)
    result[:, y:below, x:right] = values[:, y - top : below - top, x - left : right - left]
    return result


def to_dense(forms: LinearForms, shape: Shape) -> LinearForms:
    """The same forms with the whole image as their window."""
    if forms.corner is None:
        return forms
    result = np.zeros((len(forms.values), *shape[1:], shape[0]))
    for corner in np.unique(forms.corner, axis=0):
        here = (forms.corner == corner).all(axis=1)
        result[here] = _into_image(forms.values[here], corner, shape[1:])
    return LinearForms(result, None)


def add(first: LinearForms, second: LinearForms, shape: Shape) -> LinearForms:
    """The sum of two sets of forms of one node, each coefficient rounded once."""
    if first.corner is None or second.corner is None or np.ptp(first.corner - second.corner, axis=0).any():
        return LinearForms(to_dense(first, shape).values + to_dense(second, shape).values, None)
    corner = np.minimum(first.corner, second.corner)  # of the smallest window that holds both
    a, b = first.corner[0] - corner[0], second.corner[0] - corner[0]
    size = tuple(np.maximum(a + first.values.shape[1:3], b + second.values.shape[1:3]))
    total = _into_image(first.values, a, size) + _into_image(second.values, b, size)
    return clip_to_image(total, corner, False, shape)


# ---------------------------------------------------------------- sliding windows


@dataclass(frozen=True)
class Sliding:
    """Windows over height and width; padding (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)

    def windows(self, value: Array, fill: float) -> Array:
        """(C, H, W) -> a view (C, kh, kw, oh, ow)."""
        top, left, bottom, right = self.padding
        padded = np.pad(value, ((0, 0), (top, bottom), (left, right)), constant_values=fill)
        (dh, dw), (sh, sw) = self.dilation, self.stride
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        every = sliding_window_view(padded, spans, axis=(1, 2))  # (C, oh, ow, kh, kw) at stride and dilation 1
        return every[:, ::sh, ::sw, ::dh, ::dw].transpose(0, 3, 4, 1, 2)

    def spread(self, forms: LinearForms, tap: Callable[[int, int], Array], shape: Shape) -> LinearForms:
        """Adjoint of `windows`: tap(i, j), (R, h, w, C), is added at cell (i, j) of every window; forms on `shape`."""
        count, h, w = forms.values.shape[:3]
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        result = np.zeros((count, (h - 1) * sh + (kh - 1) * dh + 1, (w - 1) * sw + (kw - 1) * dw + 1, shape[0]))
        for i in range(kh):
            for j in range(kw):
                y, x = i * dh, j * dw
                result[:, y : y + (h - 1) * sh + 1 : sh, x : x + (w - 1) * sw + 1 : sw] += tap(i, j)
        first = 0 if forms.corner is None else forms.corner * np.array(self.stride)
        return clip_to_image(result, first - np.array(self.padding[:2]), forms.corner is None, shape)


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
    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        """Forms of this node's value -> forms of each input."""

    def _biased(self, *parts: Array) -> None:
        """bias: the sum of the parts."""
        self.bias = sum(parts, self.bias)
        self.bias_size = sum(map(np.abs, parts), self.bias_size)


class Dense(Map):
    def __init__(self, node: c.Linear, shapes: list[Shape]) -> None:
        self.weight = node.weight.astype(np.float64)
        self.size = np.abs(self.weight)
        self.terms = max(self.weight.shape) + 1
        self._biased(node.bias.astype(np.float64)[:, None, None])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return ((self.size if absolute else self.weight) @ values[0][:, 0, 0])[:, None, None]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        weight = self.size if absolute else self.weight
        flat = forms.values[:, 0, 0]
        used = np.flatnonzero(flat.any(axis=0))
        product = flat @ weight if 4 * len(used) > 3 * len(weight) else flat[:, used] @ weight[used]
        return (LinearForms(product[:, None, None, :], None),)


class Convolution(Map):
    def __init__(self, node: c.Conv2d, shapes: list[Shape]) -> None:
        out, per_group, kh, kw = node.weight.shape
        self.sliding = Sliding((kh, kw), node.stride, node.padding, node.dilation)
        self.shape = shapes[0]
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

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        weight = self.size if absolute else self.weight
        grouped = forms.values.reshape(-1, *weight.shape[:2]).transpose(1, 0, 2)  # (G, R h w, out / G)

        def tap(i: int, j: int) -> Array:
            return (grouped @ weight[:, :, i, j]).transpose(1, 0, 2).reshape(*forms.values.shape[:3], -1)

        return (self.sliding.spread(forms, tap, self.shape),)


class Averaging(Map):
    def __init__(self, node: c.AveragePool2d, shapes: list[Shape]) -> None:
        self.sliding = Sliding(node.kernel, node.stride, node.padding)
        self.shape = shapes[0]
        self.terms = math.prod(node.kernel) + 2
        ones = self.sliding.windows(np.ones((1, *self.shape[1:])), 1.0 if node.count_padding else 0.0)
        self.share = 1.0 / ones.sum(axis=(1, 2))

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return self.sliding.windows(values[0], 0.0).sum(axis=(1, 2)) * self.share

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        shares = forms.values * take(self.share, forms)
        return (self.sliding.spread(forms, lambda _i, _j: shares, self.shape),)


class Diagonal(Map):
    """gain * x + sum of `bias`, elementwise.

    terms: 2, for the product and the sum, plus the relative error of the gain in units of 2^-53; 0 if it is 1.
    """

    def __init__(self, terms: int, gain: Array, *bias: Array) -> None:
        need_bounded(gain, "network")
        self.terms = terms
        self.gain = gain
        self._biased(*bias)

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] * (np.abs(self.gain) if absolute else self.gain)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        gain = take(np.abs(self.gain) if absolute else self.gain, forms)
        return (LinearForms(forms.values * gain, forms.corner),)


class Cropping(Map):
    """Cells start, start + step, ... before stop, of each axis of the input; `value` where that lies beyond it.

    As windows of one cell, their padding is negative where cells are cut away.
    """

    def __init__(self, start: Shape, stop: Shape, step: Shape, value: float, shape: Shape) -> None:
        self.shape = shape
        self.pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(start, stop, shape, strict=True)]
        ends = zip(start, stop, step, self.pads, strict=True)
        self.kept = tuple(slice(a + pad[0], b + pad[0], s) for a, b, s, pad in ends)
        self.sliding = Sliding((1, 1), (step[1], step[2]), (-start[1], -start[2], 0, 0))
        if value != 0:
            self._biased(np.pad(np.zeros(shape), self.pads, constant_values=value)[self.kept])

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.pad(values[0], self.pads)[self.kept]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        before, after = self.pads[0]
        channels = np.zeros((*forms.values.shape[:3], before + self.shape[0] + after))
        channels[..., self.kept[0]] = forms.values
        kept = channels[..., before : before + self.shape[0]]
        return (self.sliding.spread(forms, lambda _i, _j: kept, self.shape),)


class Concatenation(Map):
    def __init__(self, node: c.Concat, shapes: list[Shape]) -> None:
        self.ends = np.cumsum([s[0] for s in shapes])[:-1].tolist()

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return np.concatenate(values)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        return tuple(LinearForms(part, forms.corner) for part in np.split(forms.values, self.ends, axis=-1))


class Addition(Map):
    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0] + values[1]

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        return forms, forms


class Flattening(Map):
    def __init__(self, node: c.Flatten, shapes: list[Shape]) -> None:
        self.shape = shapes[0]

    def apply(self, *values: Array, absolute: bool = False) -> Array:
        return values[0].reshape(-1, 1, 1)

    def adjoint(self, forms: LinearForms, absolute: bool = False) -> tuple[LinearForms, ...]:
        images = forms.values.reshape(-1, *self.shape)
        return (LinearForms(np.ascontiguousarray(np.moveaxis(images, 1, -1)), None),)


# ---------------------------------------------------------------- the map of a node


def _normalisation(node: c.BatchNorm, shapes: list[Shape]) -> Map:
    """gain = scale / sqrt(variance + epsilon), known to 5 units; bias = shift - mean gain."""
    scale, shift, mean, variance = (
        p.astype(np.float64)[:, None, None] for p in (node.scale, node.shift, node.mean, node.variance)
    )
    gain = scale / np.sqrt(variance + node.epsilon)
    return Diagonal(2 + 8, gain, shift, -mean * gain)


def _constant(node: c.Shift | c.Scale | c.Divide, shapes: list[Shape]) -> Array:
    """A constant that broadcasts against a value, as an image: (C, 1, 1) where it can be, else full."""
    exact, shape = node.constant.astype(np.float64), shapes[0]
    if shape[1:] == (1, 1) and exact.ndim == 1:
        return exact[:, None, None]
    return np.broadcast_to(exact, (shape[0], 1, 1) if exact.ndim == 3 and exact.shape[1:] == (1, 1) else shape)


def _padding(node: c.Pad, shapes: list[Shape]) -> Map:
    (start, after), shape = (_axes(n, 0) for n in (node.before, node.after)), shapes[0]
    stop = tuple(n + a for n, a in zip(shape, after, strict=True))
    return Cropping(tuple(-b for b in start), stop, (1, 1, 1), node.value, shape)


def _slice(node: c.Slice, shapes: list[Shape]) -> Map:
    return Cropping(_axes(node.start, 0), _axes(node.stop, 1), _axes(node.step, 1), 0.0, shapes[0])


def _axes(per_axis: Shape, missing: int) -> Shape:
    return per_axis + (missing,) * (3 - len(per_axis))


MAPS: dict[type[Any], Callable[[Any, list[Shape]], Map]] = {
    c.Linear: Dense,
    c.Conv2d: Convolution,
    c.AveragePool2d: Averaging,
    c.BatchNorm: _normalisation,
    c.Shift: lambda node, shapes: Diagonal(0, np.ones((1, 1, 1)), _constant(node, shapes)),
    c.Scale: lambda node, shapes: Diagonal(2, _constant(node, shapes)),
    c.Divide: lambda node, shapes: Diagonal(2 + 1, 1.0 / _constant(node, shapes)),
    c.Pad: _padding,
    c.Slice: _slice,
    c.Concat: Concatenation,
    c.Add: lambda _node, _shapes: Addition(),
    c.Flatten: Flattening,
}


def affine_map(node: c.Node, shapes: list[Shape]) -> Map | None:
    """The map of an affine node whose inputs have these image shapes; None for a nonlinear node or the input."""
    build = MAPS.get(type(node))
    return None if build is None else build(node, shapes)

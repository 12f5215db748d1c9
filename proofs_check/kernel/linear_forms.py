"""Linear forms of one node's value, as images: what a backward pass carries.

Inside the judge every value is an image (channels, height, width); a vector of n features is (n, 1, 1). R forms travel
together, channels last.

Precondition: numbers of at most LIMIT. Postcondition: the same forms, on other windows; `add` their sum.
Charged: nothing here. Windows are cut and filled with exact zeros; `add` rounds each coefficient once, and its caller
charges that; `dot` is a sum of as many products as a form has cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proofs_check.kernel.rounding import Array

Shape = tuple[int, ...]
IntArray = NDArray[np.int64]


def image(shape: Shape) -> Shape:
    """(channels, height, width) of a value of this shape; what is no image is its cells in C order."""
    return shape if len(shape) == 3 else (math.prod(shape), 1, 1)


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
    last = parameter.transpose(*range(1, parameter.ndim), 0)  # np.moveaxis, which takes a tenth of a small net's time
    if forms.corner is None or parameter.shape[1:] == (1, 1):
        return last
    framed = np.pad(last, ((1, 1), (1, 1), (0, 0)))  # zeros around the image stand for all cells beyond it
    (h, w), (height, width) = forms.values.shape[1:3], last.shape[:2]
    y = np.clip(forms.corner[:, :1] + np.arange(h, dtype=np.int64), -1, height) + 1
    x = np.clip(forms.corner[:, 1:] + np.arange(w, dtype=np.int64), -1, width) + 1
    return framed[y[:, :, None], x[:, None, :]]


def repeated(values: Array, channels: int) -> Array:
    """Coefficients of forms (R, h, w, C) again and again, up to that many channels: of each factor of a product."""
    return values if values.shape[-1] == channels else np.tile(values, channels // values.shape[-1])


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

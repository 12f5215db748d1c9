"""Blocks that do the same at every pixel: what each node does, and the torus that the block may be thought to live on.

Its convolutions have stride 1 and keep the image's size. With zero padding the block is a part of the same block on a
torus so large that no window leads around it from one pixel of the image to another: beyond the image x is 0, slopes of
nonlinear nodes are taken to be 0, and y is not looked at. So no convolution with taps beside its centre may read what
another one left beyond the image: a nonlinear node has to stand between. With periodic padding (a `gather`, read by a
convolution) the image is the torus. Where pixels do not meet at all, one pixel is (docs/maths.md 11).

Precondition: nodes between one that all paths come through and a later one, as `blocks` finds them. Postcondition: the
gain of the block on that torus is at least its own. Charged: nothing, all is exact.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.layers.add import Add
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.conv2d import Conv2d
from proofs_check.kernel.layers.diagonal import Diagonal
from proofs_check.kernel.layers.gather import Gather
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.linear_forms import IntArray, Shape

Roles = dict[int, IntArray]  # of a convolution, the places of its taps (taps, 2); of what moves cells, the channels


def roles_of(prepared: Prepared, below: int, inside: list[int]) -> tuple[Roles, Shape] | None:
    """The roles of all nodes but the nonlinear ones and those that add or scale; the lengths of the torus."""
    image, roles = prepared.shapes[below][1:], Roles()
    spilled, corners = {below: False}, dict[int, Shape | None]({below: None})  # beyond the image; where that begins
    reach, wraps = np.zeros(2, dtype=np.int64), False
    for k in inside:
        layer, inputs = prepared.layers[k], inputs_of(prepared.network.nodes[k])
        corner, spilled[k], corners[k] = corners[inputs[0]], any(spilled[i] for i in inputs), None
        if isinstance(layer, Gather) and prepared.shapes[k][1:] != image:
            corners[k], roles[k] = _wrapped(layer), np.arange(prepared.shapes[k][0])
            if corner is not None or corners[k] is None:
                return None
            continue
        if prepared.shapes[k][1:] != image:
            return None
        if isinstance(layer, Conv2d):
            sliding = layer.sliding
            taps = np.indices(sliding.kernel).reshape(2, -1).T * np.array(sliding.dilation)
            roles[k] = taps - np.array(sliding.padding[:2] if corner is None else corner)
            apart, padded = bool(roles[k].any()), any(sliding.padding)
            if sliding.stride != (1, 1) or (apart and spilled[k]) or (corner is not None and padded):
                return None
            wraps |= corner is not None
            if apart and corner is None:
                spilled[k], reach = True, np.maximum(reach, np.abs(roles[k]).max(axis=0))
        elif any(corners[i] is not None for i in inputs):
            return None
        elif isinstance(layer, Elementwise):
            spilled[k] = False
        elif isinstance(layer, Affine) and layer.moves:
            roles[k] = _channels(layer)
            if not len(roles[k]):
                return None
        elif not (isinstance(layer, Add) or (isinstance(layer, Diagonal) and layer.gain.shape[1:] == (1, 1))):
            return None
    if corners[inside[-1]] is not None or (wraps and reach.any()):
        return None
    lengths = image if wraps else np.array(image) + reach if reach.any() else (1, 1)
    return roles, (int(lengths[0]), int(lengths[1]))


def _wrapped(layer: Gather) -> Shape | None:
    """Where the image begins, if this surrounds it with its own periods."""
    channels, height, width = layer.shapes[0]
    cells = np.arange(channels * height * width).reshape(layer.shapes[0])
    if layer.index.shape[0] != channels:
        return None
    row, column = divmod(int(layer.index[0, 0, 0]) % (height * width), width)
    top, left = -row % height, -column % width
    rows, columns = (np.arange(n) - first for n, first in zip(layer.index.shape[1:], (top, left), strict=True))
    same = (layer.index == cells[:, rows % height][:, :, columns % width]).all()
    return (top, left) if same else None


def _channels(layer: Affine) -> IntArray:
    """Which of its inputs' channels, one after another, a layer that moves cells has; none if it moves other cells."""
    plane = math.prod(layer.shapes[0][1:])
    ends = np.cumsum([0, *map(math.prod, layer.shapes)])
    numbers = (np.arange(a, b, dtype=np.float64) for a, b in itertools.pairwise(ends.tolist()))
    value = layer.apply(*(cells.reshape(s) for cells, s in zip(numbers, layer.shapes, strict=True)))
    value = value.reshape(len(value), -1)
    channels: IntArray = (value[:, 0] // plane).astype(np.int64)
    return channels if (value == channels[:, None] * plane + np.arange(plane)).all() else channels[:0]

"""Single steps of the judge in exact arithmetic: networks to take them on, and comparisons without tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import exact_network as en
import numpy as np
from flint import fmpq
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds, linear_forms
from proofs_check.kernel.layers import KINDS
from verifiers.network.module import build

F32 = np.float32


Rng = np.random.Generator


Array = NDArray[np.float64]


def layer(node: c.Node, *shapes: tuple[int, ...]) -> Any:
    """What the judge knows of the node, for inputs of these shapes, as images."""
    return KINDS[type(node)](node, shapes)


def at_most(exact: en.Exact, bound: Array) -> bool:
    return all(v <= en.rational(b) for v, b in zip(np.ravel(exact), np.ravel(bound), strict=True))


def at_least(exact: en.Exact, bound: Array) -> bool:
    return all(v >= en.rational(b) for v, b in zip(np.ravel(exact), np.ravel(bound), strict=True))


def cancelling(rng: Rng, *shape: int) -> c.Float32Array:
    """float32 weights whose sum along the last axis nearly cancels."""
    value = (rng.normal(size=shape) * 2.0 ** rng.integers(0, 12, size=shape)).astype(F32)
    half = shape[-1] // 2
    value[..., half : 2 * half] = -value[..., :half] * F32(1 + 2.0**-20)
    return value


def image_net(*nodes: c.Node) -> c.PlainNetwork:
    """Nodes on a (2, 4, 4) image, then flattened to logits."""
    return build([c.Input((2, 4, 4)), *nodes, c.Flatten((len(nodes),))])


def affine_nets(rng: Rng) -> Iterator[c.PlainNetwork]:
    """One affine node of each kind (and of each way to write it) on inputs that make it cancel."""
    zero, two = (0, 0, 0, 0), np.array([0.3, 0.7], dtype=F32)
    bias = rng.normal(size=3).astype(F32)
    yield build([c.Input((8,)), c.Linear((0,), cancelling(rng, 3, 8), bias)])
    yield image_net(c.Conv2d((0,), cancelling(rng, 3, 2, 2, 4), bias, (1, 1), (1, 0, 0, 2), (2, 1), 1))
    yield image_net(c.Conv2d((0,), cancelling(rng, 4, 1, 3, 2), bias[[0, 1, 2, 0]], (2, 1), zero, (1, 1), 2))
    yield image_net(c.AveragePool2d((0,), (3, 2), (1, 2), (1, 0, 1, 1), bool(rng.integers(2))))
    variance, mean = rng.uniform(1e-3, 1, 2).astype(F32), rng.normal(size=2).astype(F32)
    yield image_net(c.BatchNorm((0,), two * F32(3), (mean * F32(300)).astype(F32), mean * F32(100), variance, 1e-5))
    yield image_net(c.Shift((0,), -rng.uniform(0.2, 0.9, (2, 4, 4)).astype(F32)))
    yield image_net(c.Scale((0,), cancelling(rng, 2, 1, 1)))
    yield image_net(c.Divide((0,), cancelling(rng, 2, 4, 4)))
    yield image_net(c.Pad((0,), (1, 0, 1), (0, 1, 0), 0.7))
    yield image_net(c.Slice((0,), (0, 1, 0), (2, 4, 3), (1, 2, 1)))
    shifted = c.Shift((0,), -rng.uniform(0.2, 0.9, (1, 1, 1)).astype(F32))
    yield image_net(shifted, c.Add((0, 1)))
    yield image_net(shifted, c.Concat((0, 1)))
    for index in (rng.permutation(32).reshape(4, 2, 4), rng.integers(0, 5, (3, 4, 4)), rng.integers(0, 32, 9)):
        yield image_net(c.Gather((0,), index.astype(np.int32)))
    yield build([c.Input((3, 4)), c.Gather((0,), rng.integers(0, 12, (2, 3, 2)).astype(np.int32)), c.Flatten((1,))])
    yield build([c.Input((2, 1, 2, 3)), c.Flatten((0,))])


def small_ball(rng: Rng, shape: tuple[int, ...], radius: float, norm: c.Norm = "Linf") -> bounds.Ball:
    sign = rng.choice([-1, 1])
    return bounds.Ball((sign * rng.uniform(0.1, 1, shape)).astype(F32), radius, norm, None)


def exact_forms(rows: linear_forms.LinearForms, value: en.Exact) -> list[fmpq]:
    """Each row's linear form of an image (C, H, W), exactly."""
    image = np.moveaxis(value, 0, -1)
    height, width = image.shape[:2]
    totals: list[fmpq] = []
    for r, cells in enumerate(rows.values):
        top, left = (0, 0) if rows.corner is None else rows.corner[r].tolist()
        total = fmpq(0)
        for i, j, k in zip(*np.nonzero(cells), strict=True):
            if 0 <= top + i < height and 0 <= left + j < width:
                total += en.rational(cells[i, j, k]) * image[top + i, left + j, k]
        totals.append(total)
    return totals


def windows(rng: Rng, shape: tuple[int, ...], count: int) -> linear_forms.LinearForms:
    """Rows on whole images, or on windows of random size and corner inside the image."""
    if rng.integers(2) or shape[1:] == (1, 1):
        return linear_forms.LinearForms(en.wild(rng, count, *shape[1:], shape[0]), None)
    h, w = (int(rng.integers(1, n + 1)) for n in shape[1:])
    corner = np.stack([rng.integers(0, n - m + 1, count) for n, m in zip(shape[1:], (h, w), strict=True)], axis=1)
    return linear_forms.LinearForms(en.wild(rng, count, h, w, shape[0]), corner)


def exact_images(values: list[en.Exact], prepared: bounds.Prepared) -> list[en.Exact]:
    return [v.reshape(s) for v, s in zip(values, prepared.shapes, strict=True)]


def holds(values: bounds.Values, k: int, rows: linear_forms.LinearForms, images: list[en.Exact], slack: fmpq) -> None:
    """rows . v_k <= sum of the parts . inputs + cost at a point, with `slack` to spare."""
    parts, cost = bounds._step(values, k, linear_forms.LinearForms(rows.values.copy(), rows.corner), None)
    before = exact_forms(rows, images[k])
    inputs = bounds.inputs_of(values.prepared.network.nodes[k])
    for r, form in enumerate(before):
        total = sum((exact_forms(p, images[i])[r] for p, i in zip(parts, inputs, strict=True)), en.rational(cost[r]))
        assert form + slack <= total, values.prepared.network.nodes[k]

"""Linear forms on windows, on whole images and in parts: the same bounds, which exact extremes never leave."""

from __future__ import annotations

import math
from typing import Any

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from flint import fmpq

from proofs_check import certificate as c
from proofs_check.kernel import bounds, jacobian
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.linear_forms import LinearForms, to_dense, unit_forms
from proofs_check.reading.shapes import output_shape
from proofs_check.rules.lipschitz import layer_norms
from verifiers.network.module import build

F32 = np.float32


LINEAR = tuple(k for k in ho.PLAIN_KINDS if k not in ("relu", "leaky", "max", "residual", "product"))


def extremes(rows: en.Exact, ball: bounds.Ball) -> list[fmpq]:
    """Of each row's form over the part of an l_inf ball in its domain."""
    center, radius = en.exact(ball.center).ravel(), en.rational(ball.radius)
    low, high = map(en.rational, ball.domain or (-1e30, 1e30))
    at = [en.each(lambda v, s=s: min(max(v + s * radius, low), high), center) for s in (1, -1)]
    return [sum((a * at[0 if a > 0 else 1][n] for n, a in enumerate(row)), fmpq(0)) for row in rows]


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_exact_extremes_of_linear_networks_stay_inside_their_bounds(start: int):
    for seed in range(100 * start, 100 * start + 100):
        rng = np.random.default_rng(seed)
        nodes = en.random_network(rng, int(rng.integers(1, 6)), LINEAR).nodes
        network = build([ho._spoiled_node(rng, n) if rng.integers(4) == 0 else n for n in nodes])
        x = (rng.normal(size=network.input_shape) * rng.choice([1, 1e-40, 1e15])).astype(F32)
        domain = (float(x.min()), float(x.max()) + 1e-9) if rng.integers(2) else None
        ball = bounds.Ball(x, float(rng.choice([0, 1e-320, 1e-12, 0.3])), "Linf", domain)
        try:
            lower, upper = bounds.difference_bounds(bounds.prepare(network), ball, 0, None)
        except c.RejectedError:
            continue
        basis = [en.exact(e.reshape(x.shape)) for e in [np.zeros(x.size), *np.eye(x.size)]]
        origin, *images = [z - z[0] for z in (en.exact_values(network, e)[-1] for e in basis)]
        rows = np.stack([image - origin for image in images], axis=1)[1:]
        highest, lowest = extremes(rows, ball), [-v for v in extremes(-rows, ball)]
        for j in range(1, network.classes):
            assert en.rational(lower[j]) <= lowest[j - 1] + origin[j], (seed, j)
            assert highest[j - 1] + origin[j] <= en.rational(upper[j]), (seed, j)


def image_network(rng: np.random.Generator) -> c.PlainNetwork:
    """Images large enough that windows stay windows."""
    shape: tuple[int, ...] = (int(rng.integers(1, 3)), *(int(n) for n in rng.integers(6, 15, 2)))
    nodes: list[c.Node] = [c.Input(shape)]
    made: list[tuple[int, ...]] = [shape]
    for _ in range(int(rng.integers(3, 9))):
        kind = str(rng.choice([k for k in en.IMAGE_KINDS if k not in ("sigmoid", "tanh")]))
        layer = en._layer(rng, kind, nodes, made)
        grown = list(made)
        try:
            for node in layer:
                grown.append(output_shape(node, [grown[i] for i in getattr(node, "inputs", ())], "here"))
        except c.MalformedError:
            continue
        if max(math.prod(s) for s in grown) <= 600:
            nodes, made = [*nodes, *layer], grown
    last = len(nodes) - 1
    weight = en.weights(rng, 2, math.prod(made[-1]))
    return build([*nodes, c.Flatten((last,)), c.Linear((last + 1,), weight, np.zeros(2, F32))])


def test_windows_and_whole_images_of_rows_reach_the_same_bounds():
    windowed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        network = image_network(rng)
        prepared = bounds.prepare(network)
        values = bounds.value_bounds(prepared, en.random_ball(rng, network.input_shape), None)
        for k in range(1, len(network.nodes) - 2):
            if not isinstance(prepared.layers[k], Affine):
                continue
            shape, picked = prepared.shapes[k], rng.integers(0, math.prod(prepared.shapes[k]), 6)
            channel, y, x = np.unravel_index(picked, shape)
            rows = unit_forms(shape, np.stack([y, x, channel], axis=1))
            rows.values[3:] *= -1
            windowed += rows.corner is not None
            found = [bounds._descend(values, k, r, None, False) for r in (rows, to_dense(rows, shape))]
            scale = 1 + float(values.magnitude(k).max())
            assert np.abs(found[0] - found[1]).max() <= 1e-9 * scale, (seed, k, type(network.nodes[k]).__name__)
    assert windowed > 300


def test_forms_travel_in_parts_and_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    nodes: list[c.Node] = [c.Input((3,))]
    for n, m in ((3, 8), (8, 12)):
        nodes.append(c.Linear((len(nodes) - 1,), rng.normal(size=(m, n)).astype(F32), np.zeros(m, F32)))
        if m == 8:
            nodes.append(c.Relu((1,)))
    prepared = bounds.prepare(build(nodes))
    ball = bounds.Ball(np.zeros(3, F32), 0.5, "Linf", None)
    widest: list[int] = []
    descend, gradients = bounds._descend, jacobian.gradients  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: LinearForms, *rest: Any) -> np.ndarray:
        widest.append(len(rows.values))
        return descend(values, start, rows, *rest)

    def watched_gradients(p: bounds.Prepared, slopes: Any, forms: np.ndarray) -> jacobian.Gradients:
        widest.append(len(forms))
        return gradients(p, slopes, forms)

    monkeypatch.setattr(bounds, "_descend", watched)
    monkeypatch.setattr(jacobian, "gradients", watched_gradients)

    def everything() -> list[np.ndarray]:
        values = bounds.value_bounds(prepared, ball, None)
        products = layer_norms.products(prepared, np.eye(12), "Linf")
        return [*bounds.differences(values, 4), jacobian.difference_constants(values, 4), products]

    whole = everything()
    assert max(widest) == 22
    widest.clear()
    monkeypatch.setattr(bounds, "CHUNK_COEFFICIENTS", 36)  # three forms of the widest node
    parts = everything()
    assert max(widest) == 4  # on the first layer, which has 8 cells
    for a, b in zip(whole, parts, strict=True):
        assert b == pytest.approx(a, rel=1e-9, abs=1e-300)

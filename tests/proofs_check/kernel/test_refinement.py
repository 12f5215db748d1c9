"""Bounds of inner nodes by backward passes: which cells, which ends, in how many parts, and the best of them."""

from __future__ import annotations

import itertools
from typing import Any

import exact_network as en
import numpy as np
import pytest
from chains import array

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.linear_forms import LinearForms
from verifiers.network.module import build

F32 = np.float32


def test_cells_of_unstable_and_other_nodes_are_refined_to_their_backward_bounds():
    """x - x through two layers: interval arithmetic sees twice the radius, a backward pass nothing."""
    first = c.Linear((0,), np.array([[1], [1]], dtype=F32), np.zeros(2, F32))
    second = c.Linear((1,), np.array([[1, -1], [1, 1]], dtype=F32), np.zeros(2, F32))
    for node in (c.Relu((2,)), c.Tanh((2,))):
        net = build([c.Input((1,)), first, second, node])
        values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(1, F32), 1.0, "Linf", None), None)
        low, high = en.boxes(values)[2]
        assert max(abs(low[0]), abs(high[0])) < 1e-9
        assert -2.0 - 1e-9 < low[1] <= -2.0
        assert 2.0 <= high[1] < 2.0 + 1e-9


def test_cells_that_travel_in_several_parts_are_all_refined(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    layers = [c.Linear((k,), rng.normal(size=(6, 6)).astype(F32), np.zeros(6, F32)) for k in (0, 1, 3)]
    net = build([c.Input((6,)), *layers[:2], c.Relu((2,)), layers[2], c.Tanh((4,))])
    ball = bounds.Ball(np.zeros(6, F32), 1.0, "Linf", None)
    together = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
    monkeypatch.setattr(bounds, "CHUNK_COEFFICIENTS", 24)  # two cells at a time
    parts = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
    for (low, high), (a, b) in zip(together, parts, strict=True):
        assert a == pytest.approx(low, rel=1e-9)
        assert b == pytest.approx(high, rel=1e-9)


def test_the_best_cut_on_the_way_counts():
    """Bounds over the box of the last ReLU's own interval can beat the pass to the input, and are taken."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes, nodes = (3, 5, 5, 2), [c.Input((3,))]
        for n, m in itertools.pairwise(sizes):
            nodes.append(c.Linear((len(nodes) - 1,), rng.normal(size=(m, n)).astype(F32), np.zeros(m, F32)))
            if m > 2:
                nodes.append(c.Relu((len(nodes) - 1,)))
        net = build(nodes)
        values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(3, F32), 3.0, "Linf", None), None)
        form = np.array([[1.0, -1.0]])
        found = bounds.functionals(values, form, None)[0]
        (relu_low, relu_high), (low, high) = en.boxes(values)[4:]
        weight = form @ net.nodes[5].weight.astype(float)
        over_relu = (np.maximum(weight, 0) @ relu_high + np.minimum(weight, 0) @ relu_low).item()
        over_logits = high[0] - low[1]
        assert found <= min(over_relu, over_logits) + 1e-9


# ---------------------------------------------------------------- which ends are bounded


def test_only_cells_that_stay_open_have_both_ends_bounded(monkeypatch: pytest.MonkeyPatch):
    """Of a cancelling sum of ReLUs by intervals [-1, 3], [-3, 1] and [-2, 2]: the nearer end settles the first two."""
    first = c.Linear((0,), array([[1], [1], [1]]), array([2, 2, 3]))  # in [1, 3], [1, 3], [2, 4]
    second = c.Linear((2,), array([[1, -1, 0], [-1, 1, 0], [1, 1, 0], [0, 0, 1]]), array([1, -1, -4, -3]))
    nodes = [c.Input((1,)), first, c.Relu((1,)), second, c.Relu((3,))]
    nodes.append(c.Linear((4,), np.ones((2, 4), F32), array([0, 1])))
    asked: list[np.ndarray] = []
    descend = bounds._descend  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: LinearForms, *rest: Any) -> np.ndarray:
        asked.append(rows.values[:, 0, 0])
        return descend(values, start, rows, *rest)

    monkeypatch.setattr(bounds, "_descend", watched)
    values = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(array([0.0]), 1.0, "Linf", None), None)
    # -v_0 and v_1 settle their cells; v_2 = 2 x is in [-2, 2], and v_3 = x in [-1, 1] by intervals alone
    assert [rows.tolist() for rows in asked[:2]] == [
        [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, -1]],
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ]
    assert len(asked) == 2
    assert values.lower[3].ravel()[0] > 0 > values.upper[3].ravel()[1]


def test_where_passes_are_short_both_ends_are_bounded(monkeypatch: pytest.MonkeyPatch):
    nodes: list[c.Node] = [c.Input((1,)), c.Linear((0,), array([[1], [1]]), array([2, 2]))]
    nodes += [c.Linear((1,), array([[1, -1], [1, 1]]), array([1, -4])), c.Relu((2,))]
    asked: list[int] = []
    descend = bounds._descend  # pyright: ignore[reportPrivateUsage]

    def watched(values: bounds.Values, start: int, rows: LinearForms, *rest: Any) -> np.ndarray:
        asked.append(len(rows.values))
        return descend(values, start, rows, *rest)

    monkeypatch.setattr(bounds, "_descend", watched)
    values = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(array([0.0]), 1.0, "Linf", None), None)
    assert asked == [2, 2]
    assert 1 - 1e-9 < values.lower[2].ravel()[0] <= 1 <= values.upper[2].ravel()[0] < 1 + 1e-9

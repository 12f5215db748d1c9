"""The judge's maps: forward against exact arithmetic, adjoint against forward, windows against whole images."""

from __future__ import annotations

import exact_network as en
import numpy as np
import pytest
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds, linear_forms
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.relu import Relu
from verifiers.network.module import build

F32 = np.float32
Rng = np.random.Generator
KINDS = (
    "linear",
    "conv",
    "norm",
    "shift",
    "scale",
    "divide",
    "average",
    "pad",
    "slice",
    "concat",
    "add",
    "residual",
    "gather",
)


def affine_nodes(seed: int) -> tuple[Rng, bounds.Prepared, list[int]]:
    rng = np.random.default_rng(seed)
    prepared = bounds.prepare(en.random_network(rng, 6, KINDS))
    return rng, prepared, [k for k, x in enumerate(prepared.layers) if isinstance(x, Affine)]


def random_inputs(rng: Rng, prepared: bounds.Prepared, k: int) -> list[NDArray[np.float64]]:
    return [rng.normal(size=prepared.shapes[i]) for i in bounds.inputs_of(prepared.network.nodes[k])]


def random_rows(rng: Rng, shape: tuple[int, ...], count: int, whole: bool) -> linear_forms.LinearForms:
    """Rows on whole images, or on windows of random size and corner with zeros beyond the image."""
    if whole:
        return linear_forms.LinearForms(rng.normal(size=(count, *shape[1:], shape[0])), None)
    h, w = (int(rng.integers(1, n + 1)) for n in shape[1:])
    corner = np.stack([rng.integers(0, n - m + 1, count) for n, m in zip(shape[1:], (h, w), strict=True)], axis=1)
    return linear_forms.LinearForms(rng.normal(size=(count, h, w, shape[0])), corner)


def pair(rows: linear_forms.LinearForms, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's linear form of a value, from the rows' definition alone."""
    total = np.zeros(len(rows.values))
    padded = np.pad(np.moveaxis(value, 0, -1), ((9, 29), (9, 29), (0, 0)))
    for r, cells in enumerate(rows.values):
        top, left = (0, 0) if rows.corner is None else rows.corner[r]
        total[r] = (cells * padded[top + 9 : top + 9 + cells.shape[0], left + 9 : left + 9 + cells.shape[1]]).sum()
    return total


@pytest.mark.parametrize("seed", range(25))
def test_a_map_computes_its_node(seed: int):
    rng, prepared, nodes = affine_nodes(seed)
    point = rng.uniform(size=prepared.network.input_shape)
    exact = en.exact_values(prepared.network, en.exact(point))
    values = [v.astype(float).reshape(s) for v, s in zip(exact, prepared.shapes, strict=True)]
    for k in nodes:
        mapping, node = prepared.layers[k], prepared.network.nodes[k]
        assert isinstance(mapping, Affine)
        arguments = [values[i] for i in bounds.inputs_of(node)]
        size = mapping.apply(*map(np.abs, arguments), absolute=True) + mapping.bias_size
        assert (np.abs(mapping.apply(*arguments) + mapping.bias - values[k]) <= 1e-13 * size).all()
        assert (np.abs(values[k]) <= size * (1 + 1e-12)).all()


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_adjoint_rows_are_the_forms_of_the_map(seed: int, whole: bool, absolute: bool):
    rng, prepared, nodes = affine_nodes(seed)
    for k in nodes:
        mapping = prepared.layers[k]
        assert isinstance(mapping, Affine)
        arguments = random_inputs(rng, prepared, k)
        windows = not whole and prepared.shapes[k][1:] != (1, 1)
        rows = random_rows(rng, prepared.shapes[k], 5, not windows)
        before = rows.values.copy()
        parts = mapping.adjoint(rows, absolute=absolute)
        assert (rows.values == before).all(), "rows are shared: an adjoint must not change them"
        expected = pair(rows, mapping.apply(*arguments, absolute=absolute))
        found = sum(pair(p, a) for p, a in zip(parts, arguments, strict=True))
        scale = pair(
            linear_forms.LinearForms(np.abs(rows.values), rows.corner),
            mapping.apply(*map(np.abs, arguments), absolute=True),
        )
        assert (np.abs(expected - found) <= 1e-12 * (1 + scale)).all()


@pytest.mark.parametrize("seed", range(30))
def test_rows_add_up_whatever_their_windows(seed: int):
    rng = np.random.default_rng(seed)
    shape = (2, 5, 6)
    value = rng.normal(size=shape)
    first, second = (random_rows(rng, shape, 4, bool(rng.integers(3) == 0)) for _ in range(2))
    if seed % 2 and first.corner is not None and second.corner is not None:  # windows at one distance in every row
        second = linear_forms.LinearForms(second.values, np.minimum(first.corner + 1, 0) + first.corner)
    total = linear_forms.add(first, second, shape)
    assert pair(total, value) == pytest.approx(pair(first, value) + pair(second, value), abs=1e-12)


def test_rows_beyond_the_image_are_dropped():
    values = np.ones((2, 2, 2, 1))
    rows = linear_forms.clip_to_image(values.copy(), np.array([[-1, 3], [2, -1]]), False, (1, 4, 4))
    assert pair(rows, np.ones((1, 4, 4))).tolist() == [1.0, 2.0]
    gone = linear_forms.clip_to_image(values.copy(), np.array([9, 9]), True, (1, 4, 4))
    assert not gone.values.any()


@pytest.mark.parametrize("seed", range(10))
def test_parameters_are_taken_at_the_rows_cells(seed: int):
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    rows = random_rows(rng, shape, 6, False)
    assert rows.corner is not None
    moved = linear_forms.LinearForms(rows.values, rows.corner + rng.integers(-2, 3, size=(6, 2)))
    for parameter in (rng.normal(size=shape), rng.normal(size=(3, 1, 1))):
        taken = np.broadcast_to(linear_forms.take(parameter, moved), rows.values.shape)
        whole = np.broadcast_to(parameter, shape)
        inside = linear_forms.LinearForms(rows.values * taken, moved.corner)
        assert linear_forms.dot(rows.values, linear_forms.take(parameter, moved)) == pytest.approx(
            inside.values.sum(axis=(1, 2, 3))
        )
        if parameter.shape == shape:
            assert pair(moved, whole) == pytest.approx(inside.values.sum(axis=(1, 2, 3)))


@pytest.mark.parametrize("second", [(0, 0), (3, 4), (0, 3), (4, 0), (2, 2)])
@pytest.mark.parametrize("sizes", [((1, 2), (2, 1)), ((2, 2), (1, 1)), ((1, 1), (3, 2))])
def test_windows_that_lie_anywhere_beside_each_other_are_overlaid(
    second: tuple[int, int], sizes: tuple[tuple[int, int], tuple[int, int]]
):
    rng = np.random.default_rng(0)
    shape = (2, 8, 9)
    value = rng.normal(size=shape)
    corners = np.array([[2, 2]] * 3), np.array([second] * 3)
    pairs = [
        linear_forms.LinearForms(rng.normal(size=(3, *s, 2)), corner) for s, corner in zip(sizes, corners, strict=True)
    ]
    total = linear_forms.add(*pairs, shape)
    assert pair(total, value) == pytest.approx(pair(pairs[0], value) + pair(pairs[1], value), abs=1e-12)


def test_windows_whose_corners_have_one_sum_are_not_at_one_distance():
    rng = np.random.default_rng(0)
    shape = (1, 9, 9)
    value = rng.normal(size=shape)
    first = linear_forms.LinearForms(rng.normal(size=(3, 2, 2, 1)), np.array([[0, 1], [1, 2], [2, 3]]))
    second = linear_forms.LinearForms(rng.normal(size=(3, 2, 2, 1)), np.array([[4, 4], [3, 3], [2, 2]]))
    total = linear_forms.add(first, second, shape)
    assert pair(total, value) == pytest.approx(pair(first, value) + pair(second, value), abs=1e-12)


def whole_rows(rng: Rng, shape: tuple[int, ...]) -> linear_forms.LinearForms:
    return linear_forms.LinearForms(rng.normal(size=(2, *shape[1:], shape[0])), None)


@pytest.mark.parametrize("before", [(0, 2, 0), (0, 0, 2), (1, 0, 0), (1, 2, 1)])
@pytest.mark.parametrize("after", [(0, 0, 0), (1, 0, 2)])
def test_whole_rows_of_a_padded_image_are_cut_on_the_right_side(before: tuple[int, ...], after: tuple[int, ...]):
    rng = np.random.default_rng(0)
    prepared = bounds.prepare(
        build([c.Input((2, 3, 4)), c.Pad((0,), before, after, 0.0), c.Flatten((1,))])  # flattened to logits
    )
    mapping = prepared.layers[1]
    assert isinstance(mapping, Affine)
    value, rows = rng.normal(size=(2, 3, 4)), whole_rows(rng, prepared.shapes[1])
    assert pair(mapping.adjoint(rows)[0], value) == pytest.approx(pair(rows, mapping.apply(value)))


@pytest.mark.parametrize("constant", [(3,), (3, 1), (2, 3), (3, 1, 1), (1, 2, 3), (3, 2, 1), ()])
def test_constants_broadcast_as_numpy_does(constant: tuple[int, ...]):
    rng = np.random.default_rng(0)
    parameter = rng.normal(size=constant).astype(F32)
    shape = (3, 3, 3) if constant == (3, 1) else (3, 2, 3)  # a vector runs along the width, not along the channels
    value = rng.normal(size=shape)
    for node, expected in (
        (c.Shift((0,), parameter), value + parameter),
        (c.Scale((0,), parameter), value * parameter),
    ):
        mapping = bounds.prepare(build([c.Input(shape), node, c.Flatten((1,))])).layers[1]
        assert isinstance(mapping, Affine)
        assert mapping.apply(value) + mapping.bias == pytest.approx(expected)


def test_a_kind_that_falls_faster_than_it_rises_is_as_steep_as_it_falls():
    class Falling(Relu):
        def derivative(self) -> tuple[float, float]:
            return -2.0, 1.0

    assert 6.0 <= Falling(c.Relu((0,)), [(1, 1, 1)]).lipschitz([3.0], "L2") <= 6.0 * (1 + 1e-12)

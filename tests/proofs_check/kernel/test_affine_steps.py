"""Affine nodes, one step at a time, in exact arithmetic: interval bounds, adjoints, charges, borders of images."""

from __future__ import annotations

import math

import exact_network as en
import numpy as np
import pytest
import torch
from exact_steps import affine_nets, at_least, at_most, exact_images, holds, layer, small_ball, windows
from flint import fmpq

from proofs_check import certificate as c
from proofs_check.kernel import bounds, linear_forms
from proofs_check.kernel.layers.affine import Affine
from verifiers.network.module import PlainModule, build

F32 = np.float32


# ---------------------------------------------------------------- affine nodes


@pytest.mark.parametrize("seed", range(12))
def test_interval_bounds_of_an_affine_node_hold_at_the_corners_that_attain_them(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        ball = small_ball(rng, net.input_shape, float(rng.choice([0.0, 2.0**-24, 0.1])))
        found = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
        size = 2 * math.prod(net.input_shape)
        directions = [rng.normal(size=net.input_shape) for _ in range(3)]
        for point in en.points(rng, ball, directions)[: size if ball.radius else 1]:
            for k, value in enumerate(en.exact_values(net, point)):
                assert at_least(value, found[k][0]), net.nodes[k]
                assert at_most(value, found[k][1]), net.nodes[k]


@pytest.mark.parametrize("seed", range(8))
def test_one_backward_step_through_an_affine_node_loses_nothing(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        ball = small_ball(rng, net.input_shape, 0.0)
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        images = exact_images(en.exact_values(net, en.exact(ball.center)), prepared)
        for k in range(1, len(net.nodes)):
            holds(values, k, windows(rng, prepared.shapes[k], 3), images, fmpq(0))


@pytest.mark.parametrize("seed", range(6))
def test_a_charge_covers_the_adjoint_and_the_bias_of_its_channel(seed: int):
    """charge >= G(terms) size + G(cells) |bias| in every cell, in exact arithmetic (Values)."""
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, small_ball(rng, net.input_shape, 0.01), None)
        for k, mapping in enumerate(prepared.layers):
            if not isinstance(mapping, Affine):
                continue
            inputs = bounds.inputs_of(net.nodes[k])
            size = mapping.apply(*(values.magnitude(i) for i in inputs), absolute=True) + mapping.bias_size
            bias = np.broadcast_to(np.abs(mapping.bias), size.shape)
            cells = en.rational((size.size + 8) * 2.0**-52)
            weights = en.rational((mapping.terms + 8) * 2.0**-52) if mapping.terms else fmpq(0)
            charge = values.charges[k]
            paid = np.zeros(size.shape) if charge is None else np.broadcast_to(charge, size.shape)
            assert at_most(cells * en.exact(bias) + weights * en.exact(size), paid), net.nodes[k]


@pytest.mark.parametrize("seed", range(6))
def test_terms_count_every_product_of_a_sum(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        for k, mapping in enumerate(prepared.layers):
            if not isinstance(mapping, Affine) or mapping.terms == 0:
                continue
            shapes = [prepared.shapes[i] for i in bounds.inputs_of(net.nodes[k])]
            basis = np.eye(math.prod(shapes[0])).reshape(-1, *shapes[0])
            matrix = np.array([mapping.apply(b, absolute=True).ravel() for b in basis])
            products = max((matrix != 0).sum(axis=0).max(), (matrix != 0).sum(axis=1).max())
            exact = isinstance(net.nodes[k], (c.Linear, c.Conv2d, c.Scale))  # the weights are; plus one for the bias
            assert mapping.terms >= products + (0 if isinstance(net.nodes[k], c.Gather) else 1 if exact else 2)


def test_batch_norm_and_division_know_how_far_their_gains_are_off():
    rng = np.random.default_rng(0)
    for _ in range(40):
        parts = [rng.normal(size=2).astype(F32) for _ in range(3)]
        node = c.BatchNorm((0,), *parts, rng.uniform(0, 2, 2).astype(F32), 1e-5)
        mapping = layer(node, (2, 1, 1))
        true = en.exact(node.scale) / en.each(en.root, en.exact(node.variance) + en.rational(1e-5))
        off = abs(en.exact(mapping.gain.ravel()) - true) / abs(true)
        assert all(v <= (mapping.terms - 2) * en.rational(2.0**-53) for v in off)
        moved = en.exact(node.mean) * en.exact(mapping.gain.ravel())
        assert all(abs(s) + abs(m) <= en.rational(b) * (1 + en.rational(2.0**-50)) for s, m, b in
                   zip(en.exact(node.shift), moved, mapping.bias_size.ravel(), strict=True))  # fmt: skip
    constant = np.array([3, 7], dtype=F32)
    assert layer(c.Divide((0,), constant), (2, 1, 1)).terms >= 3
    assert layer(c.Scale((0,), constant), (2, 1, 1)).terms >= 2


def test_gains_beyond_the_range_are_refused():
    node = c.BatchNorm((0,), *[np.ones(2, dtype=F32) * F32(2.0**60)] * 3, np.zeros(2, dtype=F32), 2.0**-400)
    with pytest.raises(c.RejectedError, match=r"2\^200"):
        layer(node, (2, 1, 1))


# ---------------------------------------------------------------- windows that reach beyond the image


@pytest.mark.parametrize("seed", range(6))
def test_settled_windows_are_zero_beyond_the_image(seed: int):
    """A later adjoint would spread what is left there into the image."""
    rng = np.random.default_rng(seed)
    shape = (2, 6, 7)
    for h, w in ((2, 2), (1, 3), (3, 1), (5, 6)):
        values = rng.normal(size=(40, h, w, 2))
        corner = np.stack([rng.integers(-h - 1, 8, 40), rng.integers(-w - 1, 9, 40)], axis=1)
        rows = linear_forms.clip_to_image(values.copy(), corner, False, shape)
        whole = linear_forms.to_dense(rows, shape).values
        for r in range(40):
            for i in range(h):
                for j in range(w):
                    y, x = corner[r] + (i, j)
                    inside = 0 <= y < 6 and 0 <= x < 7
                    if inside:
                        assert (whole[r, y, x] == values[r, i, j]).all()
                    elif rows.corner is not None:
                        assert not rows.values[r, i, j].any()
        rows_in, columns_in = (
            (corner[:, axis, None] + np.arange(size) >= 0) & (corner[:, axis, None] + np.arange(size) < length)
            for axis, size, length in ((0, h, 6), (1, w, 7))
        )
        kept = rows_in[:, :, None] & columns_in[:, None, :]
        assert np.abs(whole).sum() == pytest.approx(np.abs(values * kept[..., None]).sum())


@pytest.mark.parametrize("seed", range(6))
def test_two_convolutions_in_a_row_bound_what_windows_at_the_border_reach(seed: int):
    """Padding on all sides, then another convolution: rows pass the border twice. Exactly linear: a point."""
    rng = np.random.default_rng(seed)
    convs = [c.Conv2d((k,), en.weights(rng, 2, 2, 3, 3), en.weights(rng, 2), (1, 1), (2, 1, 1, 2), (1, 1), 1)
             for k in range(3)]  # fmt: skip
    net = build([c.Input((2, 7, 7)), *convs, c.Relu((3,)), c.Flatten((4,))])
    ball = small_ball(rng, (2, 7, 7), 0.3, "L2")
    prepared = bounds.prepare(net)
    values = bounds.value_bounds(prepared, ball, None)
    cells = np.array([(0, 0, 0), (8, 9, 1), (0, 9, 1), (4, 3, 0)])  # row, column, channel
    rows = linear_forms.unit_forms(prepared.shapes[3], np.concatenate([cells, cells]))
    rows.values[4:] *= -1
    found = bounds._descend(values, 3, rows, None, False)
    point = ball.center.astype(float)
    near = PlainModule(net).double().values(torch.tensor(point)[None])[3][0].detach().numpy()
    cells = np.array([near[0, 0, 0], near[1, 8, 9], near[1, 0, 9], near[0, 4, 3]])
    slack = 1e-9 * np.abs(near).max()
    gradient = (found[:4] + found[4:]) / 2  # centre plus and minus radius times the norm of the gradient
    assert (found[:4] - gradient) == pytest.approx(cells, abs=slack)
    assert (found[:4] >= cells).all()

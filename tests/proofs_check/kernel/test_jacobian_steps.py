"""Gradients on intervals, one step at a time, in exact arithmetic."""

from __future__ import annotations

import exact_network as en
import numpy as np
import pytest
from exact_steps import affine_nets, at_least, at_most, exact_forms, layer
from flint import arb

from proofs_check import certificate as c
from proofs_check.kernel import bounds, jacobian, linear_forms
from proofs_check.kernel.arithmetic import EXACT
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.slopes import scaled

F32 = np.float32


# ---------------------------------------------------------------- the Jacobian


def test_slope_intervals_hold_every_slope():
    lower, upper = np.array([-1.0, 0.0, 0.5, -2.0, 0.0]), np.array([1.0, 1.0, 2.0, -1.0, 0.0])
    least, most = layer(c.LeakyRelu((0,), 0.1), (1, 1, 1)).derivative_range(lower, upper)
    assert least.tolist() == [0.1, 0.1, 1.0, 0.1, 0.1]
    assert most.tolist() == [1.0, 1.0, 1.0, 0.1, 1.0]
    for curve in (layer(c.Sigmoid((0,)), (1, 1, 1)), layer(c.Tanh((0,)), (1, 1, 1))):
        least, most = curve.derivative_range(lower, upper)
        for a, b, s, t in zip(lower, upper, least, most, strict=True):
            for share in np.linspace(0, 1, 11):
                slope = curve.slope(arb(float(np.clip(a + share * (b - a), a, b))), EXACT, 0)
                assert s <= slope <= t


def test_scaled_intervals_hold_every_product():
    rng = np.random.default_rng(0)
    centre, radius = en.wild(rng, 1, 5, 5, 4), np.abs(en.wild(rng, 1, 5, 5, 4)) * rng.integers(0, 2, (1, 5, 5, 4))
    least = rng.uniform(-1, 1, (5, 5, 4))
    most = least + rng.uniform(0, 1, (5, 5, 4)) * rng.integers(0, 2, (5, 5, 4))
    found = scaled(jacobian.Interval(centre, radius), least, most)
    low, high = (en.exact(found.centre) + s * en.exact(found.radius) for s in (-1, 1))
    for end in (en.exact(centre) - en.exact(radius), en.exact(centre) + en.exact(radius)):
        for slope in (least, most):
            product = end * en.exact(slope)
            assert all((low <= product).ravel())
            assert all((product <= high).ravel())


@pytest.mark.parametrize("seed", range(6))
def test_an_affine_step_of_the_jacobian_holds_the_exact_product(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        k, mapping = 1, prepared.layers[1]
        assert isinstance(mapping, Affine)
        if len(bounds.inputs_of(net.nodes[k])) > 1:
            continue
        (shape,) = (prepared.shapes[i] for i in bounds.inputs_of(net.nodes[k]))
        out = prepared.shapes[k]
        centre = en.wild(rng, 2, *out[1:], out[0])
        if out[0] > 1:
            centre[..., 1] = -centre[..., 0]
        radius = np.abs(en.wild(rng, *centre.shape)) * rng.integers(0, 2)
        (found,) = jacobian.affine_step(mapping, jacobian.Interval(centre, radius))
        rows = linear_forms.LinearForms(centre, None)
        point = rng.normal(size=shape)
        zero = en._apply(net.nodes[k], [en.exact(np.zeros(shape)).reshape(net.shapes[0])]).reshape(out)
        moved = en._apply(net.nodes[k], [en.exact(point).reshape(net.shapes[0])]).reshape(out) - zero
        size = exact_forms(linear_forms.LinearForms(found.radius, None), en.exact(np.abs(point)))
        centre = exact_forms(linear_forms.LinearForms(found.centre, None), en.exact(point))
        for a, b, r in zip(exact_forms(rows, moved), centre, size, strict=True):
            assert abs(a - b) <= r


def test_sums_and_magnitudes_of_intervals_are_rounded_up():
    rng = np.random.default_rng(0)
    parts = [jacobian.Interval(en.wild(rng, 1, 5, 5, 4), np.abs(en.wild(rng, 1, 5, 5, 4))) for _ in range(2)]
    total = jacobian.sum_of(*parts, (4, 5, 5))
    centre, radius = (en.exact(getattr(parts[0], n)) + en.exact(getattr(parts[1], n)) for n in ("centre", "radius"))
    gap = abs(centre - en.exact(total.centre)) + radius
    assert at_most(gap, total.radius)
    assert at_most(abs(en.exact(total.centre)) + en.exact(total.radius), total.magnitude())
    both = np.sort(en.wild(rng, 2, 1, 5, 5, 4), axis=0)
    between = jacobian.Interval.between(both[0], both[1])
    assert at_least(en.exact(both[0]) - en.exact(between.centre) + en.exact(between.radius), np.zeros((1, 5, 5, 4)))
    assert at_most(en.exact(both[1]) - en.exact(between.centre) - en.exact(between.radius), np.zeros((1, 5, 5, 4)))


# ---------------------------------------------------------------- the Jacobian, continued


@pytest.mark.parametrize("seed", range(6))
def test_a_product_step_holds_the_gradient_of_every_pair_of_factors(seed: int):
    """Forms on x y go to x times y, and to y times x; forward a change of x counts y times, and one of y x times."""
    rng = np.random.default_rng(seed)
    shape, half = ((6, 4, 3), (3, 4, 3)) if seed % 2 else ((8, 1, 1), (4, 1, 1))
    lower = en.wild(rng, *shape)
    upper = lower + np.abs(en.wild(rng, *shape)) * rng.integers(0, 2, shape)
    slopes = layer(c.Product((0,)), shape).slopes(lower, upper)
    centre = en.wild(rng, 2, *half[1:], half[0])
    radius = np.abs(en.wild(rng, *centre.shape)) * rng.integers(0, 2)
    found = slopes.times(jacobian.Interval(centre, radius), slopes.least, slopes.most)
    assert found.centre.shape == (2, *shape[1:], shape[0])
    low, high = (en.exact(found.centre) + s * en.exact(found.radius) for s in (-1, 1))
    for ends in (lower, upper, np.where(rng.integers(0, 2, shape), lower, upper)):
        x, y = np.split(np.moveaxis(en.exact(ends), 0, -1), 2, axis=-1)
        for sign in (-1, 1):
            form = en.exact(centre) + sign * en.exact(radius)
            exact = np.concatenate([form * y, form * x], axis=-1)
            assert all((low <= exact).ravel())
            assert all((exact <= high).ravel())
    value = jacobian.Interval(en.wild(rng, *shape), np.abs(en.wild(rng, *shape)) * rng.integers(0, 2))
    forward = slopes.forward(value)
    assert forward.centre.shape == half
    low, high = (en.exact(forward.centre) + s * en.exact(forward.radius) for s in (-1, 1))
    for sign in (-1, 1):
        end = en.exact(value.centre) + sign * en.exact(value.radius) * np.sign(slopes.middle).astype(int)
        exact = sum(np.split(end * en.exact(slopes.middle), 2))
        assert all((low <= exact).ravel())
        assert all((exact <= high).ravel())


@pytest.mark.parametrize("seed", range(6))
def test_a_pooling_step_holds_the_gradient_of_every_choice_of_cells(seed: int):
    """Within the bounds any cell may be the largest that reaches the largest lower end; rows go to the chosen ones."""
    rng = np.random.default_rng(seed)
    for node in (c.MaxPool2d((0,), (2, 2), (1, 1), (0, 0, 0, 0)), c.MaxPool2d((0,), (3, 2), (2, 1), (1, 1, 0, 0))):
        shape = (2, 4, 4)
        lower = rng.normal(size=shape)
        upper = lower + rng.choice([0.0, 0.1, 1.0], size=shape)
        pool = layer(node, shape)
        sliding = pool.sliding
        pooled = sliding.windows(lower, -np.inf).max(axis=(1, 2)).shape
        centre, radius = en.wild(rng, 2, *pooled[1:], 2), np.abs(en.wild(rng, 2, *pooled[1:], 2)) * (seed % 2)
        slopes = pool.slopes(lower, upper)
        found = slopes.times(jacobian.Interval(centre, radius), slopes.least, slopes.most)
        low, high = (en.exact(found.centre) + s * en.exact(found.radius) for s in (-1, 1))
        for _ in range(4):
            value = np.where(rng.integers(2, size=shape) == 0, lower, upper)
            choice = sliding.windows(value, -np.inf)
            taps = choice.reshape(2, -1, *choice.shape[3:]).argmax(axis=1)
            rows = en.exact(centre) + en.exact(rng.choice([-1, 0, 1], size=centre.shape)) * en.exact(radius)
            gradient = en.exact(np.zeros((2, 4, 4, 2)))
            for ch, i, j in np.ndindex(2, *pooled[1:]):
                a, b = divmod(int(taps[ch, i, j]), node.kernel[1])
                y, x = i * node.stride[0] - node.padding[0] + a, j * node.stride[1] - node.padding[1] + b
                gradient[:, y, x, ch] += rows[:, i, j, ch]
            assert all((low <= gradient).ravel())
            assert all((gradient <= high).ravel())


def test_a_pooling_step_is_exact_where_one_cell_surely_wins():
    lower = np.arange(16.0).reshape(1, 4, 4)
    pool = layer(c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0)), (1, 4, 4))
    rows = jacobian.Interval(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))
    slopes = pool.slopes(lower, lower + 0.5)
    found = slopes.times(rows, slopes.least, slopes.most)
    assert not slopes.uncertain().any()
    expected = np.zeros((4, 4))
    expected[1::2, 1::2] = 1.0
    assert found.centre[0, :, :, 0] == pytest.approx(expected, abs=1e-12)
    assert (found.radius <= 1e-12).all()
    slopes = pool.slopes(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    tied = slopes.times(rows, slopes.least, slopes.most)
    assert slopes.uncertain().all()
    assert (tied.centre - tied.radius <= 0).all()
    assert (tied.centre + tied.radius >= 1).all()


@pytest.mark.parametrize("node", [c.Sigmoid((0,)), c.Tanh((0,))])
def test_slope_intervals_of_curves_are_those_of_their_ends(node: c.Node):
    curve = layer(node, (1, 1, 1))
    lower, upper = np.array([-3.0, 1.0, -2.0, 0.0, -1.0, -5.0]), np.array([-1.0, 2.0, 1.0, 2.0, 0.0, 0.5])
    far, near = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 5.0]), np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    least, most = curve.derivative_range(lower, upper)
    assert least == pytest.approx(curve.approximate(curve.slope, far), rel=1e-12)
    assert most == pytest.approx(curve.approximate(curve.slope, near), rel=1e-12)
    flat, _ = curve.derivative_range(np.array([-800.0]), np.array([800.0]))
    assert abs(flat[0]) < 1e-200


def test_slopes_anywhere_are_the_steepest_of_each_node():
    nodes = [c.Relu((0,)), c.LeakyRelu((0,), 0.1), c.Sigmoid((0,)), c.Tanh((0,))]
    found = [layer(n, (2, 1, 1)).derivative() for n in nodes]
    assert found == [pytest.approx(range_, rel=1e-15) for range_ in [(0, 1), (0.1, 1), (0, 0.25), (0, 1)]]
    assert all(most >= real for (_, most), real in zip(found, (1, 1, 0.25, 1), strict=True))
    with pytest.raises(c.RejectedError, match="multipliers"):
        layer(c.MaxPool2d((0,), (1, 1), (1, 1), (0, 0, 0, 0)), (2, 1, 1)).derivative()

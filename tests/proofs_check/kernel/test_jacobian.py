"""The steps of the judge's gradients one by one, in exact arithmetic; and the networks that tell a lost cell."""

from __future__ import annotations

import math

import exact_network as en
import numpy as np
import pytest
import torch
from exact_steps import layer
from flint import fmpq
from numpy.typing import NDArray
from partial_derivatives import gradient_bounds

from proofs_check import certificate as c
from proofs_check.kernel import bounds, jacobian
from proofs_check.kernel.layers.affine import Affine
from verifiers.network.module import PlainModule, build

F32 = np.float32
Rng = np.random.Generator
Array = NDArray[np.float64]
UNIT = 2.0**-53


def ends(interval: jacobian.Interval) -> tuple[en.Exact, en.Exact]:
    return en.exact(interval.centre) - en.exact(interval.radius), en.exact(interval.centre) + en.exact(interval.radius)


def holds(interval: jacobian.Interval, low: en.Exact, high: en.Exact) -> bool:
    found = ends(interval)
    return bool((found[0] <= low).all() and (high <= found[1]).all())


def wide(rng: Rng, *shape: int) -> jacobian.Interval:
    """Intervals: points, and some far from thin."""
    return jacobian.Interval(en.wild(rng, *shape), np.abs(en.wild(rng, *shape)) * rng.integers(0, 2, size=shape))


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("seed", range(6))
def test_intersections_hold_what_both_intervals_hold(seed: int):
    rng = np.random.default_rng(seed)
    point, apart = en.wild(rng, 2, 3, 3, 2), [np.abs(en.wild(rng, 2, 3, 3, 2)) for _ in range(2)]
    plain = jacobian.Interval(point + 0.5 * apart[0], apart[0])
    middle, moved = jacobian.Interval(point - 0.25 * apart[1], apart[1] / 2), apart[1] / 2
    found = jacobian._intersection(plain, middle, moved)
    low = np.maximum(ends(plain)[0], en.exact(middle.centre) - en.exact(middle.radius) - en.exact(moved))
    high = np.minimum(ends(plain)[1], en.exact(middle.centre) + en.exact(middle.radius) + en.exact(moved))
    assert holds(found, low, high)
    alone = jacobian._intersection(plain, middle, None)
    assert holds(alone, np.maximum(ends(plain)[0], ends(middle)[0]), np.minimum(ends(plain)[1], ends(middle)[1]))
    width = np.minimum(plain.radius, middle.radius + moved)
    assert (found.radius <= width + 1e-12 * (width + np.abs(found.centre))).all()


@pytest.mark.parametrize("seed", range(6))
def test_middle_and_radius_hold_every_slope(seed: int):
    rng = np.random.default_rng(seed)
    least = rng.uniform(0, 1, (2, 3, 3)) * 2.0 ** rng.integers(-30, 0, (2, 3, 3))
    most = np.where(rng.integers(2, size=least.shape) == 0, least, np.minimum(least + rng.uniform(size=least.shape), 1))
    slopes = jacobian.Slopes.within(least, most, None, (2, 3, 3))
    assert holds(jacobian.Interval(slopes.middle, slopes.radius), en.exact(least), en.exact(most))
    assert ((slopes.radius == 0) == (least == most)).all()
    assert (slopes.uncertain() == np.moveaxis(least < most, 0, -1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_an_image_goes_forward_through_the_middle_slopes_with_every_rounding(seed: int):
    rng = np.random.default_rng(seed)
    shape = (2, 4, 4)
    value = wide(rng, *shape)
    least = rng.uniform(0, 1, shape)
    slopes = jacobian.Slopes.within(least, least + (1 - least) * rng.uniform(size=shape), None, shape)
    low, high = (e * en.exact(slopes.middle) for e in ends(value))  # slopes are >= 0
    assert holds(slopes.forward(value), low, high)
    lower = en.wild(rng, *shape)
    pool = c.MaxPool2d((0,), (3, 2), (2, 1), (1, 1, 0, 0))
    pooled = layer(pool, shape).slopes(lower, lower + rng.choice([0.0, 3.0], size=shape))
    found = ends(pooled.forward(value))
    below, above = ends(value)
    for channel, i, j in np.ndindex(*found[0].shape):
        total = [fmpq(0), fmpq(0)]
        for a, b in np.ndindex(3, 2):
            y, x = 2 * i + a - 1, j + b - 1
            if 0 <= y < 4 and 0 <= x < 4:
                share = en.rational(pooled.middle[i, j, a, b, channel])
                total = [total[0] + share * below[channel, y, x], total[1] + share * above[channel, y, x]]
        assert found[0][channel, i, j] <= total[0]
        assert total[1] <= found[1][channel, i, j]


@pytest.mark.parametrize("seed", range(4))
def test_an_image_is_carried_through_affine_nodes_with_every_rounding(seed: int):
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(4, 8)) * 2.0 ** rng.integers(0, 12, (4, 8))).astype(F32)
    weight[:, 4:] = -weight[:, :4] * F32(1 + 2.0**-20)
    second = rng.normal(size=(2, 4)).astype(F32)
    net = build([c.Input((8,)), c.Linear((0,), weight, np.ones(4, F32)), c.Linear((1,), second, np.ones(2, F32))])
    prepared = bounds.prepare(net)
    value = np.tile(rng.normal(size=(4, 1, 1)), (2, 1, 1))  # cancels
    found = jacobian._carried(prepared, jacobian.slopes_everywhere(prepared), value)
    exact = en.exact(weight) @ en.exact(value).ravel()  # no bias: the linear part alone
    for interval, value_there in zip(found[1:], (exact, en.exact(second) @ exact), strict=True):
        assert holds(interval, value_there.reshape(-1, 1, 1), value_there.reshape(-1, 1, 1))


def test_weighted_magnitudes_cover_every_order_of_summation():
    rng = np.random.default_rng(0)
    weights, magnitudes = rng.uniform(1, 2, (3, 500)), rng.uniform(1, 2, (500, 2, 2, 1))
    found = jacobian._weighted(weights, magnitudes)
    computed = (weights @ magnitudes.reshape(500, -1)).reshape(found.shape)
    assert (found >= computed * (1 + 500 * UNIT)).all()
    assert (found <= computed * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_overlapping_pools_are_summed_with_every_rounding(seed: int):
    """Nine windows over one cell: the sum of their shares times rows, exactly."""
    rng = np.random.default_rng(seed)
    shape, pool = (1, 3, 3), c.MaxPool2d((0,), (3, 3), (1, 1), (2, 2, 2, 2))
    slopes = layer(pool, shape).slopes(np.zeros(shape), np.ones(shape))
    rows = wide(rng, 2, 5, 5, 1)
    found = ends(slopes.times(rows, slopes.middle, slopes.middle))
    below, above = ends(rows)
    for r, y, x in np.ndindex(2, 3, 3):
        total = [fmpq(0), fmpq(0)]
        for a, b in np.ndindex(3, 3):
            i, j = y + 2 - a, x + 2 - b
            share = en.rational(slopes.middle[i, j, a, b, 0])
            total = [total[0] + share * below[r, i, j, 0], total[1] + share * above[r, i, j, 0]]
        assert found[0][r, y, x, 0] <= total[0]
        assert total[1] <= found[1][r, y, x, 0]


def test_sums_over_many_windows_or_rows_cover_every_order_of_summation():
    """64 windows over every cell, 500 rows of a matrix: n terms may lose n - 1 half units."""
    rng = np.random.default_rng(0)
    shape, pool = (1, 8, 8), c.MaxPool2d((0,), (8, 8), (1, 1), (7, 7, 7, 7))
    slopes = layer(pool, shape).slopes(np.zeros(shape), np.ones(shape))
    rows = jacobian.Interval(rng.uniform(1, 2, (1, 15, 15, 1)), rng.uniform(1, 2, (1, 15, 15, 1)))
    exact = jacobian.Interval(rows.centre, np.zeros_like(rows.radius))
    found, centres = (slopes.times(v, slopes.middle, slopes.middle) for v in (rows, exact))
    inside = slopes.times(jacobian.Interval(rows.radius, np.zeros_like(rows.radius)), slopes.middle, slopes.middle)
    within = (slice(None), slice(2, 6), slice(2, 6))  # cells that many windows share
    assert (centres.radius[within] >= 40 * UNIT * np.abs(centres.centre[within])).all()
    assert (found.radius[within] >= inside.centre[within] * (1 + 40 * UNIT) + centres.radius[within] / 2).all()
    blank = slopes.times(jacobian.Interval(np.zeros_like(rows.centre), rows.radius), slopes.middle, slopes.middle)
    assert (blank.radius[within] >= inside.centre[within] * (1 + 40 * UNIT)).all()
    value = jacobian.Interval(np.zeros(shape), rng.uniform(1, 2, shape))
    forward = slopes.forward(value)
    middle = slopes.forward(jacobian.Interval(value.radius, np.zeros(shape)))
    assert (forward.radius >= middle.centre * (1 + 14 * UNIT)).all()
    prepared = bounds.prepare(build([c.Input((2,)), c.Linear((0,), np.ones((500, 2), F32), np.zeros(500, F32))]))
    mapping = prepared.layers[1]
    assert isinstance(mapping, Affine)
    spread = rng.uniform(1, 2, (1, 1, 1, 500))
    (step,) = jacobian.affine_step(mapping, jacobian.Interval(np.zeros_like(spread), spread))
    assert (step.radius >= spread.sum() * (1 + 499 * UNIT)).all()


@pytest.mark.parametrize("seed", range(4))
def test_chords_lie_above_the_size_at_both_ends(seed: int):
    rng = np.random.default_rng(seed)
    low, width = en.wild(rng, 500), np.abs(en.wild(rng, 500))
    low = np.where(rng.integers(2, size=500) == 0, low, -width * 2.0 ** -rng.integers(0, 40, 500))  # just below zero
    high = low + width
    chords, offsets = jacobian._chords(low, high)
    for a, b, *both in zip(chords, offsets, low, high, strict=True):
        for end in both:
            assert abs(en.rational(end)) <= en.rational(a) * en.rational(end) + en.rational(b)
    assert (offsets <= 2 * np.maximum(-low, 0) * (1 + 1e-9) + 1e-9 * np.abs(high)).all()


# ---------------------------------------------------------------- networks


def true_gradients(net: c.PlainNetwork, forms: Array, points: Array) -> Array:
    """(points, R, n) of each form, at each point."""
    module = PlainModule(net).double()
    found: list[Array] = []
    for point in points:
        x = torch.from_numpy(point)[None].requires_grad_()
        logits = module(x)[0]
        rows = [torch.autograd.grad(logits @ torch.from_numpy(f), x, retain_graph=True)[0].ravel() for f in forms]
        found.append(torch.stack(rows).numpy())
    return np.array(found)


def bounded(net: c.PlainNetwork, forms: Array, radius: float) -> Array:
    prepared = bounds.prepare(net)
    ball = bounds.Ball(np.zeros(net.input_shape, F32), radius, "Linf", None)
    values = bounds.value_bounds(prepared, ball, None)
    return gradient_bounds(prepared, jacobian.slopes_over(values), forms)


def test_a_cell_that_only_one_form_sees_counts_for_that_form():
    """Two networks side by side, a logit each: an uncertain cell of one is no cell of the other's form."""
    weight = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], F32)
    deeper = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]], F32)
    last = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], F32)
    bias = np.array([0.1, -0.1, 0.1, -0.1], F32)
    net = build(
        [c.Input((2,)), c.Linear((0,), weight, bias), c.Relu((1,)), c.Linear((2,), deeper, bias), c.Relu((3,)),
         c.Linear((4,), last, np.zeros(2, F32))]
    )  # fmt: skip
    points = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    together = bounded(net, np.eye(2), 1.0)
    found = np.abs(true_gradients(net, np.eye(2), points)).max(axis=0)
    assert (found <= together).all()
    alone = np.concatenate([bounded(net, form[None], 1.0) for form in np.eye(2)])
    assert together == pytest.approx(alone, rel=1e-12)


def test_a_branch_that_a_cell_does_not_pass_is_left_alone():
    rng = np.random.default_rng(0)

    def array(*shape: int) -> c.Float32Array:
        return rng.normal(size=shape).astype(F32)

    nodes = [c.Input((3,)), c.Linear((0,), array(4, 3), array(4)), c.Relu((1,)), c.Linear((0,), array(4, 3), array(4)),
             c.Tanh((3,)), c.Linear((4,), array(4, 4), array(4)), c.Relu((5,)), c.Concat((2, 6)),
             c.Linear((7,), array(2, 8), array(2))]  # fmt: skip
    net = build(nodes)
    forms = np.array([[1.0, -1.0], [0.5, 2.0]])
    found = np.abs(true_gradients(net, forms, rng.uniform(-0.3, 0.3, (300, 3)))).max(axis=0)
    assert (found <= bounded(net, forms, 0.3)).all()


def test_the_sum_of_sizes_is_never_below_a_gradients_and_is_one_functional():
    rng = np.random.default_rng(1)
    weight, second = rng.normal(size=(5, 3)).astype(F32), rng.normal(size=(2, 5)).astype(F32)
    net = build([c.Input((3,)), c.Linear((0,), weight, np.zeros(5, F32)), c.Relu((1,)),
                 c.Linear((2,), second, np.zeros(2, F32))])  # fmt: skip
    prepared = bounds.prepare(net)
    forms = np.array([[1.0, -1.0]])
    for radius in (0.05, 1.0):
        ball = bounds.Ball(np.full(3, 0.25, F32), radius, "Linf", None)
        slopes = jacobian.slopes_over(bounds.value_bounds(prepared, ball, None))
        points = 0.25 + rng.uniform(-radius, radius, (300, 3))
        attained = np.abs(true_gradients(net, forms, points)).sum(axis=2).max()
        found = jacobian.dual_norms(prepared, slopes, forms, "Linf")[0]
        assert attained <= found
        entries = gradient_bounds(prepared, slopes, forms).sum()
        assert found <= entries * (1 + 1e-12)
    assert math.isfinite(found)

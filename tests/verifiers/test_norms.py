"""Every question of engines and attacks to a norm, for every norm of the table."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from small_networks import DUAL, NORMS, ORDER

from proofs_check import certificate as c
from proofs_check.kernel.norms import NORMS as JUDGED
from verifiers.norms import NORMS as ENGINES
from verifiers.norms import Lp

ROUNDING = 1e-12


def vectors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_sides_and_the_tests_know_the_same_norms():
    assert set(JUDGED) == set(ENGINES) == set(NORMS)


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_of_their_order_and_its_dual(norm: c.Norm):
    lp, x = ENGINES[norm], vectors(0, 20, 7)
    assert (lp.order, lp.dual_order) == (ORDER[norm], DUAL[norm])
    for row, size, dual in zip(x.numpy(), lp.size(x), lp.dual(x), strict=True):
        assert float(size) == pytest.approx(np.linalg.norm(row, ORDER[norm]))
        assert float(dual) == pytest.approx(np.linalg.norm(row, DUAL[norm]))


@pytest.mark.parametrize("norm", NORMS)
def test_both_sides_agree_on_every_number(norm: c.Norm):
    """The judge's are from above."""
    mine, his, x = ENGINES[norm], JUDGED[norm], np.abs(vectors(1, 20, 7).numpy())
    assert (mine.is_box, mine.euclidean) == (his.is_box, his.euclidean)
    assert his.dual_is_sum == (mine.dual_order == 1)
    for found, proven in (
        *((mine.of_ones(n), his.of_ones(n)) for n in (1, 2, 9, 784)),
        *((mine.length(n), his.length(n)) for n in (1, 2, 9, 784)),
        *((mine.between(a, b), his.between(a, b)) for a, b in itertools.product((0.1, 3.0), repeat=2)),
        *zip(mine.dual(torch.from_numpy(x)).tolist(), his.dual(x).tolist(), strict=True),
    ):
        assert found * (1 - ROUNDING) <= proven <= found * (1 + ROUNDING)


@pytest.mark.parametrize("norm", NORMS)
def test_sizes_are_rounded_up_and_membership_is_exact(norm: c.Norm):
    lp = ENGINES[norm]
    for row in vectors(2, 30, 5).float().double():
        up = float(lp.size_up(row[None]))
        offsets = [abs(Fraction(float(v))) for v in row]
        assert lp.within(offsets, Fraction(up))
        assert not lp.within(offsets, Fraction(up * (1 - ROUNDING)))
    ones = [Fraction(1)] * 9
    assert lp.within(ones, Fraction(9))
    assert lp.within([Fraction(0)], Fraction(0))
    assert not lp.within([*ones, Fraction(2)], Fraction(1))


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_up_gains_the_dual_norm(norm: c.Norm):
    """Steepest: no step of norm 1 gains more; in l1 a share of what the best gains, for it is spread over several."""
    lp, gradients = ENGINES[norm], vectors(3, 40, 6)
    way = lp.steepest(gradients)
    assert torch.allclose(lp.size(way), torch.ones(40).double())
    gained, most = (way * gradients).sum(1), lp.dual(gradients)
    assert bool((gained <= most * (1 + ROUNDING)).all())
    assert bool((gained >= most * (0.9 if lp.order == 1 else 1 - ROUNDING)).all())
    assert bool(((lp.ascent(gradients) * gradients).sum(1) > 0).all())
    assert bool((lp.steepest(torch.zeros(2, 3)).nan_to_num() == 0).all())


def spread(lp: Lp, seed: int, count: int, size: int, radius: torch.Tensor) -> torch.Tensor:
    """(count, size) points of the ball, from its boundary inward."""
    way = vectors(seed, count, size)
    share = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 0.2
    return way / lp.size(way)[:, None] * share * radius


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_in_ball_and_box_is_nearer_than_the_closest(norm: c.Norm):
    lp, offsets = ENGINES[norm], 2 * vectors(4, 30, 5)
    low, high = -vectors(5, 30, 5).abs(), vectors(6, 30, 5).abs()
    for radius in (0.1, 1.0, 50.0):
        found = lp.closest(offsets, low, high, torch.full((30,), radius, dtype=torch.float64))
        assert bool((lp.size(found) <= radius * (1 + ROUNDING)).all())
        assert bool(((low <= found) & (found <= high)).all())
        others = spread(lp, 7, 2000, 5, torch.tensor(radius, dtype=torch.float64))[:, None].clamp(low, high)
        near, best = (others - offsets).norm(dim=2).amin(0), (found - offsets).norm(dim=1)
        assert bool((best <= near + 0.01 * radius).all())  # the search ends near the sphere
        tiny = found * 0.5
        assert torch.allclose(lp.closest(tiny, low, high, torch.full((30,), radius, dtype=torch.float64)), tiny)


@pytest.mark.parametrize("norm", NORMS)
def test_no_offset_of_ball_and_box_reaches_farther(norm: c.Norm):
    lp, sizes, extent = ENGINES[norm], vectors(8, 20, 5).abs(), vectors(9, 20, 5).abs()
    for radius in (0.05, 1.0, 4.0):
        radii = torch.full((20,), radius, dtype=torch.float64)
        found = lp.reach(sizes, extent, radii)
        assert bool((found <= radius * lp.dual(sizes) * (1 + ROUNDING)).all())
        points = spread(lp, 10, 4000, 5, torch.tensor(radius, dtype=torch.float64)).abs()[:, None].minimum(extent)
        assert bool(((points * sizes).sum(2) <= found * (1 + ROUNDING)).all())
        steep = (lp.steepest(sizes) * radius).minimum(extent)
        assert bool(((steep * sizes).sum(1) <= found * (1 + ROUNDING)).all())
    unbounded = torch.full_like(extent, 1e9)
    assert torch.allclose(lp.reach(sizes, unbounded, radii), radii * lp.dual(sizes))


@pytest.mark.parametrize("norm", NORMS)
def test_operator_norms_are_bounded_by_interpolation(norm: c.Norm):
    lp = ENGINES[norm]
    for seed in range(20):
        matrix = vectors(seed, 4, 6)
        bound = lp.between(float(matrix.abs().sum(1).max()), float(matrix.abs().sum(0).max()))
        x = vectors(100 + seed, 500, 6)
        assert bool((lp.size(x @ matrix.T) <= bound * lp.size(x) * (1 + ROUNDING)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_noise_fills_the_ball_evenly(norm: c.Norm):
    """Scaled to norms U^(1/2), points of the plane lie in the four quadrants and in the half-size ball as its area."""
    lp, generator, count = ENGINES[norm], torch.Generator().manual_seed(0), 20000
    draws = lp.noise(torch.rand(count, 2, generator=generator, dtype=torch.float64), generator)
    if not lp.is_box:  # a box needs no such scaling: its noise is uniform in it
        radii = torch.rand(count, 1, generator=generator, dtype=torch.float64).sqrt()
        draws = draws / lp.size(draws)[:, None] * radii
    assert bool((lp.size(draws) <= 1 + ROUNDING).all())
    for share, inside in (
        (0.25, (draws > 0).all(1)),
        (0.25, lp.size(draws) < 0.5),
        (0.25 * 0.25, lp.size(draws.abs() - 0.25) < 0.125),  # four small balls, one around each (±1/4, ±1/4)
    ):
        assert float(inside.double().mean()) == pytest.approx(share, abs=5 * math.sqrt(share / count))

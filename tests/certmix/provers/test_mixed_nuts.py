"""The map of MixedNUTS as released: its bounds hold on grids and at corners, in exact enclosures, and are close."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.attacks.adaptive_weight import moved
from certmix.theorems import mixed_nuts
from proofs_check.certificate import MixedNuts
from proofs_check.rules import mixed_nuts as rule

maps = st.builds(MixedNuts, st.floats(0.1, 50), st.floats(-2, 2), st.sampled_from([0.5, 1.0, 2.0, 3.5]))
boxes = st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([0.0, 1e-9, 0.1, 1.0, 4.0])), min_size=2, max_size=4)


def points(box: list[tuple[float, float]]) -> list[list[float]]:
    """Logits in the box (centre, half width): its corners, and a grid."""
    axes = [sorted({c + f * w for f in (-1, -0.5, 0, 0.4, 1)}) for c, w in box]
    return [list(z) for z in itertools.product(*axes)]


def centered(box: list[tuple[float, float]]) -> tuple[list[arb], list[arb]]:
    """Bounds of z_j - mean z over the box, exact."""
    ends = [(arb(c) - arb(w), arb(c) + arb(w)) for c, w in box]
    count = len(box)
    lower, upper = [], []
    for j, (low, up) in enumerate(ends):
        others = [e for k, e in enumerate(ends) if k != j]
        lower.append((low * (count - 1) - sum((u for _, u in others), arb(0))) / count)
        upper.append((up * (count - 1) - sum((b for b, _ in others), arb(0))) / count)
    return lower, upper


@given(boxes, maps)
@settings(max_examples=60, deadline=None)
def test_the_judges_bounds_hold_at_every_point_of_a_grid(box: list[tuple[float, float]], how: MixedNuts) -> None:
    lower, upper = centered(box)
    bounds = [
        (
            rule.mapped(rule.lower_end(lower, upper, j, how), how),
            rule.mapped(rule.upper_end(lower, upper, j, how), how),
        )
        for j in range(len(box))
    ]
    for z in points(box):
        for (least, most), value in zip(bounds, moved([arb(v) for v in z], how), strict=True):
            assert not value < least
            assert not value > most


@given(boxes, maps)
@settings(max_examples=60, deadline=None)
def test_what_proposes_finds_the_judges_bounds(box: list[tuple[float, float]], how: MixedNuts) -> None:
    lower, upper = centered(box)
    low, up = (torch.tensor([[float(v) for v in ends]], dtype=torch.float64) for ends in (lower, upper))
    least, most = mixed_nuts.bounds(low, up, how)
    for j in range(len(box)):
        for found, judged in (
            (least[0, j], rule.mapped(rule.lower_end(lower, upper, j, how), how).mid()),
            (most[0, j], rule.mapped(rule.upper_end(lower, upper, j, how), how).mid()),
        ):
            assert float(found) == pytest.approx(float(judged), rel=1e-4, abs=1e-4 * how.scale)


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), maps)
@settings(max_examples=60, deadline=None)
def test_on_a_point_the_bounds_are_the_value_or_the_ends_of_what_gelu_can_be(z: list[float], how: MixedNuts) -> None:
    lower, upper = centered([(v, 0.0) for v in z])
    for j, value in enumerate(moved([arb(v) for v in z], how)):
        least, most = (rule.mapped(end(lower, upper, j, how), how) for end in (rule.lower_end, rule.upper_end))
        near = 1e-6 * how.scale * (1 + abs(float(value)))
        assert abs(float(least) - float(value)) < near or float(least) == pytest.approx(-how.scale * 0.17**how.power)
        assert abs(float(most) - float(value)) < near or float(most) == 0.0


def test_gelu_rises_from_minus_three_quarters_on_and_never_falls_below_the_constant() -> None:
    """On intervals that cover the line as far as it matters: beyond 6 its slope, Φ(v) + v φ(v), is above 0.9."""

    def slope(v: arb) -> arb:
        return (1 + (v / arb(2).sqrt()).erf()) / 2 + v * (-(v**2) / 2).exp() / (2 * arb.pi()).sqrt()

    assert arb(-3) / 4 == rule.RISES_FROM
    for k in range(27_000):  # from -0.75 to 6 in steps of 1/4000
        assert slope(arb(-0.75 + (k + 0.5) / 4000, 1 / 8000)) > 0
    for low, high, step in ((-7.0, -1.0, 1e-2), (-1.0, -0.5, 5e-5), (-0.5, 0.0, 1e-2)):  # below -7 |v| Φ(v) < φ(v)
        for k in range(round((high - low) / step)):
            v = arb(low + (k + 0.5) * step, 0.51 * step)
            assert v * (1 + (v / arb(2).sqrt()).erf()) / 2 > rule.LEAST


def test_the_map_in_torch_is_the_formula_and_has_gradients() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(20, 7))).requires_grad_()
    how = MixedNuts(5.0, -1.1, 4.0)
    got = mixed_nuts.mapped(z, how)
    v = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True) + 1e-8).sqrt() - 1.1
    w = torch.nn.functional.gelu(v)
    assert torch.allclose(got, 5 * w.sign() * w.abs() ** 4, atol=1e-12)
    for row, values in zip(z.detach(), got.detach(), strict=True):
        for value, exact in zip(values, moved([arb(float(v)) for v in row], how), strict=True):
            assert float(value) == pytest.approx(float(exact), abs=1e-12)
    (gradient,) = torch.autograd.grad(got.square().sum(), z)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0

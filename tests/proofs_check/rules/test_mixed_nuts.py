"""The map of MixedNUTS as released: the judge's bounds hold on grids and at corners, and are close."""

from __future__ import annotations

import math

import numpy as np
import pytest
from boxes_of_logits import boxes, centered, maps, points
from flint import arb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certmix.attacks.adaptive_weight import moved
from proofs_check import certificate as c
from proofs_check.certificate import MixedNuts
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules import adaptive, prove
from proofs_check.rules import mixed_nuts as rule
from proofs_check.rules.adaptive import AdaptiveMargin
from proofs_check.rules.case import Case
from verifiers.network.module import build


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


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), maps)
@example([1e-283] * 4, MixedNuts(1.0, 0.0, 0.5))  # what is left of the mean is a ball around 0
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


# ---------------------------------------------------------------- the rule


def line(slopes: list[float], offsets: list[float]) -> c.PlainNetwork:
    """Logits slope x + offset of one number x."""
    weight, bias = np.array(slopes, dtype=np.float32)[:, None], np.array(offsets, dtype=np.float32)
    return build([c.Input((1,)), c.Linear((0,), weight, bias)])


def least_alpha(net: c.PlainNetwork, radius: float, how: MixedNuts, predicted: int = 0) -> float:
    """The least weight of h that is proven at x = 0 (1: none is), to 2^-30."""
    x = np.zeros(1, dtype=np.float32)
    case = Case(prepare(net), None, x)
    low, high = 0.5, 1.0
    for _ in range(30):
        alpha = (low + high) / 2
        claim = c.Claim("Linf", radius, alpha, 1.0, predicted, "robust", None, "real", net.sha256, None,
                        parse.array_sha256(x), None, c.Adaptive(None, how))  # fmt: skip
        try:
            prove("adaptive_margin", claim, AdaptiveMargin(None, None), case)
            high = alpha
        except c.RejectedError:
            low = alpha
    return high


def needed(of_y: arb, rivals: list[arb]) -> float:
    """The least weight of h at which Lemma 3.2 holds, from M(z)."""
    e = [(w - of_y).exp() for w in rivals]
    margin = min(float((1 - v) / (1 + sum(e, arb(0)))) for v in e)
    return 1 / (1 + margin)


@pytest.mark.parametrize(
    "how", [MixedNuts(1.0, 0.5, 1.0), MixedNuts(3.0, -0.25, 2.0), MixedNuts(0.5, 0.0, 0.5)], ids=str
)
@pytest.mark.parametrize("radius", [0.0, 0.25])
def test_what_is_proven_is_what_the_ends_of_the_ball_show(how: MixedNuts, radius: float) -> None:
    """z = (2 + x, -1 - x, -x): no less than the ends need, and on a point no more than with 0 for a rival below it."""
    net = line([1, -1, -1], [2, -1, 0])
    found = least_alpha(net, radius, how)
    for x in (-radius, radius):
        of_y, *rivals = moved([arb(2 + x), arb(-1 - x), arb(-x)], how)
        assert found >= needed(of_y, rivals) - 1e-8
    if radius == 0:
        assert found <= needed(of_y, [arb(0).max(w) for w in rivals]) + 1e-6


def test_a_class_that_the_map_puts_first_though_its_logit_is_the_smaller_is_not_proven() -> None:
    """Below its least value GELU falls: at a shift of -3 the smaller of two logits has the larger M."""
    how, z = MixedNuts(1e4, -3.0, 1.0), [arb(2), arb(0)]
    assert moved(z, how)[1] > moved(z, how)[0]
    assert least_alpha(line([0, 0], [2, 0]), 0.0, how, predicted=1) > 1 - 2.0**-29


@pytest.mark.parametrize(
    "how", [MixedNuts(1e308, 0.0, 1e308), MixedNuts(1.0, 1e308, 1.0), MixedNuts(5e-324, 0.0, 5e-324)], ids=str
)
@pytest.mark.parametrize("offsets", [[3e38, -3e38], [1e-45, 0.0], [1.0, 1.0]])
def test_maps_of_any_size_prove_nothing_false(how: MixedNuts, offsets: list[float]) -> None:
    alpha = arb(least_alpha(line([0, 0], offsets), 0.0, how))
    of_y, rival = moved([arb(float(v)) for v in np.float32(offsets)], how)
    e = (rival - of_y).exp()
    assert alpha > 1 - 2.0**-29 or not alpha * (1 - e) <= (1 - alpha) * (1 + e)


@pytest.mark.parametrize("value", [arb("nan"), arb(0, math.inf)])
def test_what_is_not_a_number_bounds_nothing(value: arb) -> None:
    """No logit within the judge's range leads there; M of it must not come out as 0."""
    for found in (
        rule.mapped(value, MixedNuts(1.0, 0.0, 1.0)),
        adaptive.transform(value, c.Transform(0.0, 1.0, False)),
        adaptive.transform(value, c.Transform(0.0, 1.0, True)),
    ):
        assert not found < 1
        assert not found > -1

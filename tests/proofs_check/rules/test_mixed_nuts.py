"""The map of MixedNUTS as released: the judge's bounds hold on grids and at corners, and are close."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from boxes_of_logits import boxes, centered, exact_differences, maps, points
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

ROUNDED = 1e-6  # relative: of bounds whose tightness is compared, not their truth


@given(boxes, maps, st.floats(0, 1), st.data())
@settings(max_examples=60, deadline=None)
def test_the_judges_bounds_hold_at_every_point_of_a_grid(
    box: list[tuple[float, float]], how: MixedNuts, share: float, data: st.DataObject
) -> None:
    """Of the points of a box whose differences are at most some of those in it."""
    y = data.draw(st.integers(0, len(box) - 1))
    lower, upper = centered(box)
    at_most = exact_differences(box, y)
    centre = [c - box[y][0] for c, _ in box]
    differences = [d if j == y else arb(float(d) * share + centre[j] * (1 - share)) for j, d in enumerate(at_most)]
    with mock.patch.object(rule, "PIECES", data.draw(st.sampled_from([1, 2, 64]))):
        found = rule.pushed(lower, upper, differences, y, how)
    alone = rule.pushed(lower, upper, [arb(1e6)] * len(box), y, how)
    checked = 0
    for z in points(box):
        values = moved([arb(v) for v in z], how)
        within = all(arb(v) - arb(z[y]) <= d for v, d in zip(z, differences, strict=True))
        checked += within
        for j, value in enumerate(values):
            if j != y:
                assert not value - values[y] > alone[j]
                assert not (within and value - values[y] > found[j])
    for j in range(len(box)):
        if j != y:
            # knowing more is never worse, in however few pieces, but for what the numbers of a piece round differently
            assert not found[j] > alone[j] + ROUNDED * abs(alone[j])
    assert checked or share < 1


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), maps)
@example([1e-283] * 4, MixedNuts(1.0, 0.0, 0.5))  # what is left of the mean is a ball around 0
@settings(max_examples=60, deadline=None)
def test_on_a_point_the_bounds_are_the_value_or_what_gelu_can_be_elsewhere(z: list[float], how: MixedNuts) -> None:
    lower, upper = centered([(v, 0.0) for v in z])
    values = moved([arb(v) for v in z], how)
    found = rule.pushed(lower, upper, exact_differences([(v, 0.0) for v in z], 0), 0, how)
    for j in range(1, len(z)):
        highest, lowest = max(float(values[j]), 0.0), min(float(values[0]), -how.scale * 0.17**how.power)
        near = 1e-6 * how.scale * (1 + abs(float(values[j])) + abs(float(values[0])))
        least = float(values[0]) if float(values[0]) > 0 else lowest
        assert float(found[j].upper()) <= highest - least + near


@pytest.mark.parametrize("pieces", [1, 2, 8, 64])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_bounds_hold_where_both_logits_move_together(
    pieces: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along z_y = z_j + 1 the difference is the largest that is known, wherever v_y is in its piece."""
    box, how = [(1.0, 1.5), (0.0, 1.5), (-5.0, 0.0)], MixedNuts(1.0, 0.0, power)
    monkeypatch.setattr(rule, "PIECES", pieces)
    found = rule.pushed(*centered(box), [arb(0), arb(-1), arb(0)], 0, how)[1]
    for s in np.linspace(-1.5, 1.5, 61):
        values = moved([arb(1 + s), arb(s), arb(-5)], how)
        assert not values[1] - values[0] > found


@pytest.mark.parametrize(("low", "high"), [(arb(0.5), arb(1, 0.5)), (arb(-0.3), arb(1.5))])
def test_pieces_reach_up_to_the_upper_end(low: arb, high: arb) -> None:
    """n = (1.5, 1.2, -2.7), of which the first is known by its bounds, or to be in 1 +- 1/2 by a ball."""
    how = MixedNuts(1.0, 0.0, 0.5)
    lower, upper = [low, arb(0.2), arb(-2.7)], [high, arb(1.2), arb(-0.7)]
    found = rule.pushed(lower, upper, [arb(0), arb(-0.3), arb(0)], 0, how)[1]
    values = [rule.gelu(n / (arb(10.98) / 2 + arb(10) ** -8).sqrt()).sqrt() for n in (arb(1.5), arb(1.2))]
    assert not found < values[1] - values[0]


def test_a_ball_around_zero_counts_up_to_its_upper_end() -> None:
    assert not rule.gelu_up_to(arb(0, 1)) < rule.gelu(arb(1))


def test_a_negative_value_is_least_far_from_zero_where_the_others_are_largest() -> None:
    """n = (-1, -3, 4)."""
    lower, upper = [arb(-1), arb(-3), arb(2)], [arb(-1), arb(-1), arb(4)]
    assert not rule.normed(lower, upper, 0) < -1 / (arb(26) / 2 + arb(10) ** -8).sqrt()


@pytest.mark.parametrize(
    ("lower", "upper", "point"),
    [((2, 1, -3), (2, 1, -1), (2, 1, -3)), ((2.0**-17, -(2.0**-17)), (2.0**-17, -(2.0**-17)), (2.0**-17, -(2.0**-17)))],
)
def test_differences_count_as_little_as_the_largest_values_let_them(
    lower: tuple[float, ...], upper: tuple[float, ...], point: tuple[float, ...]
) -> None:
    ends = [[arb(v) for v in end] for end in (lower, upper)]
    d = [arb(u) - arb(lower[0]) for u in upper]
    root = (sum((arb(n) ** 2 for n in point), arb(0)) / (len(point) - 1) + arb(10) ** -8).sqrt()
    values = [rule.gelu(arb(n) / root + 5) for n in point]
    assert not rule.pushed(*ends, d, 0, MixedNuts(1.0, 5.0, 1.0))[1] < values[1] - values[0]


def test_pieces_cover_what_the_predicted_class_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    gelu_up_to, seen = rule.gelu_up_to, list[arb]()
    monkeypatch.setattr(rule, "gelu_up_to", lambda v: seen.append(v) or gelu_up_to(v))
    lower, upper = [arb(-0.3), arb(0.2), arb(-2.7)], [arb(1.5), arb(1.9), arb(-0.7)]
    rule.pushed(lower, upper, [arb(0)] * 3, 0, MixedNuts(1.0, 0.0, 1.0))
    assert any(v >= rule.normed(lower, upper, 0).lower() for v in seen[rule.PIECES : 2 * rule.PIECES])


def test_differences_certify_what_single_logits_do_not() -> None:
    """z_y = z_j + 1 everywhere, and both move by 1.5: no interval of v_y is above that of v_j."""
    box = [(1.0, 1.5), (0.0, 1.5), (-9.0, 0.0)]
    lower, upper = centered(box)
    how = MixedNuts(100.0, 0.0, 1.0)
    assert float(rule.pushed(lower, upper, [arb(0), arb(1e6), arb(1e6)], 0, how)[1]) > 0
    assert float(rule.pushed(lower, upper, [arb(0), arb(-1), arb(1e6)], 0, how)[1].upper()) < 0


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

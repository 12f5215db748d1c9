"""The rule of adaptive mixes against closed forms: the least alpha that it proves is the one the formulas say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from flint import arb

from proofs_check import certificate as c
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules import adaptive
from proofs_check.rules.adaptive import AdaptiveMargin
from proofs_check.rules.case import Case
from verifiers.network.module import build

F32 = np.float32
X = np.zeros(1, dtype=F32)
HAIR = 1e-9  # far above float64 rounding


def line(slopes: list[float], offsets: list[float]) -> c.PlainNetwork:
    """Logits slope x + offset of one number x."""
    weight, bias = np.array(slopes, dtype=F32)[:, None], np.array(offsets, dtype=F32)
    return build([c.Input((1,)), c.Linear((0,), weight, bias)])


def claim_of(robust: c.PlainNetwork, alpha: float, radius: float, how: c.Adaptive, **fields: object) -> c.Claim:
    made = c.Claim(
        "Linf", radius, alpha, 1.0, 0, "robust", None, "real", robust.sha256, None, parse.array_sha256(X), None, how
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def proves(
    robust: c.PlainNetwork, alpha: float, radius: float, how: c.Adaptive, of_alpha: c.PlainNetwork | None = None
) -> frozenset[c.Assumption] | str:
    """The assumptions, or the step that failed."""
    case = Case(prepare(robust), None, X, None if of_alpha is None else prepare(of_alpha))
    try:
        return adaptive.adaptive_margin(claim_of(robust, alpha, radius, how), AdaptiveMargin(None, None), case)
    except c.RejectedError as error:
        return error.step


SURE = line([0, 0], [40, 0])  # a margin of 1 but for 1e-17


@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (0.6, 0.9), (0.7, 0.7), (0.55, 0.8)])
@pytest.mark.parametrize(("slope", "offset"), [(0.0, 0.0), (0.0, 1.5), (0.0, -1.0), (2.0, 0.5), (-3.0, 1.0)])
@pytest.mark.parametrize("radius", [0.0, 0.25])
def test_alpha_is_proven_up_to_its_least_value_on_the_ball(
    low: float, high: float, slope: float, offset: float, radius: float
):
    net = line([0.0, slope], [0.0, offset])
    how = c.Adaptive(c.InputAlpha(net.sha256, low, high), None)
    least = low + (high - low) / (1 + math.exp(-(offset - abs(slope) * radius)))
    assert proves(SURE, least - HAIR, radius, how, net) == frozenset()
    if least + HAIR < 1:
        assert proves(SURE, least + HAIR, radius, how, net) == "alpha"


def test_the_network_of_alpha_must_be_at_hand():
    how = c.Adaptive(c.InputAlpha(SURE.sha256, 0.5, 1.0), None)
    assert proves(SURE, 0.55, 0.0, how, None) == "alpha"


def test_a_declared_bound_of_alpha_is_an_assumption_and_must_be_large_enough():
    trusted = frozenset({c.Assumption.ALPHA_BOUND_TRUSTED})
    how = c.Adaptive(c.InputAlpha(None, 0.75, 1.0), None)
    assert proves(SURE, 0.75, 0.1, how) == trusted
    assert proves(SURE, 0.75 + HAIR, 0.1, how) == "alpha"
    together = dataclasses.replace(how, transform=c.Transform(0.0, 1.0, True))
    assert proves(SURE, 0.75, 0.1, together) == trusted
    narrow = line([0, 0], [0.01, 0])  # hardly a margin
    assert proves(narrow, 0.75, 0.1, how) == "margin"


def test_the_rule_is_for_adaptive_mixes():
    claim = dataclasses.replace(claim_of(SURE, 0.9, 0.0, c.Adaptive(None, c.Transform(0, 1, True))), adaptive=None)
    with pytest.raises(c.RejectedError, match="for adaptive mixes"):
        adaptive.adaptive_margin(claim, AdaptiveMargin(None, None), Case(prepare(SURE), None, X))


def transformed(value: float, how: c.Transform) -> float:
    moved = value + how.shift
    if how.clamp:
        return max(moved, 0.0) ** how.power
    return math.copysign(abs(moved) ** how.power, moved)


TRANSFORMS = [c.Transform(s, p, b) for s in (0.0, 0.5, -1.25) for p in (0.5, 1.0, 1.5, 3.0) for b in (True, False)]


@pytest.mark.parametrize("how", TRANSFORMS, ids=str)
@pytest.mark.parametrize("offsets", [[1.5, 0.25, -0.75], [0.5, -0.625, -1.0], [2.0, 1.75, 1.25]])
def test_transformed_margins_at_a_point_are_the_formulas(how: c.Transform, offsets: list[float]):
    net = line([0, 0, 0], offsets)
    e = [math.exp(transformed(v, how) - transformed(offsets[0], how)) for v in offsets]
    least = max(sum(e) / (sum(e) + 1 - e[i]) for i in (1, 2))
    if least + HAIR < 1:  # two clamped logits tie: nothing is proven
        assert proves(net, least + HAIR, 0.0, c.Adaptive(None, how)) == frozenset()
    assert proves(net, least - HAIR, 0.0, c.Adaptive(None, how)) == "margin"


@pytest.mark.parametrize("how", TRANSFORMS, ids=str)
def test_logits_that_move_together_are_bounded_together_where_the_transform_is_convex(how: c.Transform):
    """z_0 = x + 3 and z_1 = x + 1 on |x| <= 1/2."""
    net = line([1, 1], [3, 1])
    together = how.clamp and how.power >= 1
    reach = transformed(0.5 if together else 1.5, how) - transformed(2.5, how)
    least = (1 + math.exp(reach)) / 2
    assert proves(net, least + HAIR, 0.5, c.Adaptive(None, how)) == frozenset()
    assert proves(net, least - HAIR, 0.5, c.Adaptive(None, how)) == "margin"


@pytest.mark.parametrize("clamp", [True, False])
def test_zero_stays_zero_and_an_interval_has_no_power(clamp: bool):
    how = c.Transform(0.0, 0.5, clamp)
    assert adaptive._power(arb(0), how) == 0
    assert adaptive._power(arb(-4), how).overlaps(arb(0 if clamp else -2))
    with pytest.raises(c.RejectedError, match="not one number"):
        adaptive._power(arb(1, 0.25), how)
    ends = adaptive.transform(arb(0, 4), how)
    assert ends.contains(arb(2))
    assert ends.contains(arb(0 if clamp else -2))

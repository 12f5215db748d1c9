"""The exponential form on linear nets, where the truth is known: F is convex, largest at a corner of the box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import example, given
from hypothesis import strategies as st

from certmix.records.lines import certificate_line
from proofs_check.certificate import Accepted, Claim, Input, Linear, PlainNetwork
from proofs_check.judge import check
from proofs_check.kernel import bounds
from proofs_check.kernel.bounds import Ball, prepare, value_bounds
from proofs_check.kernel.bounds import differences as box_of
from proofs_check.kernel.rounding import arb_up
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import Differences, rivals
from proofs_check.rules.margin.exponential import _above_concave, chord, upper_of
from proofs_check.rules.margin.rule import NetworkMargin, box_proves
from verifiers.network.module import build

SIZE = 3


def random_net(seed: int, classes: int) -> tuple[PlainNetwork, np.ndarray, int]:
    """A linear net, an input and the class of its largest logit."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, SIZE)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    x = rng.random(SIZE).astype(np.float32)
    y = int((weight.astype(float) @ x + bias).argmax())
    bias[y] += np.float32(rng.uniform(0.5, 4.0))
    return build([Input((SIZE,)), Linear((0,), weight, bias)]), x, y


def accepted(net: PlainNetwork, x: np.ndarray, y: int, radius: float, alpha: float, temperature: float) -> bool:
    claim = Claim(
        "Linf", radius, alpha, temperature, y, "robust", None, "real", net.sha256, None, parse.array_sha256(x), None
    )
    found = parse.line(certificate_line(0, 0, "margin", claim, "network_margin", NetworkMargin(None)), EVIDENCE)
    assert isinstance(found, parse.Certificate)
    return isinstance(check(found, Case(prepare(net), None, x)), Accepted)


def true_at_corners(net: PlainNetwork, x: np.ndarray, y: int, radius: float, alpha: float, temperature: float) -> bool:
    """Whether alpha (h_y - h_i) > 1 - alpha for every i at every corner of the ball, by enclosures."""
    node = net.nodes[1]
    assert isinstance(node, Linear)
    for signs in itertools.product((-1, 1), repeat=SIZE):
        point = [arb(float(v)) + s * arb(radius) for v, s in zip(x, signs, strict=True)]
        logits = [
            arb(float(b)) + sum((arb(float(w)) * p for w, p in zip(row, point, strict=True)), arb(0))
            for row, b in zip(node.weight, node.bias, strict=True)
        ]
        e = [arb(1) if j == y else (arb(temperature) * (z - logits[y])).exp() for j, z in enumerate(logits)]
        if not all(arb(alpha) * (1 - e[i]) > (1 - arb(alpha)) * sum(e, arb(0)) for i in range(len(e)) if i != y):
            return False
    return True


def largest(passes) -> float:
    """Largest radius of a fine geometric grid that passes, going up until the first that does not."""
    best = 0.0
    for radius in np.geomspace(0.01, 4, 200):
        if not passes(float(radius)):
            break
        best = float(radius)
    return best


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.51, 1.0), st.floats(0.25, 8.0), st.floats(0, 3))
def test_what_is_accepted_is_true_at_every_corner(seed, classes, alpha, temperature, radius):
    net, x, y = random_net(seed, classes)
    if accepted(net, x, y, radius, alpha, temperature):
        assert true_at_corners(net, x, y, radius, alpha, temperature)


def test_the_form_proves_more_than_the_box_and_never_less():
    further = 0
    for seed in range(25):
        net, x, y = random_net(seed, 6)
        prepared = prepare(net)

        def box(radius: float, net=net, x=x, y=y, prepared=prepared) -> bool:
            claim = Claim("Linf", radius, 0.8, 1.0, y, "robust", None, "real", net.sha256, None, "0" * 64, None)
            _, upper = box_of(value_bounds(prepared, Ball(x, radius, "Linf", None), None), y)
            return all(box_proves(upper, i, claim) for i in rivals(claim, 6))

        by_box = largest(box)
        by_both = largest(lambda r, net=net, x=x, y=y: accepted(net, x, y, r, 0.8, 1.0))
        assert by_both >= by_box
        further += by_both > by_box
    assert further >= 6  # grid steps are 3 %, so only clear gains count


@given(
    st.lists(st.tuples(st.floats(-30, 5), st.floats(0, 20)), min_size=2, max_size=6),
    st.floats(0.0, 1.0),
    st.floats(0.1, 10),
    st.data(),
)
def test_a_chord_lies_above_the_sum_wherever_it_could_reach_the_threshold(box, alpha, temperature, data):
    k = len(box) + 1
    lower = np.array([0.0] + [low for low, _ in box])
    upper = np.array([0.0] + [low + width for low, width in box])
    claim = Claim("Linf", 0.1, alpha, temperature, 0, "robust", None, "real", "0" * 64, None, "0" * 64, None)
    rival = data.draw(st.integers(1, k - 1))
    of_g = arb(data.draw(st.sampled_from([-1.0, -0.5, -1e-9, 0.0, 1e-9, 0.25, 1.0])))
    found = chord(Differences(lower, upper, None, np.zeros(k)), rival, claim, of_g)  # type: ignore[arg-type]
    share = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.999, 1.0]), min_size=k, max_size=k))
    d = [
        arb(float(lo)) + arb(s) * (arb(float(hi)) - arb(float(lo)))
        for lo, hi, s in zip(lower, upper, share, strict=True)
    ]
    known = (1 - arb(alpha)) * of_g
    weights = [arb(0) if j == 0 else (arb(alpha) if j == rival else 0) - known for j in range(k)]
    value = sum((w * (arb(temperature) * v).exp() for w, v in zip(weights, d, strict=True)), arb(0))
    line = found.intercept + sum((arb(float(c)) * v for c, v in zip(found.coefficients, d, strict=True)), arb(0))
    if value > found.threshold:
        assert not line < value


@given(st.integers(0, 10**6), st.integers(2, 40))
def test_what_the_sum_of_coefficients_rounds_is_charged(seed: int, classes: int):
    """c . d = c . z - (sum of c) z_y, exactly; logits far larger than their differences."""
    rng = np.random.default_rng(seed)
    y = int(rng.integers(classes))
    z = ((rng.normal(size=classes) + rng.choice([0, 2.0**20])) * rng.choice([1.0, -1.0])).astype(np.float32)
    prepared = prepare(build([Input((classes,)), Linear((0,), np.eye(classes, dtype=np.float32), z)]))
    values = value_bounds(prepared, Ball(np.zeros(classes, np.float32), 0.0, "Linf", None), None)
    coefficients = rng.uniform(size=(3, classes)) * 2.0 ** rng.integers(-20, 20, (3, classes))
    coefficients[:, y] = 0.0

    def exactly(_: object, forms: np.ndarray, __: object) -> np.ndarray:
        return np.array([arb_up(sum((arb(float(a)) * arb(float(v)) for a, v in zip(form, z, strict=True)), arb(0)))
                         for form in forms])  # fmt: skip

    error = rng.choice([0.0, 2.0**-20, 3.0]) * rng.uniform(size=classes)  # of float32, in the claims that speak of it
    error[y] = 0.0
    found = Differences(z - z[y], z - z[y], values, error)
    with pytest.MonkeyPatch.context() as patch, ctx.workprec(400):
        patch.setattr(bounds, "functionals", exactly)
        upper = upper_of(found, coefficients, y, [0, 0, 0])
        for row, bound in zip(coefficients, upper, strict=True):
            d = [arb(float(v)) - arb(float(z[y])) for v in z]
            off = sum((arb(float(a)) * arb(float(e)) for a, e in zip(row, error, strict=True)), arb(0))
            exact = sum((arb(float(a)) * v for a, v in zip(row, d, strict=True)), off)
            assert exact <= arb(float(bound))
            assert arb(float(bound)) <= exact + 1e-12 * float(row.sum() * (np.abs(z).max() + error.max())) + 1e-100


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_extreme_logits_are_rejected_or_right_and_never_an_error(scale: float):
    net, x, y = random_net(3, 4)
    node = net.nodes[1]
    assert isinstance(node, Linear)
    big = build([net.nodes[0], Linear((0,), (node.weight * np.float32(scale)), node.bias * np.float32(scale))])
    for temperature in (1e-300, 1.0, 1e300):
        for radius in (0.0, 1e-3, 1.0):
            if accepted(big, x, y, radius, 0.8, temperature):
                assert true_at_corners(big, x, y, radius, 0.8, temperature)


@given(
    weight=st.floats(-3, 1),
    blurred=st.floats(0, 0.5),
    temperature=st.floats(0.1, 4),
    slope=st.floats(-5, 5),
    ends=st.tuples(st.floats(-3, 3), st.floats(0, 4)),
    where=st.floats(0, 1),
)
@example(weight=-1.0, blurred=0.0, temperature=1.0, slope=-5.0, ends=(-3.0, 4.0), where=1.0)
@example(weight=-1.0, blurred=0.0, temperature=1.0, slope=5.0, ends=(-3.0, 4.0), where=0.0)
@example(weight=-1.0, blurred=0.0, temperature=1.0, slope=5.0, ends=(-3.0, 1.0), where=0.0)
def test_any_line_of_a_weight_that_may_be_negative_is_charged_for(weight, blurred, temperature, slope, ends, where):
    """Whatever slope stands in the chord, also one that is no tangent's."""
    low, high = arb(ends[0]), arb(ends[0] + ends[1])
    middle, t = low + (high - low) * arb(where), arb(temperature)
    bound = _above_concave(arb(weight, blurred), t, slope, low, high)
    for true in (weight - blurred, weight, weight + blurred):
        value = arb(true) * (t * middle).exp() - arb(slope) * middle
        assert not value > bound

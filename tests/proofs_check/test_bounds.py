"""The judge's bounds against exact rational arithmetic, and against a plain float64 CROWN. No tolerance below."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import exact_network as en
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from proofs_check import bounds
from proofs_check import certificate as c
from proofs_check.relaxations import relu_slope
from verifiers.plain import PlainModule

Rng = np.random.Generator


def slope_bytes(rng: Rng, network: c.PlainNetwork) -> bytes | None:
    """A witness at random: none, all 0, all 255, or noise; with one of the three lengths allowed."""
    n = sum(int(np.prod(s)) for s, node in zip(network.shapes, network.nodes, strict=True) if relu_slope(node) is not None)
    kind = rng.integers(4)
    if n == 0 or kind == 0:
        return None
    rows = int(rng.choice([1, 1 + network.classes, 1 + 2 * network.classes]))
    raw = rng.integers(0, 256, n * rows) if kind == 1 else np.full(n * rows, 255 * int(kind == 2))
    return zlib.compress(raw.astype(np.uint8).tobytes())


def steepest(network: c.PlainNetwork, ball: bounds.Ball, forms: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Gradients at the centre of each form of the logits: where a bound is most likely to fail."""
    x = torch.tensor(ball.center.astype(np.float64)[None], requires_grad=True)
    logits = PlainModule(network).double()(x)[0]
    return [torch.autograd.grad(logits @ torch.tensor(f), x, retain_graph=True)[0][0].numpy() for f in forms]


def violations(values: list[en.Exact], found: bounds.Values) -> Iterator[str]:
    for k, value in enumerate(values):
        for bound, sign in zip(found[k], (1, -1), strict=True):
            for cell, (v, b) in enumerate(zip(value.ravel(), bound.ravel(), strict=True)):
                if sign * (v - en.rational(b)) < 0:
                    yield f"node {k} cell {cell}: {float(v)} beyond {b}"


def check_network(rng: Rng, network: c.PlainNetwork, ball: bounds.Ball) -> int:
    """Every bound the judge gives against every exact point; returns the number of bounds."""
    data = slope_bytes(rng, network)
    hints = None if data is None else bounds.witness(data, network)
    prepared = bounds.prepare(network)
    found = bounds.value_bounds(prepared, ball, hints)
    y = int(rng.integers(network.classes))
    lower, upper = bounds.differences(found, y)
    forms = rng.normal(size=(3, network.classes))
    reach = bounds.functional_upper(prepared, ball, forms, hints, list(rng.integers(network.classes, size=3)), y)
    pairs = np.eye(network.classes) - np.eye(network.classes)[y]
    for point in en.points(rng, ball, steepest(network, ball, np.concatenate([forms[:2], pairs, -pairs]))):
        values = en.exact_values(network, point)
        assert not list(violations(values, found)), [type(n).__name__ for n in network.nodes]
        logits = values[-1]
        for j, d in enumerate(logits - logits[y]):
            assert en.rational(lower[j]) <= d <= en.rational(upper[j])
        for bound, value in zip(reach, en.exact(forms) @ logits, strict=True):
            assert value <= en.rational(bound)
    return 2 * sum(int(np.prod(s)) for s in network.shapes) + 2 * network.classes + 3


def run(first_seed: int, wanted: int) -> int:
    checked, seed = 0, first_seed
    while checked < wanted:
        rng = np.random.default_rng(seed)
        network = en.random_network(rng, int(rng.integers(1, 9)))
        checked += check_network(rng, network, en.random_ball(rng, network.input_shape))
        seed += 1
    return checked


def test_no_exact_point_of_the_ball_violates_any_of_2000_bounds():
    assert run(1, 2_000) >= 2_000


@pytest.mark.slow
def test_no_exact_point_of_the_ball_violates_any_of_100000_bounds():
    assert run(10_000, 100_000) >= 100_000

"""The judge's bounds against exact rational arithmetic, and against a plain float64 CROWN. No tolerance below."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator

import exact_network as en
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.witness import SLOPED, Witness, decode
from verifiers.network.module import PlainModule, build

Rng = np.random.Generator


def slope_bytes(rng: Rng, network: c.PlainNetwork) -> bytes | None:
    """A witness at random: none, all 0, all 255, or noise; with one of the three lengths allowed."""
    n = sum(int(np.prod(s)) for s, node in zip(network.shapes, network.nodes, strict=True) if isinstance(node, SLOPED))
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
    for k, (value, box) in enumerate(zip(values, en.boxes(found), strict=True)):
        for bound, sign in zip(box, (1, -1), strict=True):
            for cell, (v, b) in enumerate(zip(value.ravel(), bound.ravel(), strict=True)):
                if sign * (v - en.rational(b)) < 0:
                    yield f"node {k} cell {cell}: {float(v)} beyond {b}"


def check_network(rng: Rng, network: c.PlainNetwork, ball: bounds.Ball) -> int:
    """Every bound the judge gives against every exact point; returns the number of bounds."""
    data = slope_bytes(rng, network)
    hints = None if data is None else decode(data, network)
    prepared = bounds.prepare(network)
    found = bounds.value_bounds(prepared, ball, hints)
    y = int(rng.integers(network.classes))
    lower, upper = bounds.differences(found, y)
    forms = rng.normal(size=(3, network.classes))
    classes = rng.integers(network.classes, size=3)
    slope_rows = [0 if hints is None else hints.row(1 + network.classes + int(j), network.classes) for j in classes]
    reach = bounds.functionals(found, forms, slope_rows)
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


def test_nodes_that_no_logit_depends_on_are_bounded_and_ignored():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 3)).astype(np.float32), np.zeros(3, dtype=np.float32)
    unused = [c.Linear((0,), weight, bias), c.Relu((1,)), c.Sigmoid((1,))]
    network = build([c.Input((3,)), *unused, c.Linear((0,), weight, bias)])
    assert check_network(rng, network, bounds.Ball(np.zeros(3, dtype=np.float32), 0.5, "L2", None)) > 0


def test_pooling_with_more_windows_than_input_cells_charges_every_window():
    rng = np.random.default_rng(1)
    for _ in range(30):
        conv = c.Conv2d((0,), en.weights(rng, 1, 1, 1, 1), en.weights(rng, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
        pool = c.MaxPool2d((1,), (6, 6), (1, 1), (5, 5, 5, 5))
        flat = c.Linear((3,), en.weights(rng, 2, 36), en.weights(rng, 2))
        network = build([c.Input((1, 1, 1)), conv, pool, c.Flatten((2,)), flat])
        check_network(rng, network, en.random_ball(rng, (1, 1, 1)))


# ---------------------------------------------------------------- as tight as CROWN in plain float64


def dense_steps(network: c.PlainNetwork) -> list[tuple[list[NDArray[np.float64]], NDArray[np.float64]] | None]:
    """Per affine node, its matrix for each input and its offset, read off torch in float64; None elsewhere."""
    module = PlainModule(network).double()
    steps: list[tuple[list[NDArray[np.float64]], NDArray[np.float64]] | None] = []
    for k, node in enumerate(network.nodes):
        if k == 0 or isinstance(node, SLOPED):
            steps.append(None)
            continue
        zeros = [torch.zeros((1, *network.shapes[i]), dtype=torch.float64) for i in bounds.inputs_of(node)]
        offset = module.node_value(k, node, zeros).reshape(-1)
        jacobians = torch.autograd.functional.jacobian(
            lambda *a, k=k, n=node: module.node_value(k, n, list(a)), tuple(zeros)
        )
        steps.append(([j.reshape(len(offset), -1).numpy() for j in jacobians], offset.numpy()))
    return steps


class PlainCrown:
    """CROWN with dense float64 matrices: unstable cells, box-intersected, the judge's slopes, no rounding counted."""

    def __init__(self, network: c.PlainNetwork, ball: bounds.Ball, hints: Witness | None) -> None:
        self.network, self.ball, self.hints, self.steps = network, ball, hints, dense_steps(network)
        center = ball.center.astype(np.float64).ravel()
        low, high = ball.domain or (-np.inf, np.inf)
        self.box = [(np.maximum(center - ball.radius, low), np.minimum(center + ball.radius, high))]
        for k, node in enumerate(network.nodes[1:], start=1):
            i = bounds.inputs_of(node)[0]
            step = self.steps[k]
            if step is None:
                self.refine(i)
                slope = getattr(node, "slope", 0.0)
                self.box.append(tuple(np.maximum(v, slope * v) for v in self.box[i]))
            else:
                ends = [self.box[j] for j in bounds.inputs_of(node)]
                mid = step[1] + sum(m @ (a + b) / 2 for m, (a, b) in zip(step[0], ends, strict=True))
                radius = sum(np.abs(m) @ (b - a) / 2 for m, (a, b) in zip(step[0], ends, strict=True))
                self.box.append((mid - radius, mid + radius))

    def refine(self, k: int) -> None:
        low, high = self.box[k]
        cells = np.flatnonzero((low < 0) & (high > 0))
        eye = np.eye(len(low))[cells]
        low[cells] = np.maximum(low[cells], -self.upper(k, -eye, 0))
        high[cells] = np.minimum(high[cells], self.upper(k, eye, 0))

    def slopes(self, k: int, low: NDArray[np.float64], high: NDArray[np.float64], row: int) -> NDArray[np.float64]:
        slope = getattr(self.network.nodes[k], "slope", 0.0)
        if self.hints is None:
            inside = np.where(high > -low, 1.0, 0.0)
        else:
            start = sum(
                int(np.prod(self.network.shapes[j])) for j in range(k) if isinstance(self.network.nodes[j], SLOPED)
            )
            inside = self.hints.slopes[row, start : start + len(low)]
        return np.where(low >= 0, 1.0, np.where(high <= 0, slope, np.maximum(inside, slope)))

    def upper(self, start: int, forms: NDArray[np.float64], row: int) -> NDArray[np.float64]:
        pending, constant = {start: forms}, np.zeros(len(forms))
        for k in range(start, 0, -1):
            if k not in pending:
                continue
            rows, step, inputs = pending.pop(k), self.steps[k], bounds.inputs_of(self.network.nodes[k])
            if step is None:
                low, high = self.box[inputs[0]]
                slope = getattr(self.network.nodes[k], "slope", 0.0)
                chord = (high - slope * low) / np.where(high > low, high - low, 1.0)
                over = np.where(low >= 0, 1.0, np.where(high <= 0, slope, chord))
                constant = constant + np.maximum(rows, 0) @ np.where((low < 0) & (high > 0), high - over * high, 0.0)
                under = self.slopes(k, low, high, row)
                parts = [np.maximum(rows, 0) * over + np.minimum(rows, 0) * under]
            else:
                constant = constant + rows @ step[1]
                parts = [rows @ m for m in step[0]]
            for i, part in zip(inputs, parts, strict=True):
                pending[i] = pending.get(i, 0.0) + part
        return constant + self.input_reach(pending[0])

    def input_reach(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.box[0]
        box = np.maximum(rows, 0) @ high + np.minimum(rows, 0) @ low
        order = {"Linf": 1, "L2": 2, "L1": np.inf}[self.ball.norm]
        reach = rows @ self.ball.center.astype(np.float64).ravel()
        return np.minimum(box, reach + self.ball.radius * np.linalg.norm(rows, ord=order, axis=1))


def open_cells(low: NDArray[np.float64], high: NDArray[np.float64]) -> list[bool]:
    """Cells of either sign; those of next to no width do not count."""
    return ((low < 0) & (high > 0) & (high - low > 1e-9)).tolist()


def compare_with_crown(rng: Rng) -> int:
    """2 where the judge's bounds were compared (and are as tight), 0 where the comparison means nothing."""
    kinds = ("linear", "conv", "norm", "shift", "scale", "divide", "relu", "leaky", "average", "pad", "slice", "concat",
             "add", "residual")  # fmt: skip
    network = en.random_network(rng, int(rng.integers(2, 9)), kinds)
    ball = en.random_ball(rng, network.input_shape)
    if ball.norm != "Linf":  # the judge cuts such balls by their domain, plain CROWN does not
        ball = dataclasses.replace(ball, domain=None)
    data = slope_bytes(rng, network)
    hints = None if data is None else decode(data, network)
    plain = PlainCrown(network, ball, hints)
    found = bounds.value_bounds(bounds.prepare(network), ball, hints)
    inputs = {bounds.inputs_of(node)[0] for node in network.nodes if isinstance(node, SLOPED)}
    boxes = en.boxes(found)
    if any(open_cells(*plain.box[k]) != open_cells(*(v.ravel() for v in boxes[k])) for k in inputs):
        return 0  # an end that is zero but for rounding: relaxations jump there
    forms = np.repeat(rng.normal(size=(1, network.classes)), 2, axis=0)
    row = int(rng.integers(len(hints.slopes))) if hints is not None else 0
    last = len(network.nodes) - 1
    judge = bounds.functionals(found, forms, None if hints is None else [row, row])
    crown = plain.upper(last, forms, row)
    width = np.abs(forms) @ (plain.box[last][1] - plain.box[last][0])
    scale = 1e-6 * np.maximum(np.abs(crown), width) + 1e-12 * max(np.abs(b).max() for b in plain.box[last])
    assert (judge <= crown + scale).all(), (judge, crown)
    for k in range(len(network.nodes)):
        (low, high), (a, b) = plain.box[k], (v.ravel() for v in boxes[k])
        largest = max(np.abs(v).max() for box in plain.box[: k + 1] for v in box)  # what cancelled on the way
        slack = 1e-6 * np.maximum(np.maximum(np.abs(low), np.abs(high)), high - low) + 1e-12 * (1 + largest)
        assert (a >= low - slack).all()
        assert (b <= high + slack).all()
    return 2


def test_the_judge_is_as_tight_as_crown_in_plain_float64_with_the_same_slopes():
    assert sum(compare_with_crown(np.random.default_rng(seed)) for seed in range(20)) >= 36


@pytest.mark.slow
def test_the_judge_is_as_tight_as_crown_in_plain_float64_on_500_networks():
    assert sum(compare_with_crown(np.random.default_rng(seed)) for seed in range(1000, 1500)) >= 900

"""Branching to the end against mixed-integer programming, on nets so small that both are exact."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from small_networks import mlp

from certmix.errors import UsageError
from certmix.models.model import Model
from certmix.provers.certify import certify
from certmix.provers.judging import check
from certmix.records.outcomes import Certified
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check.certificate import Accepted, Norm
from verifiers.network.module import PlainModule, build

WIDTHS = (3, 5, 4, 2)  # two classes: the margin is a monotone function of one logit difference


def model(network: c.PlainNetwork) -> Model:
    module = PlainModule(network).eval()
    return Model(module, network, network.classes, network.input_shape, "made for this test", 0.0)


def largest_difference(network: c.PlainNetwork, x: np.ndarray, y: int, radius: float, norm: Norm) -> float:
    """The largest d of the other class on the ball cut by [0, 1], by HiGHS on big-M constraints of interval bounds.

    Columns: the input, for L1 the sizes of its offset, then per ReLU its value and which side it is on."""
    size, rows, low, high = len(x), list[np.ndarray](), list[float](), list[float]()
    lower, upper = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
    linear = [n for n in network.nodes if isinstance(n, c.Linear)]
    hidden = sum(len(n.bias) for n in linear[:-1])
    total = size + size + 2 * hidden
    bounds_low, bounds_high = np.zeros(total), np.full(total, np.inf)
    bounds_low[:size], bounds_high[:size] = lower, upper
    bounds_high[size : 2 * size] = radius

    def add(row: np.ndarray, a: float, b: float) -> None:
        rows.append(row)
        low.append(a)
        high.append(b)

    unit = np.eye(total)
    for i in range(size):
        add(unit[size + i] - unit[i], -x[i], np.inf)
        add(unit[size + i] + unit[i], x[i], np.inf)
    if norm == "L1":
        add(unit[size : 2 * size].sum(0), -np.inf, radius)
    values, box, at = unit[:size], (lower, upper), 2 * size
    for node in linear[:-1]:
        w, bias = node.weight.astype(float), node.bias.astype(float)
        middle, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
        lo, hi = w @ middle - abs(w) @ half + bias, w @ middle + abs(w) @ half + bias
        n = len(bias)
        v, s, before = unit[at : at + n], unit[at + n : at + 2 * n], w @ values
        for k in range(n):
            bounds_high[at + n + k] = 1
            add(v[k] - before[k], bias[k], np.inf)
            add(v[k] - before[k] - min(lo[k], 0) * s[k], -np.inf, bias[k] - min(lo[k], 0))
            add(v[k] - max(hi[k], 0) * s[k], -np.inf, 0)
        values, box, at = v, (np.maximum(lo, 0), np.maximum(hi, 0)), at + 2 * n
    difference = linear[-1].weight[1 - y].astype(float) - linear[-1].weight[y].astype(float)
    integer = np.zeros(total)
    start = 2 * size
    for node in linear[:-1]:
        integer[start + len(node.bias) : start + 2 * len(node.bias)] = 1
        start += 2 * len(node.bias)
    found = milp(
        -(difference @ values), integrality=integer, bounds=Bounds(bounds_low, bounds_high),
        constraints=LinearConstraint(np.array(rows), low, high), options={"mip_rel_gap": 1e-9},
    )  # fmt: skip
    assert found.success
    return -found.fun + float(linear[-1].bias[1 - y] - linear[-1].bias[y])


@pytest.mark.parametrize("norm", ["Linf", "L1"])
@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 104))])
def test_branching_to_the_end_certifies_what_is_true_and_nothing_else(seed: int, norm: Norm):
    """Two classes, alpha .75: the claim is exp(d) < 1/2 on the ball. T puts the truth close on either side of it."""
    network = mlp(seed, WIDTHS)
    x = np.random.default_rng(seed).random(3, dtype=np.float32)
    logits = PlainModule(network)(torch.from_numpy(x)[None])[0]
    y, scale = int(logits.argmax()), 1.0 if norm == "Linf" else 3.0
    for radius in (0.15 * scale, 0.3 * scale):
        worst = largest_difference(network, x.astype(float), y, radius, norm)
        if worst < -1e-3:
            SEEN.append(certified_up_to(worst, network, x, norm, radius))


def certified_up_to(worst: float, network: c.PlainNetwork, x: np.ndarray, norm: Norm, radius: float) -> bool:
    """Asserts that the claim is certified where d <= worst proves it with 2 % to spare, and not where it refutes it.
    Whether that took a tree."""
    standard, by_tree = mlp(1, (len(x), 2)), False
    for slack, true in ((1.02, True), (0.999, False)):
        settings = Settings(
            0.75, norm, radius, temperature=math.log(0.5) / worst * slack, attack_steps=0, curves=False,
            branch_parts=20_000 if true else 30,
        )  # fmt: skip
        (found,) = certify(model(standard), model(network), x[None], settings=settings)
        assert isinstance(found, Certified) == true, (worst, settings.temperature, found)
        if isinstance(found, Certified):
            assert isinstance(check(found), Accepted)
            by_tree = json.loads(found.line)["evidence"]["rule"] == "branched_margin"
    return by_tree


SEEN: list[bool] = []


def test_some_of_these_needed_a_tree():
    assert not SEEN or sum(SEEN) >= len(SEEN) / 8


@pytest.mark.parametrize("n", [2, 4])
def test_in_l2_a_sum_of_absolute_values_is_certified_up_to_its_closed_form(n: int):
    """d = sum |x_k - 1/2| - c is at most r sqrt(n) - c on a ball around 1/2; bounds without splits see n r."""
    eye, ones = np.eye(n, dtype=np.float32), np.ones((1, 2 * n), dtype=np.float32)
    nodes: list[c.Node] = [
        c.Input((n,)),
        c.Linear((0,), np.vstack([eye, -eye]), np.repeat(np.float32([-0.5, 0.5]), n)),
        c.Relu((1,)),
        c.Linear((2,), np.vstack([0 * ones, ones]), np.float32([0.0, -1.0])),
    ]
    network = build(nodes)
    x, radius = np.full(n, 0.5, dtype=np.float32), 0.25
    assert certified_up_to(radius * math.sqrt(n) - 1, network, x, "L2", radius)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 60))])
def test_in_l2_branching_certifies_what_dense_sampling_leaves(seed: int):
    """In the plane, on a polar grid; between its points d changes by less than what is spared."""
    network = mlp(seed, (2, 6, 5, 2))
    x = np.random.default_rng(seed).random(2, dtype=np.float32)
    module = PlainModule(network).double()
    y, radius = int(module(torch.from_numpy(x)[None].double())[0].argmax()), 0.3
    angles, sizes = np.meshgrid(np.linspace(0, 2 * np.pi, 2000), np.linspace(0, radius, 300))
    points = np.stack([x[0] + sizes * np.cos(angles), x[1] + sizes * np.sin(angles)], -1).reshape(-1, 2)
    d = module(torch.from_numpy(np.clip(points, 0, 1)))  # of the ball, too: the box is convex and holds x
    worst = float((d[:, 1 - y] - d[:, y]).max())
    if worst < -0.05:
        certified_up_to(worst, network, x, "L2", radius)


@pytest.mark.parametrize(
    "changes",
    [
        {"branch": -1.0},
        {"branch_parts": -1},
        {"branch": float("nan")},
        {"branch": float("inf")},
        {"evidence": "engine"},
        {"semantics": "float32"},
        {"method": "lipschitz"},
    ],
)
def test_branching_says_what_it_does_not_go_with(changes: dict[str, object]):
    with pytest.raises(UsageError, match="branch"):
        dataclasses.replace(Settings(0.75, radius=0.1, branch=1.0), **changes)

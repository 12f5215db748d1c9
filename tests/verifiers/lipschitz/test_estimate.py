"""Estimates stay below the truth, and reach it where it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_networks import DUAL, NORMS, ORDER, array

from certmix.theorems.lipschitz import LogitsAtInputs, relaxed_constants
from proofs_check import certificate as c
from verifiers.lipschitz.constants import difference_forms, local_bounds, local_constants
from verifiers.lipschitz.estimate import Search, _project, estimate, estimate_moves, sampled
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls


def network(seed: int, pool: bool = False) -> c.PlainNetwork:
    g = np.random.default_rng(seed)

    head: list[c.Node] = [
        c.Input((1, 4, 4)),
        c.Conv2d((0,), array(g, 3, 1, 3, 3), array(g, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        c.Relu((1,)),
    ]
    if pool:
        head.append(c.MaxPool2d((2,), (2, 2), (2, 2), (0, 0, 0, 0)))
    size = 12 if pool else 48
    tail: list[c.Node] = [
        c.Flatten((len(head) - 1,)),
        c.Linear((len(head),), array(g, 6, size), array(g, 6)),
        c.Tanh((len(head) + 1,)),
        c.Linear((len(head) + 2,), array(g, 3, 6), array(g, 3)),
    ]
    return build([*head, *tail])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_sampled_stays_below_certified_and_estimate_stays_below_certified(
    norm: c.Norm, domain: tuple[float, float] | None
) -> None:
    for seed in range(4):
        net = network(seed, pool=seed % 2 == 0)
        maps = LinearMaps(net)
        x = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
        radius = torch.tensor([1e-4, 0.05, 0.8], dtype=torch.float64)
        predicted = PlainModule(net)(x).argmax(1)
        known = local_bounds(maps, x, radius, norm, domain)
        rows = difference_forms(3, predicted)
        samples = torch.randn((20, 3, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        samples = known.balls.center + samples * radius.reshape(3, 1, 1, 1)  # moved into the balls where outside
        found = estimate(maps, known.balls, rows, Search(8, 3, seed), samples)
        certified = local_constants(known, predicted)
        assert bool((sampled(maps, known.balls, rows, samples) <= found.quotient).all())
        assert bool((found.best <= certified).all())
        assert bool((found.best[torch.arange(3), predicted] == 0).all())
        move = (found.points - known.balls.center[:, None]).flatten(2)
        size = torch.linalg.vector_norm(move, ord=ORDER[norm], dim=2)
        assert bool((size <= radius[:, None]).all())
        if domain is not None:
            assert bool(((found.points >= 0) & (found.points <= 1)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_estimate_is_the_constant_and_not_a_hair_above(norm: c.Norm) -> None:
    g = np.random.default_rng(2)
    weight = g.normal(size=(4, 9)).astype(np.float32)
    net = build([c.Input((9,)), c.Linear((0,), weight, np.zeros(4, np.float32))])
    maps = LinearMaps(net)
    balls = Balls(torch.rand(2, 9).double(), torch.tensor([0.1, 2.0], dtype=torch.float64), norm, None)
    found = estimate(maps, balls, difference_forms(4, torch.tensor([1, 3])), Search(40, 4, dtype=torch.float64))
    for n, y in enumerate((1, 3)):
        rows = weight.astype(np.float64) - weight[y].astype(np.float64)
        exact = np.linalg.norm(rows, ord=DUAL[norm], axis=1)
        assert (found.best[n].numpy() <= exact * (1 + 1e-15)).all()
        assert (found.gradient[n].numpy() >= exact * (1 - 1e-12)).all()
        assert (found.quotient[n].numpy() >= exact * 0.9).all()


def test_given_samples_an_estimate_is_never_below_them_however_short_the_search() -> None:
    maps = LinearMaps(network(3))
    balls = Balls(torch.rand(2, 1, 4, 4).double(), torch.tensor([0.3, 1.0], dtype=torch.float64), "Linf", None)
    rows = difference_forms(3, torch.tensor([0, 2]))
    samples = balls.center + 2 * torch.rand((200, 2, 1, 4, 4), dtype=torch.float64) - 1
    alone = estimate(maps, balls, rows, Search(1, 1))
    found = estimate(maps, balls, rows, Search(1, 1), samples)
    quotients = sampled(maps, balls, rows, samples)
    assert bool((quotients <= found.quotient).all())
    assert bool((quotients > alone.quotient).any()), "200 samples beat one step"
    assert bool((alone.best <= found.best).all())


def test_the_attack_beats_random_sampling_of_difference_quotients() -> None:
    net = network(7)
    maps = LinearMaps(net)
    x = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    balls = Balls(x.double(), torch.tensor([0.3], dtype=torch.float64), "L2", None)
    rows = difference_forms(3, torch.tensor([0]))
    found = estimate(maps, balls, rows, Search(30, 10))
    model = PlainModule(net).double()
    move = torch.randn((300, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    move = move * 0.3 / torch.linalg.vector_norm(move.flatten(1), dim=1).reshape(-1, 1, 1, 1)
    gap = (model(x.double() + move) - model(x.double())) @ rows[0].T
    assert bool((found.quotient[0, 1:] > (gap.abs() / 0.3).amax(0)[1:]).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_estimated_moves_of_probabilities_stay_below_certified_ones_and_above_samples(
    norm: c.Norm, temperature: float
) -> None:
    largest = 0.0
    for seed in range(4):
        net = network(seed, pool=seed % 2 == 0)
        maps, domain = LinearMaps(net), (0.0, 1.0) if seed < 2 else None
        x = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
        radius = torch.tensor([1e-4, 0.05, 0.8], dtype=torch.float64)
        known = local_bounds(maps, x, radius, norm, domain)
        point = LogitsAtInputs(maps.exact(x.double()), PlainModule(net)(x).argmax(1), 0.8, temperature)
        certified = relaxed_constants(point, *known.differences(point.predicted), radius)
        samples = torch.randn((3, 20, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        samples = known.balls.center[:, None] + samples * radius.reshape(3, 1, 1, 1, 1)
        found = estimate_moves(maps, known.balls, point.predicted, temperature, Search(8, 2, seed), samples)
        assert bool((found.moved <= certified.values * radius[:, None]).all())
        size = torch.linalg.vector_norm((found.points - known.balls.center[:, None]).flatten(2), ord=ORDER[norm], dim=2)
        assert bool((size <= radius[:, None]).all())
        # what it says is there, in plain float64; and no sample moves further
        h = torch.softmax(temperature * maps.exact(found.points.flatten(0, 1)), 1).reshape(3, 3, 3)
        moved = h[:, range(3), range(3)] - point.probabilities
        assert found.moved.numpy() == pytest.approx(
            torch.where(point.own, -moved, moved).clamp(min=0).numpy(), rel=1e-6, abs=1e-11
        )
        inside = [_project(p, known.balls.center, radius, known.balls) for p in samples.unbind(1)]
        at = torch.stack([torch.softmax(temperature * maps.exact(p), 1) for p in inside])
        sampled_moves = torch.where(point.own, point.probabilities - at, at - point.probabilities).amax(0)
        assert bool((found.moved >= sampled_moves - 1e-11).all())
        largest = max(largest, float(found.moved.max()))
    assert largest > 1e-3, "the search must find something for this test to mean anything"


def test_estimated_moves_on_a_linear_network_of_two_classes_are_exact() -> None:
    weight = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]], np.float32)
    maps = LinearMaps(build([c.Input((3,)), c.Linear((0,), weight, np.zeros(2, np.float32))]))
    center, radius = torch.tensor([[0.2, 0.1, 0.3]], dtype=torch.float64), torch.tensor([0.05], dtype=torch.float64)
    for norm in NORMS:
        found = estimate_moves(maps, Balls(center, radius, norm, None), torch.tensor([1]), 2.0, Search(30, 2))
        gain = 2 * 0.05 * float(np.linalg.norm(weight[1], ord=DUAL[norm]))
        d = 2 * float(center[0] @ torch.from_numpy(weight[1]).double())
        exact = 1 / (1 + math.exp(-d)) - 1 / (1 + math.exp(-d + gain))
        assert found.moved[0].tolist() == pytest.approx([exact, exact], rel=1e-3)
        assert float(found.moved.max()) <= exact


def test_a_radius_of_zero_and_an_empty_search_are_refused_with_their_value() -> None:
    maps = LinearMaps(network(0))
    balls = Balls(torch.zeros(1, 1, 4, 4).double(), torch.zeros(1).double(), "L2", None)
    with pytest.raises(ValueError, match="radius must be > 0, got 0"):
        estimate(maps, balls, difference_forms(3, torch.tensor([0])), Search())
    with pytest.raises(ValueError, match="radius must be > 0, got 0"):
        estimate_moves(maps, balls, torch.tensor([0]), 1.0, Search())
    with pytest.raises(ValueError, match="restarts must be >= 1"):
        Search(restarts=0)

"""Upstream auto_LiRPA's Jacobian bounds: above every sampled gradient, near ours, refused with a reason elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_networks import DUAL, ORDER

from proofs_check import certificate as c
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.jacobian import load, upstream_constants, upstream_gradient_bounds
from verifiers.engine import EngineError
from verifiers.lipschitz.constants import local_bounds, local_constants
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls


def reason() -> str:
    """Why upstream's Jacobian bounds are not at hand; empty where they are."""
    try:
        load()
    except EngineError as error:
        return str(error)
    return ""


needs_upstream = pytest.mark.skipif(bool(reason()), reason=reason() or "at hand")


def network(seed: int, activation: str) -> c.PlainNetwork:
    """Two hidden layers and a skip around the second."""
    g = np.random.default_rng(seed)
    kind = {"relu": c.Relu, "sigmoid": c.Sigmoid, "tanh": c.Tanh, "leaky": lambda i: c.LeakyRelu(i, 0.1)}[activation]

    def linear(source: int, inputs: int, outputs: int) -> c.Linear:
        weight = g.normal(size=(outputs, inputs)).astype(np.float32)
        return c.Linear((source,), weight, g.normal(size=outputs).astype(np.float32))

    return build(
        [
            c.Input((4,)),
            linear(0, 4, 6),
            kind((1,)),
            linear(2, 6, 6),
            c.Add((3, 2)),
            kind((4,)),
            linear(5, 6, 3),
        ]
    )


def balls(seed: int, radius: float, norm: c.Norm) -> Balls:
    x = torch.rand((3, 4), generator=torch.Generator().manual_seed(seed)).double()
    return Balls(x, torch.tensor([0.0, radius / 5, radius], dtype=torch.float64), norm, None)


@needs_upstream
@pytest.mark.parametrize(
    ("activation", "norm"), [("relu", "Linf"), ("relu", "L2"), ("relu", "L1"), ("sigmoid", "Linf"), ("tanh", "L2")]
)
def test_no_sampled_gradient_exceeds_upstreams_bounds(activation: str, norm: c.Norm) -> None:
    cases = itertools.product(range(2), (0.05, 0.5)) if activation == "relu" else [(0, 0.3)]  # tables take seconds
    for seed, radius in cases:
        net, given = network(seed, activation), balls(seed, radius, norm)
        model = PlainModule(net).double()
        y = model(given.center).argmax(dim=1)
        constants = upstream_constants(net, given, y)
        known = local_bounds(LinearMaps(net), given.center.float(), given.radius, norm, None)
        ours = local_constants(known, y)
        generator = torch.Generator().manual_seed(seed)
        for n in range(3):
            assert float(constants[n, y[n]]) == 0.0
            move = torch.randn((300, 4), generator=generator, dtype=torch.float64)
            move = move.sign() if norm == "Linf" else move**5 if norm == "L1" else move
            share = torch.rand((300, 1), generator=generator, dtype=torch.float64) * (1 - 1e-9)
            size = torch.linalg.vector_norm(move, ord=ORDER[norm], dim=1, keepdim=True)
            points = (given.center[n] + move * share * given.radius[n] / size).requires_grad_()
            z = model(points)
            for j in {0, 1, 2} - {int(y[n])}:
                (gradient,) = torch.autograd.grad((z[:, j] - z[:, y[n]]).sum(), points, retain_graph=True)
                largest = float(torch.linalg.vector_norm(gradient, ord=DUAL[norm], dim=1).max())
                # upstream does not count its rounding
                assert largest * (1 - 1e-9) <= float(constants[n, j])
                assert float(constants[n, j]) <= (1 + 1e-9 if n == 0 else 5) * float(ours[n, j])  # a point is exact


@needs_upstream
def test_bounds_of_a_linear_network_are_its_weights() -> None:
    weight = np.array([[1, -2], [3, 0.5]], np.float32)
    net = build([c.Input((2,)), c.Linear((0,), weight, np.zeros(2, np.float32))])
    given = Balls(torch.zeros((2, 2)).double(), torch.ones(2).double(), "Linf", None)
    found = upstream_gradient_bounds(net, given, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(found.centre, torch.from_numpy(weight).double().expand(2, -1, -1))
    assert float(found.radius.max()) == 0.0


@needs_upstream
def test_a_graph_upstream_does_not_cover_is_refused_with_its_reason() -> None:
    with pytest.raises(EngineError, match="has no Jacobian of this network"):
        upstream_constants(network(0, "leaky"), balls(0, 0.1, "L2"), torch.tensor([0, 1, 2]))


def test_a_version_without_jacobian_bounds_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "0.3"
        BoundedModule = object

    monkeypatch.setattr(compat, "load", lambda: Old)
    with pytest.raises(EngineError, match=r"auto_LiRPA 0.3 has no JacobianOP: put upstream >= 0.7 on PYTHONPATH"):
        upstream_constants(network(0, "relu"), balls(0, 0.1, "L2"), torch.tensor([0, 1, 2]))

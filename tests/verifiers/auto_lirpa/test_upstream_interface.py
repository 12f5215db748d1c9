"""The adapter of upstream's Jacobian bounds against a thin stand-in of upstream's documented interface.

No machine of ours has upstream >= 0.7, which is not on PyPI: what is tested here is what the adapter asks for and what
it makes of the answer, on any machine. Upstream itself: `make test-upstream`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certmix.provers.lipschitz_constants import Request, measure_all
from proofs_check import certificate as c
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.jacobian import upstream_constants, upstream_gradient_bounds
from verifiers.lipschitz.estimate import Search
from verifiers.network.module import build
from verifiers.perturbation import Balls

WIDTH = 0.25  # of the stand-in's intervals, about the gradient at the centre


class JacobianOP:
    """`apply(output, input)`: marks the Jacobian (N, R, *input) of output by input."""

    @staticmethod
    def apply(output: Tensor, x: Tensor) -> Tensor:
        rows = [torch.autograd.grad(output[:, k].sum(), x, retain_graph=True)[0] for k in range(output.shape[1])]
        return torch.stack(rows, dim=1)


class PerturbationLpNorm:
    def __init__(self, norm: float, eps: float | None, x_L: Tensor, x_U: Tensor) -> None:
        self.norm, self.eps, self.x_L, self.x_U = norm, eps, x_L, x_U


class BoundedTensor:
    def __init__(self, data: Tensor, ptb: PerturbationLpNorm) -> None:
        self.data, self.ptb = data, ptb


class BoundedModule:
    """Keeps what it was asked; answers with the gradient at the centre, give or take WIDTH."""

    asked: list[tuple[BoundedTensor, bool]] = []  # noqa: RUF012  # the test's own

    def __init__(self, model: nn.Module, example: Tensor, bound_opts: dict[str, Any], device: Any = None) -> None:
        assert example.shape[0] == 1
        self.model = model

    def compute_jacobian_bounds(self, x: tuple[BoundedTensor], optimize: bool = True) -> tuple[Tensor, Tensor]:
        self.asked.append((x[0], optimize))
        with torch.enable_grad():
            found = self.model(x[0].data.clone().requires_grad_())
        return found - WIDTH, found + WIDTH


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> type[BoundedModule]:
    module, jacobian = types.ModuleType("auto_LiRPA"), types.ModuleType("auto_LiRPA.jacobian")
    for name, value in (
        ("__version__", "0.7.1"), ("BoundedModule", BoundedModule), ("BoundedTensor", BoundedTensor),
        ("PerturbationLpNorm", PerturbationLpNorm), ("jacobian", jacobian),
    ):  # fmt: skip
        setattr(module, name, value)
    jacobian.JacobianOP = JacobianOP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "auto_LiRPA", module)
    monkeypatch.setitem(sys.modules, "auto_LiRPA.jacobian", jacobian)
    monkeypatch.setattr(compat, "load", lambda: module)
    BoundedModule.asked.clear()
    return BoundedModule


WEIGHT = np.array([[1, -2], [3, 0.5], [0, 4]], np.float32)


def linear() -> c.PlainNetwork:
    return build([c.Input((2,)), c.Linear((0,), WEIGHT, np.zeros(3, np.float32))])


def test_it_is_asked_for_one_ball_at_a_time_in_its_own_terms(upstream: type[BoundedModule]) -> None:
    balls = Balls(torch.tensor([[0.5, 0.05], [0.2, 0.4]]).double(), torch.tensor([0.1, 0.3]).double(), "Linf", (0, 1))
    forms = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    found = upstream_gradient_bounds(linear(), balls, forms)
    wanted = forms @ torch.from_numpy(WEIGHT).double()
    assert torch.equal(found.centre, wanted.expand(2, -1, -1))
    assert torch.allclose(found.radius, torch.full((2, 2, 2), WIDTH, dtype=torch.float64))
    assert [optimize for _, optimize in upstream.asked] == [False, False]
    for n, (x, _) in enumerate(upstream.asked):
        assert torch.equal(x.data, balls.center[n : n + 1])
        low, high = (float(v) for v in (x.ptb.x_L[0, 1], x.ptb.x_U[0, 1]))
        centre, radius = float(balls.center[n, 1]), float(balls.radius[n])
        assert low <= max(0.0, centre - radius)  # the ball, cut by the domain
        assert high >= min(1.0, centre + radius)
        assert x.ptb.norm == float("inf")


@pytest.mark.parametrize(("norm", "order"), [("Linf", 1), ("L2", 2), ("L1", np.inf)])
def test_constants_are_dual_norms_of_its_intervals(upstream: type[BoundedModule], norm: c.Norm, order: float) -> None:
    balls = Balls(torch.zeros((3, 2)).double(), torch.ones(3).double(), norm, None)
    found = upstream_constants(linear(), balls, torch.tensor([2, 0, 2])).numpy()
    for n, y in enumerate((2, 0, 2)):
        for j in range(3):
            size = np.linalg.norm(np.abs(WEIGHT[j] - WEIGHT[y]).astype(float) + WIDTH, ord=order) if j != y else 0.0
            assert found[n, j] == pytest.approx(size, rel=1e-9)
            assert found[n, j] >= size * (1 - 1e-12)


def test_certmix_lipschitz_takes_the_lesser_constant_and_says_whose_it_is(upstream: type[BoundedModule]) -> None:
    """Two hidden neurons whose signs change on the ball: intervals of slopes are wide, the stand-in's are narrow."""
    w = np.array([[8, -8], [8, 8]], np.float32)
    net = build(
        [
            c.Input((2,)),
            c.Linear((0,), w, np.array([0.0, -8.0], np.float32)),
            c.Relu((1,)),
            c.Linear((2,), WEIGHT[:, :2] * 2, np.zeros(3, np.float32)),
        ]
    )
    x = torch.tensor([[0.5, 0.5]])
    given = {"norm": "L2", "radius": 0.2, "alpha": 0.9, "lipsdp": False, "search": Search(1, 1), "engine": "crown"}
    without, beside = (
        measure_all(net, x, Request(**given, upstream=flag), "cpu", 1, lambda *_: None)[0]  # type: ignore[arg-type]
        for flag in (False, True)
    )
    assert float(beside.local[0]) < float(without.local[0])
    assert any("rest on auto_LiRPA's JacobianOP" in note for note in beside.notes)
    assert not any("JacobianOP" in note for note in without.notes)

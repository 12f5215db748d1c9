"""Networks without a single ReLU: nothing to tune, and the largest radius is known in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import certmix
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check.certificate import Accepted
from verifiers.network.module import PlainModule, build

ALPHA = 0.8
X = np.array([[0.75, 0.25, 0.5], [0.5, 0.5, 0.5]], np.float32)
ROWS = np.array([[1.0, -2.0, 0.5], [-1.0, 1.5, -0.25], [-3.0, 0.0, 1.0]], np.float32)
BIAS = np.array([4.0, 0.5, 0.0], np.float32)
SETTINGS = Settings(ALPHA, domain=(-64.0, 64.0), tolerance=1e-4)


def affine(shape: tuple[int, ...] = (3,)) -> PlainModule:
    """One linear layer."""
    return PlainModule(build([c.Input(shape), c.Linear((0,), ROWS, BIAS)]))


def affine_image() -> PlainModule:
    """Convolution, average pooling, normalisation, linear layer: affine all the same."""
    kernel = np.array([[[[1.0, -1.0], [0.5, 2.0]]]], np.float32)
    nodes: list[c.Node] = [
        c.Input((1, 3, 3)),
        c.Shift((0,), np.full((1, 1, 1), -0.5, np.float32)),
        c.Conv2d((1,), kernel, np.zeros(1, np.float32), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        c.AveragePool2d((2,), (2, 1), (1, 1), (0, 0, 0, 0), True),
        c.Flatten((3,)),
        c.Linear((4,), np.array([[2.0, 1.0], [-1.0, 0.5], [0.0, -2.0]], np.float32), np.array([3, 0, 0.5], np.float32)),
    ]
    return PlainModule(build(nodes))


def largest_radius(module: PlainModule, x: np.ndarray, norm: str) -> float:
    """An upper bound by rivals alone: class i of a pair needs z_y - z_i > 2 artanh((1-alpha)/alpha), and
    |w_y - w_i|_dual r is what a ball of radius r takes from it. Attained where there are two classes."""
    point = torch.from_numpy(x[None]).double().requires_grad_(True)
    z = module.double()(point)[0]
    y = int(z.argmax())
    needed = 2 * math.atanh((1 - ALPHA) / ALPHA)
    reach = []
    for i in range(len(z)):
        if i != y:
            (slope,) = torch.autograd.grad(z[y] - z[i], point, retain_graph=True)
            dual = torch.linalg.vector_norm(slope, {"Linf": 1, "L2": 2, "L1": math.inf}[norm])
            reach.append((float(z[y].detach() - z[i].detach()) - needed) / float(dual))
    return min(reach)


def two_classes() -> PlainModule:
    return PlainModule(build([c.Input((3,)), c.Linear((0,), ROWS[:2], BIAS[:2])]))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_two_affine_classes_get_the_closed_forms_radius(norm: str) -> None:
    h = two_classes()
    settings = dataclasses.replace(SETTINGS, norm=norm)
    outcomes = certmix.certify(h, h, torch.from_numpy(X), alpha=ALPHA, settings=settings)
    for x, outcome in zip(X, outcomes, strict=True):
        assert isinstance(outcome, certmix.Certified)
        best = largest_radius(two_classes(), x, norm)
        assert 0.999 * best <= outcome.radius <= best
        assert certmix.check(outcome) == Accepted(frozenset())


@pytest.mark.parametrize("use_standard", [False, True])
@pytest.mark.parametrize("method", ["margin", "lipschitz"])
@pytest.mark.parametrize("radius", [None, 0.01])
@pytest.mark.parametrize("image", [False, True])
def test_affine_networks_are_certified_by_every_method(
    method: str, use_standard: bool, radius: float | None, image: bool
) -> None:
    h = affine_image() if image else affine()
    x = np.full((2, 1, 3, 3), 0.5, np.float32) if image else X
    settings = dataclasses.replace(SETTINGS, method=method, use_standard=use_standard, radius=radius)
    outcomes = certmix.certify(h, h, torch.from_numpy(x), alpha=ALPHA, settings=settings)
    if use_standard and method == "lipschitz":
        assert all(o.reason is certmix.Reason.NO_THEOREM for o in outcomes if isinstance(o, certmix.Abstained))
        return
    module = affine_image() if image else affine()
    for row, outcome in zip(x, outcomes, strict=True):
        assert isinstance(outcome, certmix.Certified)
        assert radius is None or outcome.radius == radius
        # with g = h bounded too the mix is h's softmax itself, whose class lasts longer than the required margin
        assert use_standard or 0 < outcome.radius <= largest_radius(module, row, "Linf")
        assert certmix.check(outcome) == Accepted(frozenset())


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("method", ["margin", "lipschitz"])
@pytest.mark.parametrize("last", [0.0, 1.0])
def test_a_network_blind_to_its_input_is_certified_at_any_radius(norm: str, method: str, last: float) -> None:
    first = c.Linear((0,), np.zeros((2, 2), np.float32), np.ones(2, np.float32))
    head = c.Linear((2,), np.full((2, 2), last, np.float32), np.array([2, 0], np.float32))
    h = PlainModule(build([c.Input((2,)), first, c.Relu((1,)), head]))
    settings = dataclasses.replace(SETTINGS, method=method, norm=norm, radius=16.0, domain=None)
    (outcome,) = certmix.certify(h, h, torch.ones(1, 2), alpha=ALPHA, settings=settings)
    assert isinstance(outcome, certmix.Certified)
    assert certmix.check(outcome) == Accepted(frozenset())

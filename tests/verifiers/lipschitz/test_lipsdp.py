"""LipSDP and products of layer norms: above every sampled gradient, exact where the truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import math

import cvxpy
import numpy as np
import pytest
import torch
from small_networks import DUAL, NORMS, ORDER, array, mlp

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.rules.lipschitz.lipsdp import need_constants
from verifiers.engine import EngineError
from verifiers.lipschitz.constants import global_pair_constants, local_bounds
from verifiers.lipschitz.jacobian import slope_intervals, unrestricted_slopes
from verifiers.lipschitz.layer_norms import product_constants
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP, increments, least_rho
from verifiers.network.module import PlainModule, build


def residual_conv(seed: int) -> c.PlainNetwork:
    g = np.random.default_rng(seed)
    keep = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    return build(
        [
            c.Input((1, 3, 3)),
            c.Divide((0,), np.full((1, 1, 1), 0.5, np.float32)),
            c.Conv2d((1,), array(g, 2, 1, 3, 3), array(g, 2), **keep),
            c.BatchNorm((2,), array(g, 2), array(g, 2), array(g, 2), abs(array(g, 2)), 1e-5),
            c.Relu((3,)),
            c.Conv2d((4,), array(g, 2, 2, 3, 3), array(g, 2), **keep),
            c.Add((5, 4)),
            c.LeakyRelu((6,), 0.2),
            c.Flatten((7,)),
            c.Linear((8,), array(g, 3, 18), array(g, 3)),
        ]
    )


def sampled(network: c.PlainNetwork, row: np.ndarray, order: float) -> float:
    """The largest norm of the row's gradient at random points."""
    g = torch.Generator().manual_seed(1)
    points = (torch.randn((2000, *network.input_shape), generator=g, dtype=torch.float64) * 3).requires_grad_()
    z = PlainModule(network).double()(points) @ torch.from_numpy(row)
    (gradient,) = torch.autograd.grad(z.sum(), points)
    return float(torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1).max())


ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


@pytest.mark.parametrize("activation", ["relu", "leaky", "sigmoid", "tanh"])
@pytest.mark.parametrize("multipliers", ["neuron", "layer"])
def test_semidefinite_bounds_hold_are_better_than_products_and_pass_the_judge(
    activation: str, multipliers: str
) -> None:
    network = mlp(3, (5, 8, 7, 3), activation)
    maps = LinearMaps(network)
    solver = LipSDP(multipliers=multipliers, max_steps=50)  # type: ignore[arg-type]
    found = solver.bounds(maps, ROWS, unrestricted_slopes(maps))
    products = product_constants(maps, torch.from_numpy(ROWS), "L2")
    for row, bound, product in zip(ROWS, found, products.tolist(), strict=True):
        assert sampled(network, row, 2) <= bound.constant < product
    stated = np.array([found[0].constant, 0.0, found[1].constant])
    rows = np.stack([found[0].multipliers, np.zeros(15), found[1].multipliers]).astype(np.float64)
    need_constants(bounds.prepare(network), 1, stated, rows)


def test_one_multiplier_per_neuron_is_at_least_as_good_as_one_per_layer() -> None:
    network = mlp(1, (6, 10, 9, 3))
    maps = LinearMaps(network)
    by_layer, by_neuron = (
        LipSDP(multipliers=kind).bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0].constant
        for kind in ("layer", "neuron")
    )
    assert by_neuron < by_layer


@pytest.mark.parametrize("widths", [(4, 9, 3), (5, 8, 7, 6, 3)])
def test_descent_alone_ends_where_the_cone_program_ends(widths: tuple[int, ...]) -> None:
    """In the first form; the cone program minimises for all centred logits together, so it alone is no better."""
    maps = LinearMaps(mlp(6, widths))
    slopes = unrestricted_slopes(maps)
    descent, both, cone = (
        LipSDP(max_cone_neurons=neurons, max_steps=steps).bounds(maps, ROWS[:1], slopes)[0].constant
        for neurons, steps in ((0, 1000), (64, 1000), (64, 0))
    )
    assert descent == pytest.approx(both, rel=2e-3)
    assert both <= cone


def orthogonal(kind: str, widths: tuple[int, ...], seed: int) -> c.PlainNetwork:
    """Linear layers with orthonormal rows or columns, and between them ReLU, |x| or MaxMin of pairs, spelled out in
    ReLUs: |x| = relu(x) + relu(-x), max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b); or SLL blocks."""
    g = np.random.default_rng(seed)
    nodes: list[c.Node] = [c.Input((widths[0],))]

    def push(matrix: np.ndarray, source: int) -> int:
        bias = (0.1 * g.normal(size=len(matrix))).astype(np.float32)
        nodes.append(c.Linear((source,), matrix.astype(np.float32), bias))
        return len(nodes) - 1

    def relu(source: int) -> int:
        nodes.append(c.Relu((source,)))
        return len(nodes) - 1

    last, eye = 0, np.eye
    for a, b in itertools.pairwise(widths):
        basis = np.linalg.qr(g.normal(size=(max(a, b), min(a, b))))[0]
        weight = basis if b >= a else basis.T
        if b == widths[-1]:
            push(weight, last)
        elif kind == "relu":
            last = relu(push(weight, last))
        elif kind == "abs":
            last = push(np.hstack([eye(b), eye(b)]), relu(push(np.vstack([weight, -weight]), last)))
        elif kind == "sll":
            last, inner = push(weight, last), g.normal(size=(b, b))
            back = -2 * inner / np.abs(inner.T @ inner).sum(axis=1)
            nodes.append(c.Add((last, push(back, relu(push(inner.T, last))))))
            last = len(nodes) - 1
        else:
            last = push(weight, last)
            gap = np.kron(eye(b // 2), np.array([[1.0, -1.0]]))
            larger = push(gap.T, relu(push(gap, last)))
            swapped = push(np.kron(eye(b // 2), np.array([[0.0, 1.0], [1.0, 0.0]])), last)
            nodes.append(c.Add((larger, swapped)))
            last = len(nodes) - 1
    return build(nodes)


@pytest.mark.parametrize("widths", [(8, 10, 10, 4), (6, 8, 8, 8, 8, 4)])
@pytest.mark.parametrize("kind", ["relu", "abs", "maxmin", "sll"])
def test_orthogonal_layers_are_proven_to_be_1_lipschitz_whatever_stands_between(
    kind: str, widths: tuple[int, ...]
) -> None:
    """The product of the true norms is that of the form on the logits, sqrt 2; the judge proves what is stated."""
    for seed in range(2):
        network = orthogonal(kind, widths, seed)
        maps = LinearMaps(network)
        forms = np.delete(np.eye(4) - np.eye(4)[1], 1, 0)
        proven = LipSDP(max_cone_neurons=0).bounds(maps, forms, unrestricted_slopes(maps))
        for form, bound in zip(forms, proven, strict=True):
            assert sampled(network, form, 2) <= bound.constant <= math.sqrt(2) * (1 + 1e-3)  # a law of tightness
        stated = np.insert([b.constant for b in proven], 1, 0.0)
        multipliers = np.insert(np.stack([b.multipliers.astype(np.float64) for b in proven]), 1, 0.0, axis=0)
        need_constants(bounds.prepare(network), 1, stated, multipliers)


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_constants_scale_with_the_layers_and_never_exceed_the_product_of_norms(scale: float) -> None:
    plain, network = mlp(2, (5, 8, 7, 3)), mlp(2, (5, 8, 7, 3))
    layers = [scale if k == 3 else 1.0 for k in range(len(network.nodes))]
    network = build(
        [dataclasses.replace(n, weight=n.weight * np.float32(f)) if isinstance(n, c.Linear) else n
         for n, f in zip(network.nodes, layers, strict=True)]
    )  # fmt: skip
    one, scaled = (
        LipSDP().bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0].constant
        for maps in (LinearMaps(plain), LinearMaps(network))
    )
    assert scaled == pytest.approx(one * scale, rel=2e-3)
    assert scaled < float(product_constants(LinearMaps(network), torch.from_numpy(ROWS[:1]), "L2")[0])


def test_convolutions_batch_norm_and_residuals_are_unrolled_and_pass_the_judge() -> None:
    network = residual_conv(0)
    maps = LinearMaps(network)
    found = LipSDP(max_steps=50).bounds(maps, ROWS, unrestricted_slopes(maps))
    for row, bound in zip(ROWS, found, strict=True):
        assert sampled(network, row, 2) <= bound.constant
    stated = np.array([found[0].constant, 0.0, found[1].constant])
    rows = np.stack([found[0].multipliers, np.zeros(36), found[1].multipliers]).astype(np.float64)
    need_constants(bounds.prepare(network), 1, stated, rows)


def test_a_network_without_activations_gives_the_exact_norm() -> None:
    g = np.random.default_rng(0)
    network = build([c.Input((6,)), c.Linear((0,), array(g, 3, 6), array(g, 3))])
    exact = np.linalg.norm(ROWS[0] @ network.nodes[1].weight.astype(np.float64))  # type: ignore[union-attr]
    maps = LinearMaps(network)
    found = LipSDP().bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0]
    assert exact <= found.constant <= exact * (1 + 1e-5)


def test_increments_reproduce_the_differences_of_the_network() -> None:
    network = mlp(9, (4, 5, 4, 3), "leaky")
    maps = LinearMaps(network)
    system = increments(maps, unrestricted_slopes(maps), 100)
    model = PlainModule(network).double()
    a, b = torch.randn((2, 1, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    va, vb = model.values(a), model.values(b)
    v = np.concatenate([(va[k] - vb[k])[0].numpy() for k in (1, 3)])
    w = np.concatenate([((va[k + 1] - vb[k + 1]) - 0.3 * (va[k] - vb[k]))[0].numpy() / 0.7 for k in (1, 3)])
    step = (a - b)[0].numpy()
    # the slope 0.3 is the double nearest to it
    assert np.allclose(system.a @ step + system.b @ w, v, atol=1e-9)
    assert np.allclose(system.c @ step + system.d @ w, (va[-1] - vb[-1])[0].numpy(), atol=1e-9)
    assert (w * (v - w) >= -1e-12).all()


def test_slopes_of_a_ball_give_a_tighter_bound_there() -> None:
    network = mlp(4, (4, 12, 3))
    maps = LinearMaps(network)
    x = torch.rand((1, 4), generator=torch.Generator().manual_seed(3)).float()
    known = local_bounds(maps, x, torch.tensor([0.1]), "L2", None)
    local = LipSDP().bounds(maps, ROWS[:1], slope_intervals(maps, known.values))[0].constant
    overall = LipSDP().bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0].constant
    points = (x.double() + 0.05 * torch.randn((500, 4), dtype=torch.float64).clamp(-1, 1)).requires_grad_()
    z = PlainModule(network).double()(points) @ torch.from_numpy(ROWS[0])
    (gradient,) = torch.autograd.grad(z.sum(), points)
    inside = (points - x.double()).norm(dim=1) <= 0.1
    assert float(gradient.detach().norm(dim=1)[inside].max()) <= local < overall


def test_multipliers_that_prove_nothing_give_none_and_limits_are_named() -> None:
    network = mlp(0, (3, 4, 3))
    maps = LinearMaps(network)
    system = increments(maps, unrestricted_slopes(maps), 10)
    assert least_rho(system, ROWS[0], np.full(4, 1e-12)) is None
    with pytest.raises(EngineError, match="at most 3 activations, the network has 4"):
        LipSDP(max_neurons=3).bounds(maps, ROWS, unrestricted_slopes(maps))
    pool = build(
        [
            c.Input((1, 2, 2)),
            c.MaxPool2d((0,), (2, 2), (1, 1), (0, 0, 0, 0)),
            c.Flatten((1,)),
            c.Linear((2,), np.ones((2, 1), np.float32), np.zeros(2, np.float32)),
        ]
    )
    maps = LinearMaps(pool)
    with pytest.raises(EngineError, match="MaxPool2d"):
        LipSDP().bounds(maps, ROWS[:, :2], unrestricted_slopes(maps))


@pytest.mark.parametrize("answer", [cvxpy.error.SolverError("out of memory"), None])
def test_a_cone_solver_that_fails_leaves_the_other_candidates(
    answer: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = LinearMaps(mlp(0, (3, 4, 3)))
    alone = LipSDP(max_cone_neurons=0).bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0]

    def fail(*_: object, **__: object) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(cvxpy.Problem, "solve", fail)
    assert LipSDP().bounds(maps, ROWS[:1], unrestricted_slopes(maps))[0].constant == alone.constant


# ---------------------------------------------------------------- layer norms


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "network", [mlp(1, (4, 6, 5, 3)), mlp(2, (4, 6, 5, 3), "sigmoid"), residual_conv(1)], ids=["mlp", "sigmoid", "conv"]
)
def test_products_and_unrestricted_jacobians_are_above_every_sampled_gradient(
    network: c.PlainNetwork, norm: c.Norm
) -> None:
    maps = LinearMaps(network)
    order = DUAL[norm]
    products = product_constants(maps, torch.from_numpy(ROWS), norm)
    pairs = global_pair_constants(maps, norm)
    for row, product, pair in zip(ROWS, products.tolist(), (pairs[0, 1], pairs[1, 2]), strict=True):
        assert sampled(network, row, order) <= min(product, float(pair))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_operator_norms_of_convolutions_are_never_below_the_unrolled_matrix(
    norm: c.Norm, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    g = np.random.default_rng(0)
    # a positive kernel makes overlapping windows add up: the bound is nearly attained
    kernel = np.ones((4, 2 // groups, 3, 2), np.float32) + 0.1 * array(g, 4, 2 // groups, 3, 2)
    conv = c.Conv2d((0,), kernel, np.zeros(4, np.float32), stride, (4, 3, 4, 3), dilation, groups)
    head: list[c.Node] = [c.Input((2, 12, 11)), conv, c.Flatten((1,))]
    size = math.prod(PlainModule(build([*head, head[2]]))(torch.zeros(1, 2, 12, 11)).shape)
    network = build([*head, c.Linear((2,), np.ones((2, size), np.float32), np.zeros(2, np.float32))])
    module = PlainModule(network).double()
    basis = torch.eye(2 * 12 * 11, dtype=torch.float64).reshape(-1, 2, 12, 11)
    matrix = module.values(basis)[1].flatten(1).T.numpy()
    exact = np.linalg.norm(matrix, ord=ORDER[norm])
    layer = LinearMaps(network).affine(1)
    assert layer is not None
    found = layer.operator_norm(norm)
    assert exact * (1 - 1e-12) <= found
    if norm != "L2":
        assert found <= exact * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_max_pooling_with_overlapping_windows_is_bounded(norm: c.Norm) -> None:
    pool = c.MaxPool2d((0,), (3, 3), (1, 1), (0, 0, 0, 0))
    network = build(
        [
            c.Input((1, 5, 5)),
            pool,
            c.Flatten((1,)),
            c.Linear((2,), np.ones((2, 9), np.float32), np.zeros(2, np.float32)),
        ]
    )
    row = np.array([1.0, 0.0])
    # all nine windows hold the centre cell: the gradient there is 9 in one coordinate
    x = torch.zeros((1, 1, 5, 5), dtype=torch.float64)
    x[0, 0, 2, 2] = 1.0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((PlainModule(network).double()(x) @ torch.from_numpy(row)).sum(), x)
    truth = float(torch.linalg.vector_norm(gradient.flatten(), ord=DUAL[norm]))
    assert truth == 9.0
    assert truth <= float(product_constants(LinearMaps(network), torch.from_numpy(row)[None], norm)[0])


@pytest.mark.parametrize("norm", NORMS)
def test_paths_without_activations_reach_the_input(norm: c.Norm) -> None:
    """z = W (x + relu(x)): the row's dual norm, once for each of the two."""
    g = np.random.default_rng(0)
    network = build([c.Input((4,)), c.Relu((0,)), c.Add((0, 1)), c.Linear((2,), array(g, 3, 4), array(g, 3))])
    row = ROWS[0] @ network.nodes[3].weight.astype(np.float64)  # type: ignore[union-attr]
    found = float(product_constants(LinearMaps(network), torch.from_numpy(ROWS[:1]), norm)[0])
    assert found == pytest.approx(2 * np.linalg.norm(row, ord=DUAL[norm]), rel=1e-9)

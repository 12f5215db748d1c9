"""Jacobian bounds: sound on sampled pairs for every layer kind and norm, exact where the truth is known."""

from __future__ import annotations

import itertools
from fractions import Fraction

import exact_network as en
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import DUAL, NORMS, ORDER, array, mlp

from proofs_check import certificate as c
from verifiers.engine import Constraints, EngineError, Query
from verifiers.lipschitz.constants import (
    difference_forms,
    global_pair_constants,
    local_bounds,
    local_constants,
    pair_constants,
)
from verifiers.lipschitz.jacobian import gradient_bounds, slope_intervals, unrestricted_slopes
from verifiers.lipschitz.jacobian_linked import linked_dual_norms, linked_gradient_bounds
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.value_bounds import ValueBounds, point_values
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls


def linear(g: np.random.Generator, source: int, inputs: int, outputs: int) -> c.Linear:
    return c.Linear((source,), array(g, outputs, inputs), array(g, outputs))


def conv(g: np.random.Generator, source: int, out: int, inner: int, **kw: object) -> c.Conv2d:
    options: dict = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1} | kw
    return c.Conv2d((source,), array(g, out, inner, 2, 2), array(g, out), **options)


def everything(seed: int, pooling: str) -> c.PlainNetwork:
    """Normalisation, grouped strided convolution, batch norm, residual, pad, slice, concat, pooling, linear."""
    g = np.random.default_rng(seed)
    pools: dict[str, c.Node] = {
        "max": c.MaxPool2d((13,), (2, 2), (1, 1), (1, 0, 0, 1)),
        "average": c.AveragePool2d((13,), (2, 2), (2, 1), (1, 0, 0, 0), False),
    }
    channel = (2, 1, 1)
    return build(
        [
            c.Input((2, 4, 4)),
            c.Shift((0,), array(g, *channel)),
            c.Divide((1,), np.float32(1.5) + abs(array(g, *channel))),
            conv(g, 2, 4, 1, padding=(1, 0, 0, 1), groups=2),
            c.BatchNorm((3,), array(g, 4), array(g, 4), array(g, 4), abs(array(g, 4)), 1e-5),
            c.Relu((4,)),
            conv(g, 5, 4, 4, padding=(0, 1, 1, 0)),
            c.Add((6, 5)),
            c.LeakyRelu((7,), 0.2),
            c.Pad((8,), (0, 1, 0), (0, 0, 1), 0.5),
            c.Slice((9,), (0, 0, 0), (4, 5, 5), (1, 2, 1)),
            c.Scale((10,), array(g, 4, 1, 1)),
            c.Concat((10, 11)),
            c.Tanh((12,)),
            pools[pooling],
            c.Sigmoid((14,)),
            c.Flatten((15,)),
            linear(g, 16, 8 * (3 * 5 if pooling == "max" else 2 * 4), 3),
        ]
    )


def residual(seed: int, blocks: int = 3) -> c.PlainNetwork:
    """Blocks relu(v + conv(relu(conv(v)))), the last one pooled."""
    g = np.random.default_rng(seed)
    nodes: list[c.Node] = [c.Input((2, 3, 3)), conv(g, 0, 3, 2, padding=(1, 1, 0, 0))]
    for _ in range(blocks):
        k = len(nodes)
        nodes += [
            c.Relu((k - 1,)),
            conv(g, k, 3, 3, padding=(1, 0, 0, 1)),
            c.Relu((k + 1,)),
            conv(g, k + 2, 3, 3, padding=(0, 1, 1, 0)),
            c.Add((k + 3, k)),
        ]
    k = len(nodes)
    pooled = c.MaxPool2d((k,), (2, 2), (1, 1), (0, 0, 0, 0))
    return build([*nodes, c.Relu((k - 1,)), pooled, c.Flatten((k + 1,)), linear(g, k + 2, 12, 3)])


NETWORKS = {
    **{name: (lambda seed, name=name: mlp(seed, activation=name)) for name in ("relu", "leaky", "sigmoid", "tanh")},
    "max": lambda seed: everything(seed, "max"),
    "average": lambda seed: everything(seed, "average"),
    "residual": residual,
}


def ball_points(x: torch.Tensor, radius: float, norm: c.Norm, count: int, seed: int) -> torch.Tensor:
    """Points of the open ball (a hair inside, so that rounding cannot leave it), many near its boundary."""
    generator = torch.Generator().manual_seed(seed)
    move = torch.randn((count, *x.shape), generator=generator, dtype=torch.float64)
    if norm == "Linf":
        move = move.sign() * torch.rand(move.shape, generator=generator, dtype=torch.float64) ** 0.3
    if norm == "L1":
        move = move**5
    size = torch.linalg.vector_norm(move.flatten(1), ord=ORDER[norm], dim=1)
    share = torch.rand(count, generator=generator, dtype=torch.float64) ** 0.2 * (1 - 1e-9)
    return x + (move.flatten(1) * (radius * share / size)[:, None]).reshape(move.shape)


@pytest.mark.parametrize("seed", range(60))
def test_values_at_points_hold_the_exact_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = en.random_network(rng, 5)
    points = torch.from_numpy(rng.uniform(-1, 2, size=(3, *network.input_shape)))
    ends = [[en.exact(end.numpy()) for end in pair] for pair in point_values(LinearMaps(network), points)]
    for n in range(3):
        for (low, high), value in zip(ends, en.exact_values(network, en.exact(points[n].numpy())), strict=True):
            assert ((low[n] <= value) & (value <= high[n])).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_sampled_difference_quotient_or_gradient_exceeds_the_local_constants(name: str, norm: c.Norm) -> None:
    for seed in range(4):
        network = NETWORKS[name](seed)
        maps, model = LinearMaps(network), PlainModule(network).double()
        x = torch.rand((2, *network.input_shape), generator=torch.Generator().manual_seed(seed)).float()
        radius = torch.tensor([0.02, 0.3], dtype=torch.float64) * (3 if norm == "L1" else 1)
        known = local_bounds(maps, x, radius, norm, None)
        pairs = pair_constants(known)
        for n in range(2):
            points = ball_points(x[n].double(), float(radius[n]), norm, 200, seed).requires_grad_()
            z = model(points)
            for i, j in itertools.combinations(range(3), 2):
                gap = z[:, i] - z[:, j]
                (gradient,) = torch.autograd.grad(gap.sum(), points, retain_graph=True)
                dual = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[norm], dim=1)
                assert float(dual.max()) <= float(pairs[n, i, j])
                steps = torch.linalg.vector_norm((points[1:] - points[:-1]).flatten(1), ord=ORDER[norm], dim=1)
                quotient = (gap[1:] - gap[:-1]).abs() / steps
                assert float(quotient.detach().max()) <= float(pairs[n, i, j])


def by_intervals(
    maps: LinearMaps, x: torch.Tensor, radius: float, norm: c.Norm, domain: tuple[float, float] | None
) -> ValueBounds:
    """Bounds without backward passes, whose slopes jump with the radius."""
    balls = Balls(x.double(), torch.full((len(x),), radius, dtype=torch.float64), norm, domain)
    query = Query(balls, torch.zeros(len(x), 0, 3, dtype=torch.float64), Constraints(final=True))
    return ValueBounds(maps, balls, maps.engine.layers(maps.crown, query))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_constants_by_intervals_grow_with_the_radius_and_stay_below_the_unrestricted_ones(
    name: str, norm: c.Norm
) -> None:
    network = NETWORKS[name](11)
    maps = LinearMaps(network)
    x = torch.rand((1, *network.input_shape), generator=torch.Generator().manual_seed(1)).float()
    previous = torch.zeros((3, 3), dtype=torch.float64)
    for radius in (0.0, 0.01, 0.1, 1.0, 100.0):
        current = pair_constants(by_intervals(maps, x, radius, norm, None))[0]
        assert bool((previous <= current * (1 + 1e-9)).all())  # a law of tightness, not of soundness
        previous = current
    assert bool((previous <= global_pair_constants(maps, norm) * (1 + 1e-9)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_the_constants_of_a_linear_network_are_its_exact_dual_norms(norm: c.Norm) -> None:
    g = np.random.default_rng(5)
    network = build([c.Input((7,)), linear(g, 0, 7, 4)])
    weight = network.nodes[1].weight.astype(np.float64)  # type: ignore[union-attr]
    known = local_bounds(LinearMaps(network), torch.zeros(1, 7), torch.ones(1), norm, None)
    found = local_constants(known, torch.tensor([2]))[0]
    dual = DUAL[norm]
    for j in range(4):
        exact = np.linalg.norm(weight[j] - weight[2], ord=dual)
        assert exact * (1 - 1e-15) <= float(found[j]) <= exact * (1 + 1e-12)
    assert float(found[2]) == 0.0


@settings(max_examples=25, deadline=None)
def fractions(values: np.ndarray) -> np.ndarray:
    """Every entry as the rational it is."""
    result = np.empty(values.shape, dtype=object)
    result.ravel()[:] = [Fraction(float(v)) for v in values.ravel()]
    return result


def at_most(gradient: np.ndarray, norm: c.Norm, bound: float) -> bool:
    """The norm dual to `norm` of an exact gradient is at most `bound`, exactly."""
    sizes = np.abs(gradient.ravel())
    if norm == "L2":
        return (sizes * sizes).sum() <= Fraction(bound) ** 2
    return (sizes.sum() if norm == "Linf" else sizes.max()) <= Fraction(bound)


@given(st.integers(0, 10**6), st.sampled_from(NORMS), st.floats(0.001, 3.0))
def test_enumerated_activation_patterns_never_exceed_the_bound_and_sometimes_meet_it(
    seed: int, norm: c.Norm, radius: float
) -> None:
    network = mlp(seed, (3, 5, 2))
    first, last = network.nodes[1], network.nodes[3]
    w, b = first.weight.astype(np.float64), first.bias.astype(np.float64)  # type: ignore[union-attr]
    row = last.weight[0].astype(np.float64) - last.weight[1].astype(np.float64)  # type: ignore[union-attr]
    known = local_bounds(LinearMaps(network), torch.zeros(1, 3), torch.tensor([radius]), norm, None)
    dual = DUAL[norm]
    free = np.abs(b) <= radius * np.linalg.norm(w, ord=dual, axis=1)  # 0 is reached within the ball
    patterns = itertools.product(*[(0.0, 1.0) if f else (float(v > 0),) for f, v in zip(free, b, strict=True)])
    choices = [np.array(p) for p in patterns]
    gradients = np.array([(row * p) @ w for p in choices])
    exact = float(np.linalg.norm(gradients, ord=dual, axis=1).max())
    box = np.linalg.norm(np.abs(gradients).max(axis=0), ord=dual)
    found = float(local_constants(known, torch.tensor([1]))[0, 0])
    for p in choices:
        assert at_most(fractions(row)[None] * fractions(p) @ fractions(w), norm, found)
    assert found <= box * (1 + 1e-9) + 1e-200
    if norm == "L1":  # the largest single partial derivative: intervals are exact for one hidden layer
        assert found <= exact * (1 + 1e-9) + 1e-200


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky"]), st.floats(0.01, 1.0))
def test_linked_intervals_hold_every_choice_of_slopes_and_lie_within_the_unlinked_ones(
    seed: int, activation: str, radius: float
) -> None:
    network = mlp(seed, (3, 4, 4, 3), activation)
    maps = LinearMaps(network)
    x = torch.rand((2, 3), generator=torch.Generator().manual_seed(seed)).float()
    slopes = slope_intervals(maps, local_bounds(maps, x, torch.tensor([radius, radius / 3]), "Linf", None).values)
    rows = difference_forms(3, torch.tensor([0, 2]))
    linked, plain = linked_gradient_bounds(maps, slopes, rows), gradient_bounds(maps, slopes, rows)
    sums = linked_dual_norms(maps, slopes, rows, "Linf")
    matrices = [fractions(n.weight) for n in network.nodes if isinstance(n, c.Linear)]
    for n in range(2):
        centre, spread, size = (fractions(v[n].numpy()) for v in (linked.centre, linked.radius, sums))
        ends = [[s[n].tolist() for s in pair] for pair in slopes if pair is not None]
        choices = [itertools.product(*[{a, b} for a, b in zip(*pair, strict=True)]) for pair in ends]
        for first, second in itertools.product(*map(list, choices)):
            inner = (fractions(np.array(second))[:, None] * matrices[1]) @ (
                fractions(np.array(first))[:, None] * matrices[0]
            )
            gradient = fractions(rows[n].numpy()) @ matrices[2] @ inner
            assert (np.abs(gradient - centre) <= spread).all()
            assert (np.abs(gradient).sum(axis=1) <= size).all()
        outer = plain.centre[n].abs() + plain.radius[n]
        assert bool((linked.centre[n].abs() + linked.radius[n] <= outer * (1 + 1e-12) + 1e-290).all())


@pytest.mark.parametrize("norm", NORMS)
def test_linking_the_layers_of_a_residual_network_is_far_tighter(norm: c.Norm) -> None:
    network = residual(4, 6)
    maps = LinearMaps(network)
    x = torch.rand((2, 2, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    slopes = slope_intervals(maps, local_bounds(maps, x, torch.full((2,), 0.01), norm, None).values)
    rows = difference_forms(3, torch.tensor([0, 1]))
    plain = gradient_bounds(maps, slopes, rows).dual_norm_upper(norm).amax(dim=1)
    linked = linked_gradient_bounds(maps, slopes, rows).dual_norm_upper(norm).amax(dim=1)
    assert bool((10 * linked < plain).all())


def test_chunks_of_backward_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = everything(2, "max")
    maps = LinearMaps(network)
    x = torch.rand((2, 2, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    slopes = slope_intervals(maps, local_bounds(maps, x, torch.full((2,), 0.1), "Linf", None).values)
    rows = difference_forms(3, torch.tensor([0, 1]))
    whole = linked_gradient_bounds(maps, slopes, rows)
    monkeypatch.setattr("verifiers.lipschitz.jacobian_linked.MAX_COEFFICIENTS", 1000)
    parts = linked_gradient_bounds(maps, slopes, rows)
    assert torch.allclose(whole.radius, parts.radius, rtol=1e-9, atol=0)


def test_gradient_intervals_at_a_point_hold_the_gradient_and_are_tight() -> None:
    network = mlp(3)
    maps = LinearMaps(network)
    x = torch.rand((3, 4), generator=torch.Generator().manual_seed(0)).float()
    rows = difference_forms(3, torch.zeros(3, dtype=torch.int64))
    found = gradient_bounds(maps, slope_intervals(maps, point_values(maps, x.double())), rows)
    points = x.double().requires_grad_()
    z = PlainModule(network).double()(points)
    for j in range(3):
        (gradient,) = torch.autograd.grad((z[:, j] - z[:, 0]).sum(), points, retain_graph=True)
        assert bool(((gradient - found.centre[:, j]).abs() <= found.radius[:, j]).all())
    assert float(found.radius.max()) < 1e-11
    assert bool((found.dual_norm_lower("L2") <= found.dual_norm_upper("L2")).all())


@pytest.mark.parametrize("norm", NORMS)
def test_a_domain_never_raises_the_constants_of_one_hidden_layer_and_often_lowers_them(norm: c.Norm) -> None:
    lower = 0
    for seed in range(20):
        maps = LinearMaps(mlp(seed, (4, 6, 3)))
        x = torch.rand((1, 4), generator=torch.Generator().manual_seed(seed)).float()
        free, boxed = (pair_constants(local_bounds(maps, x, torch.ones(1), norm, d)) for d in (None, (0.0, 1.0)))
        assert bool((boxed <= free * (1 + 1e-9)).all())  # a law of tightness, not of soundness
        lower += int((boxed < free * 0.999).any())
    assert lower > 5


def test_unrestricted_slopes_cover_every_activation() -> None:
    maps = LinearMaps(everything(0, "max"))
    found = [s for s in unrestricted_slopes(maps) if s is not None]
    tops = sorted({float(s[1].max()) for s in found})
    assert tops == [pytest.approx(0.25, rel=1e-12), 1.0, pytest.approx(1.0, rel=1e-12)]
    assert all(float(s[0].min()) >= 0 for s in found)


def test_a_node_without_a_lipschitz_bound_is_named() -> None:
    class Softmax:
        inputs = (0,)

    class Fake:
        nodes = (c.Input((2,)), Softmax())
        shapes = ((2,), (2,))

    with pytest.raises(EngineError, match=r"node 1 \(Softmax\)"):
        LinearMaps(Fake())  # type: ignore[arg-type]

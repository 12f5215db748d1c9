"""Laws that every engine of `verifiers.ENGINES` obeys.

Engines are untrusted and round; the laws are about their mathematics. They are run in float64 where the engine has a
field `precision`, and points are evaluated in float64. The only allowance is `rounding`: 1e-10 times a bound of every
number that occurs in the evaluation (all weights, inputs and biases made positive). With at most 2,000 operations
between input and logit, each rounding at most 2^-53 of such a number, both sides together stay below a thousandth
of it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import CLASSES, OPS, among_others
from torch import Tensor

from proofs_check import certificate as c
from proofs_check.certificate import Norm
from verifiers import ENGINES
from verifiers.engine import Answer, Bounds, Constraints, Engine, EngineError, LogitBounds, MarginQuery, WarmStart
from verifiers.network.module import PlainModule, build

EXAMPLES = settings(max_examples=8)
NORMS = st.sampled_from(["Linf", "L2", "L1"])
KINDS = st.sampled_from(["linear", "mlp", "conv", "residual"])
SEEDS = st.integers(0, 2**32 - 1)
DOMAINS = st.sampled_from([None, (0.0, 1.0)])
REFUSALS = {"auto_lirpa": r"no steps for auto_LiRPA|uneven padding|auto_LiRPA .* cannot do CROWN on this network"}
RADII = st.sampled_from([1e-3, 0.05, 0.4])


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)


def network(kind: str, seed: int) -> c.PlainNetwork:
    """A small network with random weights: "linear" and "mlp" on vectors, the others on images of 2 x 5 x 5."""
    rng = np.random.default_rng(seed)
    if kind in ("linear", "mlp"):
        nodes: list[c.Node] = [c.Input((6,)), c.Shift((0,), weights(rng, 6))]
        if kind == "mlp":
            nodes += [c.Linear((1,), weights(rng, 9, 6), weights(rng, 9)), c.Relu((2,))]
            nodes += [c.Linear((3,), weights(rng, 8, 9), weights(rng, 8)), c.Relu((4,))]
        width = build(nodes).shapes[-1][0]
        return build([*nodes, c.Linear((len(nodes) - 1,), 3 * weights(rng, CLASSES, width), weights(rng, CLASSES))])
    nodes = [
        c.Input((2, 5, 5)),
        c.Shift((0,), weights(rng, 2, 1, 1)),
        c.Divide((1,), np.full((2, 1, 1), 0.3, np.float32)),
    ]
    nodes += [conv(rng, 2, 3, 2, stride=2), c.Relu((3,)), conv(rng, 4, 3, 3, stride=1), c.Relu((5,))]
    if kind == "residual":
        nodes += [conv(rng, 6, 3, 3, stride=1), c.Add((7, 4)), c.Relu((8,))]
    nodes.append(c.Flatten((len(nodes) - 1,)))
    width = build(nodes).shapes[-1][0]
    return build([*nodes, c.Linear((len(nodes) - 1,), 3 * weights(rng, CLASSES, width), weights(rng, CLASSES))])


def conv(rng: np.random.Generator, source: int, out: int, channels: int, stride: int) -> c.Conv2d:
    weight = weights(rng, out, channels, 3, 3)
    return c.Conv2d((source,), weight, weights(rng, out), (stride, stride), (1, 1, 1, 1), (1, 1), 1)


def query(net: c.PlainNetwork, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None) -> MarginQuery:
    """Three inputs in [0, 1], corners included, each with its own radius and class."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(np.clip(rng.uniform(-0.3, 1.3, size=(3, *net.input_shape)), 0, 1).astype(np.float32))
    radii = radius * torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    return MarginQuery(net, inputs, norm, radii, domain, torch.from_numpy(rng.integers(0, CLASSES, 3)))


def engine(name: str) -> Engine:
    """The engine as it stands in the table, in float64 if it can."""
    built: Any = ENGINES[name]()
    if dataclasses.is_dataclass(built) and "precision" in {f.name for f in dataclasses.fields(built)}:
        return dataclasses.replace(built, precision="float64")  # type: ignore[return-value]
    return built


def exact(net: c.PlainNetwork) -> PlainModule:
    return PlainModule(net).double()


def difference(net: c.PlainNetwork, x: Tensor, predicted: Tensor) -> Tensor:
    """d_j = z_j - z_y in float64, (N, K)."""
    z = exact(net)(x.double())
    return (z - z.gather(1, predicted[:, None])).detach()


def rounding(q: MarginQuery) -> Tensor:
    """(N, 1): 1e-10 times a bound of every number in the evaluation (see the module's docstring)."""
    positive = []
    for node in q.network.nodes:
        arrays = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
        arrays = {k: np.abs(v) for k, v in arrays.items() if isinstance(v, np.ndarray)}
        positive.append(dataclasses.replace(node, **arrays))
    reach = q.inputs.double().abs() + q.radius.reshape(-1, *(1 for _ in q.network.input_shape))
    with torch.no_grad():
        return 1e-10 * (1 + 2 * exact(build(positive))(reach).amax(1, keepdim=True))


def project(q: MarginQuery, x: Tensor) -> Tensor:
    """Into the ball (by scaling the perturbation) and the domain; float64. Both cuts keep the other's promise."""
    center = q.inputs.double()
    shape = (-1, *(1 for _ in q.network.input_shape))
    if q.domain is not None:
        x = x.clamp(*q.domain)
    delta = x - center
    order = {"Linf": float("inf"), "L2": 2, "L1": 1}[q.norm]
    size = delta.flatten(1).norm(order, dim=1).clamp(min=1e-300)
    return center + delta * (q.radius / size).clamp(max=1.0).reshape(shape)


def samples(q: MarginQuery, seed: int) -> list[Tensor]:
    """Points of the sets: random directions, sparse ones, and corners, all pushed to the border."""
    rng = torch.Generator().manual_seed(seed % 2**31)
    center = q.inputs.double()
    points = [center]
    for share in (1.0, 1.0, 0.3, 0.1):
        direction = torch.randn(center.shape, generator=rng, dtype=torch.float64)
        direction = direction * (torch.rand(center.shape, generator=rng) < share)
        points += [project(q, center + 1e3 * direction), project(q, center + 1e3 * direction.sign())]
    return points


def attack(q: MarginQuery, target: int, steps: int = 12) -> Tensor:
    """Projected steepest ascent of d_target in the query's norm."""
    net, x = exact(q.network), q.inputs.double()
    shape = (-1, *(1 for _ in q.network.input_shape))
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        z = net(x)
        (grad,) = torch.autograd.grad((z[:, target] - z.gather(1, q.predicted[:, None])[:, 0]).sum(), x)
        length = q.radius.reshape(shape) * 2 / (step + 1)
        if q.norm == "Linf":
            move = grad.sign()
        elif q.norm == "L2":
            move = grad / grad.flatten(1).norm(dim=1).clamp(min=1e-300).reshape(shape)
        else:
            move = grad.sign() * (grad.abs() == grad.abs().flatten(1).amax(1).reshape(shape))
        x = project(q, x.detach() + length * move)
    return x.detach()


def need_inside(q: MarginQuery, answer: LogitBounds | Bounds, x: Tensor) -> None:
    d, slack = difference(q.network, x, q.predicted), rounding(q)
    below, above = float((answer.lower - d - slack).max()), float((d - answer.upper - slack).max())
    assert below <= 0, f"a point lies {below} below the lower bounds"
    assert above <= 0, f"a point lies {above} above the upper bounds"


@pytest.mark.parametrize("name", ENGINES)
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII, domain=DOMAINS)
@EXAMPLES
def test_sampled_and_attacked_points_respect_the_bounds(
    name: str, kind: str, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None
) -> None:
    q = query(network(kind, seed), seed + 1, norm, radius, domain)
    answer = engine(name).bounds(q)
    for x in [*samples(q, seed), *(attack(q, target) for target in range(CLASSES))]:
        need_inside(q, answer, x)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ENGINES)
@given(seed=SEEDS, norm=NORMS, radius=RADII, domain=DOMAINS)
@settings(max_examples=3)
def test_networks_with_any_kind_of_layer_are_bounded_or_refused(
    name: str, op: str, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None
) -> None:
    q = query(among_others(op, seed), seed + 1, norm, radius, domain)
    try:
        answer = engine(name).bounds(q)
    except EngineError as error:
        if not re.search(REFUSALS.get(name, "(?!)"), str(error)):
            raise
        return
    for x in [*samples(q, seed), attack(q, seed % CLASSES)]:
        need_inside(q, answer, x)


@pytest.mark.parametrize("name", ENGINES)
@given(kind=KINDS, seed=SEEDS, norm=NORMS, domain=DOMAINS)
@EXAMPLES
def test_radius_zero_is_the_point_value(
    name: str, kind: str, seed: int, norm: Norm, domain: tuple[float, float] | None
) -> None:
    q = query(network(kind, seed), seed + 1, norm, 0.0, domain)
    answer = engine(name).bounds(q)
    d, slack = difference(q.network, q.inputs, q.predicted), rounding(q)
    assert bool(((answer.lower - d).abs() <= slack).all())
    assert bool(((answer.upper - d).abs() <= slack).all())


@pytest.mark.parametrize("name", ENGINES)
@given(seed=SEEDS, norm=NORMS, radius=RADII)
@EXAMPLES
def test_bounds_of_a_linear_network_are_attained(name: str, seed: int, norm: Norm, radius: float) -> None:
    """d_j(x) ± radius * (dual norm of its coefficients), which a point of the ball attains (Hölder)."""
    net = network("linear", seed)
    q = query(net, seed + 1, norm, radius, None)
    answer = engine(name).bounds(q)
    rows = torch.from_numpy(net.nodes[-1].weight.astype(np.float64))  # type: ignore[union-attr]
    coefficients = rows[None] - rows[q.predicted][:, None]
    dual = {"Linf": 1, "L2": 2, "L1": float("inf")}[norm]
    spread = q.radius[:, None] * coefficients.norm(dual, dim=2)
    d, slack = difference(net, q.inputs, q.predicted), rounding(q)
    assert bool(((answer.upper - (d + spread)).abs() <= slack).all())
    assert bool(((answer.lower - (d - spread)).abs() <= slack).all())


@pytest.mark.parametrize("name", ENGINES)
@given(seed=SEEDS, norm=NORMS, radius=RADII, domain=DOMAINS)
@EXAMPLES
def test_the_bounds_of_a_larger_ball_contain_those_of_a_smaller_on_linear_networks(
    name: str, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None
) -> None:
    """On others this is no law of CROWN: its relu slopes jump with the radius."""
    small = query(network("linear", seed), seed + 1, norm, radius, domain)
    large = dataclasses.replace(small, radius=1.3 * small.radius)
    inner, outer, slack = engine(name).bounds(small), engine(name).bounds(large), rounding(large)
    assert bool((outer.lower <= inner.lower + slack).all())
    assert bool((outer.upper >= inner.upper - slack).all())


@pytest.mark.parametrize("name", ENGINES)
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII, domain=DOMAINS)
@EXAMPLES
def test_a_batch_is_bounded_as_its_inputs_are_one_by_one(
    name: str, kind: str, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None
) -> None:
    q = query(network(kind, seed), seed + 1, norm, radius, domain)
    bounder = engine(name)
    together, slack = bounder.bounds(q), rounding(q)
    for i in range(len(q.inputs)):
        rows = slice(i, i + 1)
        alone = bounder.bounds(
            MarginQuery(q.network, q.inputs[rows], q.norm, q.radius[rows], q.domain, q.predicted[rows])
        )
        assert bool(((alone.lower - together.lower[rows]).abs() <= slack[rows]).all())
        assert bool(((alone.upper - together.upper[rows]).abs() <= slack[rows]).all())


@pytest.mark.parametrize("name", ENGINES)
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII, order=st.permutations(range(CLASSES)))
@EXAMPLES
def test_permuting_classes_permutes_bounds(
    name: str, kind: str, seed: int, norm: Norm, radius: float, order: list[int]
) -> None:
    q = query(network(kind, seed), seed + 1, norm, radius, None)
    last = q.network.nodes[-1]
    assert isinstance(last, c.Linear)
    shuffled = build([*q.network.nodes[:-1], c.Linear(last.inputs, last.weight[order], last.bias[order])])
    place = torch.tensor([order.index(int(y)) for y in q.predicted])
    one = engine(name).bounds(q)
    two = engine(name).bounds(dataclasses.replace(q, network=shuffled, predicted=place))
    slack = rounding(q)
    assert bool(((one.lower[:, order] - two.lower).abs() <= slack).all())
    assert bool(((one.upper[:, order] - two.upper).abs() <= slack).all())


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("count", [0, 1, 9])
def test_an_answer_has_a_row_for_each_input_and_zero_at_its_class(name: str, count: int) -> None:
    net = network("conv", 1)
    rng = np.random.default_rng(2)
    inputs = torch.from_numpy(rng.uniform(size=(count, *net.input_shape)).astype(np.float32))
    predicted = torch.from_numpy(rng.integers(0, CLASSES, count))
    q = MarginQuery(net, inputs, "Linf", torch.full((count,), 0.01, dtype=torch.float64), None, predicted)
    answer = ENGINES[name]().bounds(q)
    assert answer.lower.shape == answer.upper.shape == (count, CLASSES)
    assert len(answer.witness) == count
    for bound in (answer.lower, answer.upper):
        assert bool((bound.gather(1, predicted[:, None]) == 0).all())
    assert bool((answer.lower <= answer.upper).all())


# ---------------------------------------------------------------- what answers leave


def asked(bounder: Engine, q: MarginQuery, **more: Any) -> Answer:
    """The answer about all of `q` at once. more: fields of the query."""
    return bounder.answer(bounder.prepare(q.network), dataclasses.replace(q.query(), **more))


@pytest.mark.parametrize("name", ENGINES)
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII, domain=DOMAINS, final=st.booleans())
@settings(max_examples=4)
def test_bounds_of_layers_on_a_larger_ball_serve_a_smaller_one(
    name: str, kind: str, seed: int, norm: Norm, radius: float, domain: tuple[float, float] | None, final: bool
) -> None:
    """They hold there, and what is left then is no looser than they are."""
    large = query(network(kind, seed), seed + 1, norm, radius, domain)
    small = dataclasses.replace(large, radius=0.8 * large.radius)
    left = asked(engine(name), large).left
    known = {} if left is None or left.layers is None else left.layers.constraints()
    answer = asked(engine(name), small, constraints=Constraints(known, final))
    for x in samples(small, seed):
        need_inside(small, answer.bounds, x)
    if answer.left is not None and answer.left.layers is not None:
        for k, (lower, upper) in answer.left.layers.constraints().items():
            assert bool((lower >= known[k][0]).all() & (upper <= known[k][1]).all())


@pytest.mark.parametrize("name", [name for name, kind in ENGINES.items() if kind.capabilities.warm_start])
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII)
@settings(max_examples=4)
def test_a_warm_start_is_never_looser_and_holds(name: str, kind: str, seed: int, norm: Norm, radius: float) -> None:
    """On the same balls, with their layers and without; slopes come back row by row."""
    q = query(network(kind, seed), seed + 1, norm, radius, None)
    bounder = dataclasses.replace(engine(name), steps=2)
    state = bounder.prepare(q.network)
    cold = bounder.answer(state, q.query())
    assert cold.left is not None
    for layers in (cold.left.layers, None):
        warm = bounder.answer(state, q.query(), WarmStart(layers, cold.left.slopes))
        assert bool((warm.bounds.upper <= cold.bounds.upper + rounding(q)).all())
        for x in samples(q, seed):
            need_inside(q, warm.bounds, x)
    slopes = cold.slopes()
    assert (slopes is None) == (kind == "linear")
    assert slopes is None or slopes.shape[:2] == (len(q.inputs), CLASSES)


@pytest.mark.parametrize("name", [name for name, kind in ENGINES.items() if kind.capabilities.second_form])
@given(kind=KINDS, seed=SEEDS, norm=NORMS, radius=RADII)
@settings(max_examples=4)
def test_further_rows_on_the_same_balls_are_bounded_as_if_asked_from_nothing(
    name: str, kind: str, seed: int, norm: Norm, radius: float
) -> None:
    q = query(network(kind, seed), seed + 1, norm, radius, None)
    answer = asked(engine(name), q)
    logits = answer.further(torch.eye(CLASSES, dtype=torch.float64).expand(len(q.inputs), -1, -1))
    for x in samples(q, seed):
        z, slack = exact(q.network)(x.double()).detach(), rounding(q)
        assert bool((z >= logits.lower - slack).all() & (z <= logits.upper + slack).all())
    inputs, rival = torch.arange(len(q.inputs)), (q.predicted + 1) % CLASSES
    rows, goal = q.query().rows[inputs, rival], torch.full((len(inputs),), -torch.inf, dtype=torch.float64)
    again, _ = answer.upper_bounds(inputs, rows, goal, 0, (None,) * len(inputs))
    assert bool(((again - answer.bounds.upper[inputs, rival]).abs() <= rounding(q)[:, 0]).all())

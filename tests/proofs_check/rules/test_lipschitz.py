"""The Lipschitz rules: exact thresholds on linear networks, forgeries, soundness of whatever passes."""

from __future__ import annotations

import base64
import itertools
import math
from dataclasses import replace

import exact_network as en
import numpy as np
import pytest
import torch
from exact_steps import layer
from flint import arb, arb_mat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from partial_derivatives import gradient_bounds
from small_networks import DUAL, NORMS, ORDER, array, every_layer, mlp

from proofs_check import certificate as c
from proofs_check.certificate import Assumption, Claim, RejectedError, Smoothing
from proofs_check.kernel import bounds, jacobian
from proofs_check.reading.parse import array_sha256
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz, global_lipschitz, need_constants, positive_definite
from proofs_check.rules.lipschitz.rule import (
    EngineRelaxedLipschitz,
    LocalLipschitz,
    RelaxedLipschitz,
    _difference_form,
    engine_relaxed_lipschitz,
    local_lipschitz,
    need_fixed_point,
    relaxed_lipschitz,
)
from verifiers.lipschitz.jacobian import slope_intervals, unrestricted_slopes
from verifiers.lipschitz.jacobian_linked import linked_dual_norms, linked_gradient_bounds
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP, increments, least_rho
from verifiers.network.module import PlainModule, build


def case_of(network: c.PlainNetwork, x: np.ndarray) -> Case:
    return Case(bounds.prepare(network), None, x.astype(np.float32))


def claim_of(case: Case, **kw: object) -> Claim:
    z = PlainModule(case.robust.network).double()(torch.from_numpy(case.input)[None].double())[0]
    given: dict = {
        "norm": "L2", "radius": 0.01, "alpha": 0.9, "temperature": 1.0, "predicted": int(z.argmax()),
        "class_of": "robust", "domain": None, "semantics": "real", "robust": case.robust.network.sha256,
        "standard": None, "input": array_sha256(case.input), "smoothing": None,
    }  # fmt: skip
    return Claim(**(given | kw))


def derived(case: Case, claim: Claim) -> tuple[float, ...]:
    values = bounds.value_bounds(case.robust, case.ball(claim), None)
    return tuple(jacobian.difference_constants(values, claim.predicted).tolist())


def local(case: Case, claim: Claim, theorem: str = "4a", factor: float = 1.0) -> frozenset[Assumption]:
    stated = tuple(v * factor for v in derived(case, claim))
    return local_lipschitz(claim, LocalLipschitz(theorem, stated, None), case)  # type: ignore[arg-type]


def passes(check: object, *arguments: object) -> bool:
    try:
        check(*arguments)  # type: ignore[operator]
    except RejectedError:
        return False
    return True


# ---------------------------------------------------------------- two classes, linear: the truth is known


def two_classes(norm: c.Norm, alpha: float, temperature: float) -> tuple[Case, float]:
    """A linear network of two classes and the exact radius at which the claim stops being true."""
    g = np.random.default_rng(3)
    weight = array(g, 2, 5)
    network = build([c.Input((5,)), c.Linear((0,), weight, np.array([3.0, 0.0], np.float32))])
    case = case_of(network, array(g, 5))
    exact = weight.astype(np.float64)
    z = exact @ case.input.astype(np.float64) + [3.0, 0.0]
    gap = abs(z[0] - z[1])
    mu = (1 - alpha) / alpha
    slope = np.linalg.norm(exact[0] - exact[1], ord=DUAL[norm])
    return case, (gap - math.log((1 + mu) / (1 - mu)) / temperature) / slope


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("alpha", "temperature"), [(0.6, 3.0), (0.9, 1.0), (1.0, 0.5)])
def test_on_a_linear_network_of_two_classes_the_exact_radius_separates_accepted_from_rejected(
    norm: c.Norm, alpha: float, temperature: float
) -> None:
    case, exact = two_classes(norm, alpha, temperature)
    assert exact > 0.1
    inside = claim_of(case, norm=norm, alpha=alpha, temperature=temperature, radius=exact * (1 - 1e-7))
    outside = replace(inside, radius=exact * (1 + 1e-9))
    assert local(case, inside) == frozenset()
    assert relaxed_lipschitz(inside, RelaxedLipschitz(None), case) == frozenset()
    assert not passes(local, case, outside)
    assert not passes(relaxed_lipschitz, outside, RelaxedLipschitz(None), case)


@pytest.mark.parametrize("norm", NORMS)
def test_theorem_3_5_is_accepted_up_to_its_formula_and_never_where_4a_is_not(norm: c.Norm) -> None:
    case, _ = two_classes(norm, 0.7, 1.0)
    claim = claim_of(case, norm=norm, alpha=0.7)
    z = PlainModule(case.robust.network).double()(torch.from_numpy(case.input)[None].double())[0].tolist()
    m0 = math.tanh(abs(z[0] - z[1]) / 2)
    weight = case.robust.network.nodes[1].weight.astype(np.float64)  # type: ignore[union-attr]
    exact = 2 * (m0 - 0.3 / 0.7) / np.linalg.norm(weight[0] - weight[1], ord=DUAL[norm])
    assert exact > 0
    assert passes(local, case, replace(claim, radius=exact * (1 - 1e-7)), "3.5")
    assert passes(local, case, replace(claim, radius=exact * (1 - 1e-7)), "4a")
    assert not passes(local, case, replace(claim, radius=exact * (1 + 1e-9)), "3.5")


# ---------------------------------------------------------------- forgeries


def small_case(seed: int = 0) -> tuple[Case, Claim]:
    """An MLP at an input with a clear winner, and a radius that is easily certified."""
    for attempt in range(100):
        network = mlp(seed + 100 * attempt)
        case = case_of(network, array(np.random.default_rng(attempt), 4))
        claim = claim_of(case, radius=1e-3, alpha=0.8)
        if passes(local, case, claim):
            return case, claim
    raise AssertionError("no certifiable case found")


def test_constants_stated_below_the_proven_ones_are_rejected_and_larger_ones_cost_radius() -> None:
    case, claim = small_case()
    assert local(case, claim) == frozenset()
    with pytest.raises(RejectedError, match="is below the proven bound"):
        local(case, claim, factor=1 - 1e-12)
    with pytest.raises(RejectedError, match="does not reach"):
        local(case, claim, factor=1e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, y: v[:-1], "must have 3 entries"),
        (lambda v, y: tuple(-x for x in v), "must be >= 0"),
        (lambda v, y: tuple(x + (j == y) for j, x in enumerate(v)), "predicted class must be 0"),
    ],
)
def test_malformed_constants_are_rejected(change: object, message: str) -> None:
    case, claim = small_case()
    stated = change(derived(case, claim), claim.predicted)  # type: ignore[operator]
    with pytest.raises(RejectedError, match=message):
        local_lipschitz(claim, LocalLipschitz("4a", stated, None), case)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"radius": 50.0}, "constants"),
        ({"alpha": 0.5000001}, "margin"),
        ({"temperature": 1e-6}, "margin"),
        ({"semantics": "float32"}, "semantics"),
        ({"class_of": "mix"}, "class_of"),
        ({"smoothing": Smoothing(0.5, "soft", 0.01)}, "smoothing"),
    ],
)
def test_a_changed_claim_is_rejected(change: dict, step: str) -> None:
    case, claim = small_case()
    evidence = LocalLipschitz("4a", derived(case, claim), None)
    assert local_lipschitz(claim, evidence, case) == frozenset()
    with pytest.raises(RejectedError) as error:
        prove("lipschitz_local", replace(claim, **change), evidence, case)
    assert error.value.step == step


def test_another_class_is_rejected() -> None:
    case, claim = small_case()
    other = replace(claim, predicted=(claim.predicted + 1) % 3)
    with pytest.raises(RejectedError, match="strict argmax"):
        local_lipschitz(other, LocalLipschitz("4a", derived(case, claim), None), case)


def test_engine_bounds_carry_the_assumption_and_forged_ones_are_rejected() -> None:
    case, claim = small_case()
    lower, upper = bounds.difference_bounds(case.robust, case.ball(claim), claim.predicted, None)
    honest = EngineRelaxedLipschitz("any", tuple(lower.tolist()), tuple(upper.tolist()))
    assert engine_relaxed_lipschitz(claim, honest, case) == frozenset({Assumption.ENGINE_TRUSTED})
    away = EngineRelaxedLipschitz("any", tuple((lower - 9).tolist()), tuple((upper - 9).tolist()))
    with pytest.raises(RejectedError, match="entry of the predicted class"):
        engine_relaxed_lipschitz(claim, away, case)
    moved = np.where(np.arange(3) == claim.predicted, 0.0, 9.0)
    bad = EngineRelaxedLipschitz("any", tuple((lower - moved).tolist()), tuple((upper - moved).tolist()))
    with pytest.raises(RejectedError, match="exclude the input's own"):
        engine_relaxed_lipschitz(claim, bad, case)
    loose = EngineRelaxedLipschitz("any", tuple((lower - moved).tolist()), tuple((upper + moved).tolist()))
    with pytest.raises(RejectedError, match="relaxed constants do not reach"):
        engine_relaxed_lipschitz(claim, loose, case)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 3.0))
def test_relaxed_constants_take_every_class_at_its_worst_end(seed: int, temperature: float) -> None:
    """The required margin lies a hair above, then below, inf h_y - sup h_i as torch finds it over the corners."""
    g = np.random.default_rng(seed)
    lower = np.array([0.0, *(-1 - 3 * g.random(2))])
    upper = lower + np.array([0.0, *g.random(2)])
    corners = torch.tensor(list(itertools.product(*zip(lower, upper, strict=True))), dtype=torch.float64)
    h = torch.softmax(temperature * corners, dim=1)
    gap = float(h[:, 0].min() - h[:, 1:].max())
    claim = small_case()[1]
    if gap < 1e-3:
        return
    for factor, expected in ((1 - 1e-9, True), (1 + 1e-9, False)):
        alpha = 1 / (1 + gap * factor)
        given = replace(claim, predicted=0, alpha=alpha, temperature=temperature)
        assert passes(need_fixed_point, given, lower, upper) == expected


# ---------------------------------------------------------------- soundness of what passes


def points_of(ball: bounds.Ball, count: int, seed: int) -> torch.Tensor:
    g = np.random.default_rng(seed)
    move = g.normal(size=(count, ball.center.size))
    move = np.sign(move) if ball.norm == "Linf" else move**5 if ball.norm == "L1" else move
    share = g.random((count, 1)) ** 0.2 * (1 - 1e-9)
    move *= ball.radius * share / np.linalg.norm(move, ord=ORDER[ball.norm], axis=1, keepdims=True)
    return torch.from_numpy(ball.center.astype(np.float64) + move.reshape(count, *ball.center.shape))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["relu", "leaky", "sigmoid", "tanh", "layers", "residual"])
def test_no_sampled_gradient_exceeds_the_judges_constants(kind: str, norm: c.Norm) -> None:
    for seed, radius in itertools.product(range(3), (0.0, 0.05, 0.6)):
        network = {"layers": every_layer, "residual": residual}.get(kind, lambda s: mlp(s, activation=kind))(seed)
        x = np.random.default_rng(seed).random(network.input_shape).astype(np.float32)
        ball = bounds.Ball(x, radius, norm, None)
        values = bounds.value_bounds(bounds.prepare(network), ball, None)
        points = points_of(ball, 150, seed).requires_grad_()
        z = PlainModule(network).double()(points)
        for y in range(3):
            constants = jacobian.difference_constants(values, y)
            assert constants[y] == 0
            for j in {0, 1, 2} - {y}:
                (gradient,) = torch.autograd.grad((z[:, j] - z[:, y]).sum(), points, retain_graph=True)
                sizes = np.linalg.norm(gradient.reshape(150, -1).numpy(), ord=DUAL[norm], axis=1)
                # the sampled gradients themselves are rounded
                assert sizes.max() * (1 - 1e-13) <= constants[j]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky"]), st.floats(0.01, 1.0))
def test_the_judges_gradients_hold_every_choice_of_slopes(seed: int, activation: str, radius: float) -> None:
    network = mlp(seed, (3, 4, 4, 3), activation)
    prepared = bounds.prepare(network)
    x = np.random.default_rng(seed).random(3).astype(np.float32)
    values = bounds.value_bounds(prepared, bounds.Ball(x, radius, "Linf", None), None)
    found = gradient_bounds(prepared, jacobian.slopes_over(values), np.eye(3))
    sums = jacobian.dual_norms(prepared, jacobian.slopes_over(values), np.eye(3), "Linf")
    matrices = [n.weight.astype(np.float64) for n in network.nodes if isinstance(n, c.Linear)]
    boxes = en.boxes(values)
    ends = [layer(network.nodes[k], (4, 1, 1)).derivative_range(*boxes[k - 1]) for k in (2, 4)]
    choices = [itertools.product(*[{a, b} for a, b in zip(*pair, strict=True)]) for pair in ends]
    for first, second in itertools.product(*map(list, choices)):
        inner = (np.array(second)[:, None] * matrices[1]) @ (np.array(first)[:, None] * matrices[0])
        # the products themselves are rounded
        assert (np.abs(matrices[2] @ inner) <= found + 1e-13).all()
        assert (np.abs(matrices[2] @ inner).sum(axis=1) <= sums + 1e-12).all()


@pytest.mark.parametrize("chunk", [2**19, 300])
@pytest.mark.parametrize("kind", ["relu", "leaky", "tanh", "layers", "residual"])
def test_the_judges_gradients_are_those_of_an_independent_computation(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both link the layers, and neither is tighter than the other by more than rounding."""
    monkeypatch.setattr(bounds, "CHUNK_COEFFICIENTS", chunk)
    for seed, radius in itertools.product(range(2), (0.02, 0.3)):
        network = {"layers": every_layer, "residual": residual}.get(kind, lambda s: mlp(s, activation=kind))(seed)
        x = np.random.default_rng(seed).random(network.input_shape).astype(np.float32)
        prepared = bounds.prepare(network)
        values = bounds.value_bounds(prepared, bounds.Ball(x, radius, "L2", None), None)
        found = gradient_bounds(prepared, jacobian.slopes_over(values), np.eye(3)).reshape(3, -1)
        maps = LinearMaps(network)
        boxes = [(torch.from_numpy(lower.copy())[None], torch.from_numpy(upper.copy())[None])
                 for lower, upper in en.boxes(values)]  # fmt: skip
        slopes = slope_intervals(maps, boxes)
        other = linked_gradient_bounds(maps, slopes, torch.eye(3, dtype=torch.float64)[None])
        size = (other.centre.abs() + other.radius)[0].flatten(1).numpy()
        size = size if x.ndim == 1 else np.moveaxis(size.reshape(3, *x.shape), 1, -1).reshape(3, -1)
        assert found == pytest.approx(size, rel=1e-9, abs=1e-12)
        for norm in NORMS:
            sizes = jacobian.dual_norms(prepared, jacobian.slopes_over(values), np.eye(3), norm)
            others = linked_dual_norms(maps, slopes, torch.eye(3, dtype=torch.float64)[None], norm)[0]
            assert sizes == pytest.approx(others.numpy(), rel=1e-9, abs=1e-12)
        assert (sizes <= found.sum(axis=1)).all()


def residual(seed: int) -> c.PlainNetwork:
    """Two residual blocks with strides; every convolution sees windows that cross the border."""
    g = np.random.default_rng(seed)

    def conv(source: int, inner: int, stride: int = 1) -> c.Conv2d:
        return c.Conv2d((source,), array(g, 3, inner, 3, 3), array(g, 3), (stride, stride), (1, 1, 1, 1), (1, 1), 1)

    return build(
        [
            c.Input((2, 9, 9)),
            conv(0, 2, 2),
            c.Relu((1,)),
            conv(2, 3),
            c.LeakyRelu((3,), 0.1),
            conv(4, 3),
            c.Add((5, 2)),
            c.Relu((6,)),
            conv(7, 3, 2),
            c.Relu((8,)),
            c.MaxPool2d((9,), (2, 2), (1, 1), (0, 0, 0, 0)),
            c.Flatten((10,)),
            c.Linear((11,), array(g, 3, 12), array(g, 3)),
        ]
    )


def test_uncertain_slopes_widen_gradients_only_along_what_lies_below_them() -> None:
    """2 relu(x_0) with x_0 of either sign, 3 relu(x_1 + 9): the partial derivatives lie in [0, 2] and are 3."""
    network = build(
        [
            c.Input((2,)),
            c.Linear((0,), np.eye(2, dtype=np.float32), np.array([0.0, 9.0], np.float32)),
            c.Relu((1,)),
            c.Linear((2,), np.array([[2, 0], [0, 3]], np.float32), np.zeros(2, np.float32)),
        ]
    )
    prepared = bounds.prepare(network)
    values = bounds.value_bounds(prepared, bounds.Ball(np.zeros(2, np.float32), 0.5, "Linf", None), None)
    for slopes in (jacobian.slopes_over(values), jacobian.slopes_everywhere(prepared)):
        found = gradient_bounds(prepared, slopes, np.eye(2))
        assert found == pytest.approx(np.array([[2, 0], [0, 3]]), abs=1e-12)


def test_effects_of_one_uncertain_slope_cancel_in_the_sum_of_sizes() -> None:
    """J = (5 + s, 5 - s), s in [0, 1]: the entries allow 6 + 5, their sizes always sum to 10."""
    first = np.array([[5, 5], [1, -1]], np.float32)
    network = build(
        [
            c.Input((2,)),
            c.Linear((0,), first, np.array([9, 0], np.float32)),
            c.Relu((1,)),
            c.Linear((2,), np.array([[1, 1], [0, 0]], np.float32), np.zeros(2, np.float32)),
        ]
    )
    prepared = bounds.prepare(network)
    values = bounds.value_bounds(prepared, bounds.Ball(np.zeros(2, np.float32), 0.1, "Linf", None), None)
    slopes, form = jacobian.slopes_over(values), np.array([[1.0, -1.0]])
    assert gradient_bounds(prepared, slopes, form) == pytest.approx(np.array([[6, 5]]), rel=1e-12)
    found = float(jacobian.dual_norms(prepared, slopes, form, "Linf")[0])
    assert 10 <= found <= 10 * (1 + 1e-12)
    assert jacobian.dual_norms(prepared, slopes, form, "L1")[0] == pytest.approx(6, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(NORMS), st.floats(0.51, 1.0), st.floats(0.2, 4.0))
def test_no_point_of_an_accepted_ball_breaks_the_required_margin(
    seed: int, norm: c.Norm, alpha: float, temperature: float
) -> None:
    case = case_of(mlp(seed), array(np.random.default_rng(seed), 4))
    model = PlainModule(case.robust.network).double()
    for radius in (1.0, 0.3, 0.1, 0.03, 0.01):
        claim = claim_of(case, norm=norm, alpha=alpha, temperature=temperature, radius=radius)
        if not (passes(local, case, claim) or passes(relaxed_lipschitz, claim, RelaxedLipschitz(None), case)):
            continue
        h = torch.softmax(temperature * model(points_of(case.ball(claim), 300, seed)), dim=1)
        rival = h.clone()
        rival[:, claim.predicted] = -1
        assert bool((alpha * (h[:, claim.predicted] - rival.amax(dim=1)) > 1 - alpha).all())
        return


# ---------------------------------------------------------------- LipSDP


def encoded(multipliers: np.ndarray) -> str:
    return base64.b64encode(multipliers.astype("<f4").tobytes()).decode()


def least_proven(network: c.PlainNetwork, multipliers: np.ndarray, start: float) -> float | None:
    """The least power of 1.02 times `start` that the judge proves for every difference from class 0, if any."""
    prepared = bounds.prepare(network)
    for power in range(-200, 500, 2):
        stated = np.full(network.classes, start * 1.02**power)
        stated[0] = 0
        if passes(need_constants, prepared, 0, stated, multipliers):
            return float(stated[1])
    return None


def largest_gradient(network: c.PlainNetwork, count: int = 4000) -> float:
    g = torch.Generator().manual_seed(0)
    points = (torch.randn((count, *network.input_shape), generator=g, dtype=torch.float64) * 3).requires_grad_()
    z = PlainModule(network).double()(points)
    sizes = [
        torch.autograd.grad((z[:, j] - z[:, 0]).sum(), points, retain_graph=True)[0].flatten(1).norm(dim=1).max()
        for j in range(1, network.classes)
    ]
    return float(max(sizes))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky", "sigmoid", "tanh"]), st.floats(-4, 4))
def test_whatever_multipliers_are_sent_nothing_below_a_sampled_gradient_is_proven(
    seed: int, activation: str, scale: float
) -> None:
    network = mlp(seed, (3, 4, 3), activation)
    g = np.random.default_rng(seed)
    multipliers = np.exp(g.normal(size=(3, 4)) * 2 + scale).astype(np.float32).astype(np.float64)
    truth = largest_gradient(network)
    stated = np.array([0.0, truth * 0.999, truth * 0.999])
    assert not passes(need_constants, bounds.prepare(network), 0, stated, multipliers)


@pytest.mark.parametrize("activation", ["relu", "leaky", "sigmoid", "tanh"])
def test_the_least_provable_constant_is_that_of_an_independent_computation(activation: str) -> None:
    """Two hidden layers: couplings between layers and slopes [a, b] with a > 0 all count."""
    network = mlp(7, (4, 6, 5, 3), activation)
    maps = LinearMaps(network)
    rows = np.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    found = LipSDP(max_steps=50).bounds(maps, rows, unrestricted_slopes(maps))
    system = increments(maps, unrestricted_slopes(maps), 100)
    multipliers = np.stack([np.zeros(11), *(f.multipliers.astype(np.float64) for f in found)])
    rho = [least_rho(system, row, f.multipliers.astype(np.float64)) for row, f in zip(rows, found, strict=True)]
    exact = np.array([0.0, *(math.sqrt(r) for r in rho if r is not None)])
    prepared = bounds.prepare(network)
    need_constants(prepared, 0, exact * (1 + 1e-6), multipliers)
    for j in (1, 2):
        forged = exact * (1 + 1e-6)
        forged[j] = exact[j] * (1 - 1e-6)
        with pytest.raises(RejectedError, match=f"class {j}"):
            need_constants(prepared, 0, forged, multipliers)


def test_good_multipliers_prove_a_constant_and_their_sign_and_count_are_checked() -> None:
    network = mlp(2, (3, 8, 3))
    multipliers = np.ones((3, 8)) * 10.0
    found = least_proven(network, multipliers, largest_gradient(network))
    assert found is not None
    assert largest_gradient(network) <= found
    case = case_of(network, array(np.random.default_rng(0), 3))
    claim = claim_of(case, radius=1e-9, alpha=1.0)
    constants = tuple(0.0 if j == claim.predicted else 1e3 for j in range(3))
    good = np.full((3, 8), 100.0)
    assert global_lipschitz(claim, GlobalLipschitz("4a", constants, encoded(good)), case) == frozenset()
    bad = good.copy()
    bad[(claim.predicted + 1) % 3, 4] = -1e-3
    for forged, message in [
        (encoded(bad), "must be >= 0"),
        (encoded(good[:, 1:]), "must be 96 bytes"),
        ("?", "base64"),
    ]:
        with pytest.raises(RejectedError, match=message):
            global_lipschitz(claim, GlobalLipschitz("4a", constants, forged), case)
    bad[(claim.predicted + 1) % 3, 4] = np.nan
    assert not passes(global_lipschitz, claim, GlobalLipschitz("4a", constants, encoded(bad)), case)
    small = tuple(v * 1e-4 for v in constants)
    with pytest.raises(RejectedError, match="is not proven by its multipliers"):
        global_lipschitz(claim, GlobalLipschitz("4a", small, encoded(good)), case)


def test_full_coupling_is_not_accepted_by_any_diagonal() -> None:
    """Two identical neurons with opposite output weights: the exact constant is 0 only with coupled multipliers."""
    weight = np.ones((2, 1), np.float32)
    network = build(
        [
            c.Input((1,)),
            c.Linear((0,), weight, np.zeros(2, np.float32)),
            c.Relu((1,)),
            c.Linear((2,), np.array([[1, -1], [0, 0]], np.float32), np.zeros(2, np.float32)),
        ]
    )
    for scale in (0.1, 0.5, 1.0, 2.0, 10.0):
        stated = np.array([0.0, 0.4])
        assert not passes(need_constants, bounds.prepare(network), 0, stated, np.full((2, 2), scale))


def test_max_pooling_has_no_multipliers() -> None:
    network = every_layer(0)
    with pytest.raises(RejectedError, match="MaxPool2d"):
        need_constants(bounds.prepare(network), 0, np.zeros(3), np.ones((3, 500)))


@pytest.mark.parametrize("least", [1e-3, 1e-9, 0.0, -1e-12, -1.0])
def test_only_proven_positive_definiteness_passes(least: float) -> None:
    g = np.random.default_rng(0)
    basis = np.linalg.qr(g.normal(size=(6, 6)))[0]
    eigenvalues = [arb(least), arb(1), arb(2), arb(3), arb(4), arb(5)]
    exact = arb_mat(6, 6, [arb(float(v)) for v in basis.ravel()])
    diagonal = arb_mat(6, 6, [eigenvalues[i] if i == j else arb(0) for i in range(6) for j in range(6)])
    assert positive_definite(exact * diagonal * exact.transpose()) == (least > 0)


def test_an_uncertain_matrix_is_not_called_positive_definite() -> None:
    wide = arb(1, 2)
    assert not positive_definite(arb_mat(2, 2, [arb(1), wide, wide, arb(2)]))
    off_diagonal = arb(0, 2)  # the middle is the identity
    assert not positive_definite(arb_mat(2, 2, [arb(1), off_diagonal, off_diagonal, arb(1)]))
    assert positive_definite(arb_mat(2, 2, [arb(1), arb(0, 0.5), arb(0, 0.5), arb(1)]))


def test_global_constants_serve_the_other_norms_with_their_factor() -> None:
    network = mlp(5, (3, 8, 3))
    inputs = np.random.default_rng(1).normal(size=(200, 3)) * 3
    z = PlainModule(network).double()(torch.from_numpy(inputs)).sort(dim=1).values
    case = case_of(network, inputs[int((z[:, -1] - z[:, -2]).argmax())])
    claim = claim_of(case, alpha=0.9)
    constants = tuple(0.0 if j == claim.predicted else 60.0 for j in range(3))
    evidence = GlobalLipschitz("4a", constants, encoded(np.full((3, 8), 30.0)))

    def radius(norm: c.Norm) -> float:
        low, high = 0.0, 2.0
        for _ in range(30):
            middle = (low + high) / 2
            good = passes(global_lipschitz, replace(claim, norm=norm, radius=middle), evidence, case)
            low, high = (middle, high) if good else (low, middle)
        return low

    by_norm = {norm: radius(norm) for norm in NORMS}
    assert by_norm["L2"] == by_norm["L1"] > 0.01
    assert by_norm["L2"] / math.sqrt(3) * (1 - 1e-6) <= by_norm["Linf"] <= by_norm["L2"] / math.sqrt(3) * (1 + 1e-6)


@given(
    at_x=st.tuples(st.floats(-8, 0), st.floats(-8, 3), st.floats(-8, 3)),
    constants=st.tuples(st.floats(0, 4), st.floats(0, 4), st.floats(0, 4)),
    radius=st.floats(0, 3),
    alpha=st.floats(0.51, 1),
)
# where L_o / 4 and L_i / 2 are attained: half the margin with a rival that moves alone, and none of it
@example(at_x=(-40.0, 0.0, -40.0), constants=(0.0, 1.0, 0.0), radius=0.0041, alpha=1 / 1.499)
@example(at_x=(-0.02, -40.0, -40.0), constants=(1.0, 0.0, 0.0), radius=0.021, alpha=1.0)
def test_theorem_3_5_proves_no_margin_that_differences_within_their_constants_undo(
    at_x: tuple[float, ...], constants: tuple[float, ...], radius: float, alpha: float
) -> None:
    """d_j may be any numbers within L_j r of those at x: what is proven for the rival 0 is so at the worst of them."""
    claim = Claim("L2", radius, alpha, 1.0, 3, "robust", None, "real", "", None, "", None)
    known, moved = np.array([*at_x, 0.0]), np.array([*constants, 0.0])
    if _difference_form(claim, known, moved, 0):
        e = [(arb(d) + arb(s) * arb(radius)).exp() for d, s in zip(at_x, constants, strict=True)]
        margin = (1 - e[0]) / (1 + sum(e, arb(0)))
        assert not arb(alpha) * margin <= 1 - arb(alpha)

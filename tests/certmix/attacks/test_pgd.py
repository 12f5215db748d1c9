"""Attacks reach closed-form optima, follow true gradients, and never claim what is not so."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from certmix.attacks import Schedule, confirm, make_ball, pgd, quick_attack
from certmix.attacks.auto_attack import ENSEMBLE, auto_attack
from certmix.attacks.confirm import Confirmed, contained
from certmix.attacks.objectives import LOSSES, ClassifierObjective, FloorObjective, Loss, margins
from certmix.attacks.radius import attack_radius
from certmix.attacks.worst import ATTACKS, WORST, Budget, members_here, strongest_rivals, worst
from certmix.data.dataset import load_data
from certmix.errors import UsageError
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import load_model
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data, module.bias.data = weight, bias
    return module


def random_network(seed: int, inputs: int = 6, classes: int = 4, gain: float = 2.0) -> c.PlainNetwork:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (gain * rng.normal(size=shape) / math.sqrt(shape[-1])).astype(np.float32)

    return build(
        [
            c.Input((inputs,)),
            c.Linear((0,), draw(12, inputs), draw(12)),
            c.Relu((1,)),
            c.Linear((2,), draw(classes, 12), draw(classes)),
        ]
    )


def random_mix(seed: int, alpha: float = 0.7) -> MixedClassifier:
    standard = PlainModule(random_network(seed, gain=4.0))
    return MixedClassifier(standard, PlainModule(random_network(seed + 1)), alpha)


def best_linear_lead(
    weight: Tensor, x: Tensor, radius: float, norm: c.Norm, domain: tuple[float, float] | None
) -> float:
    """max w·x' over ball and box in closed form (greedy for L1; L2 without box)."""
    room = torch.full_like(x, math.inf) if domain is None else torch.where(weight > 0, domain[1] - x, x - domain[0])
    base = float(weight @ x)
    if norm == "Linf":
        return base + float((weight.abs() * room.clamp_max(radius)).sum())
    if norm == "L2":
        assert domain is None
        return base + radius * float(weight.norm())
    left = radius
    for k in weight.abs().argsort(descending=True).tolist():
        used = min(left, float(room[k]))
        base, left = base + float(weight[k].abs()) * used, left - used
    return base


@pytest.mark.parametrize("step", ["fixed", "decay", "adaptive"])
@pytest.mark.parametrize(
    ("norm", "domain"),
    [("Linf", None), ("Linf", (0.0, 1.0)), ("L2", None), ("L1", None), ("L1", (0.0, 1.0))],
)
def test_attacks_on_linear_models_reach_the_closed_form_optimum(
    norm: c.Norm, domain: tuple[float, float] | None, step: str
) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        weight, x = torch.randn(2, 8, generator=generator), torch.rand(1, 8, generator=generator)
        model = linear(weight, torch.zeros(2))
        schedule = Schedule(steps=100, step=step, relative_step=0.1, keep_going=True)  # type: ignore[arg-type]
        ball = make_ball(x, 0.4, norm, domain)
        found = pgd(ClassifierObjective(model, "margin"), ball, torch.tensor([0]), schedule)
        difference = weight[1] - weight[0]
        reached, best = float((found.points @ difference)[0]), best_linear_lead(difference, x[0], 0.4, norm, domain)
        assert best - 2e-3 * float(difference.norm()) <= reached <= best + 1e-5
        assert bool(found.found[0]) == (reached > 0)


def test_l2_attacks_reach_the_optimum_of_ball_and_box() -> None:
    # closed form by bisection on the multiplier: x' = clip(x + t w) with ‖x' − x‖ = r
    weight, x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, -1.0]]), torch.tensor([[0.9, 0.5, 0.3]])
    ball = make_ball(x, 0.4, "L2", (0.0, 1.0))
    result = pgd(
        ClassifierObjective(linear(weight, torch.zeros(2)), "margin"), ball, torch.tensor([0]),
        Schedule(steps=200, keep_going=True),
    )  # fmt: skip
    low, high = 0.0, 10.0
    for _ in range(100):
        t = (low + high) / 2
        best = (x[0] + t * weight[1]).clamp(0, 1)
        low, high = (t, high) if float((best - x[0]).norm()) < 0.4 else (low, t)
    assert float(weight[1] @ result.points[0]) == pytest.approx(float(weight[1] @ best), abs=2e-3)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_gradients_of_every_loss_agree_with_finite_differences(loss: Loss) -> None:
    mix = random_mix(5).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    labels, none = torch.tensor([0, 1, 2, 3]), torch.full((4,), -1)
    for targets in (none, (labels + 1) % 4):
        objective = ClassifierObjective(mix, loss)
        gradient = objective.ascent(x, labels, targets).gradient
        for k in range(6):
            step = torch.zeros(4, 6, dtype=torch.float64)
            step[:, k] = 1e-6
            ahead = objective.ascent(x + step, labels, targets).score
            behind = objective.ascent(x - step, labels, targets).score
            assert torch.allclose((ahead - behind) / 2e-6, gradient[:, k], atol=1e-5, rtol=1e-5)


def test_the_floor_follows_both_logit_margins_and_leaves_g_alone_once_it_is_sure() -> None:
    mix = random_mix(7).double()
    x = torch.rand(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = mix.robust(x).argmax(1)
    rivals = strongest_rivals(mix.robust, x, labels, 1)[:, 0]

    def unit_gradient(model: nn.Module) -> Tensor:
        points = x.clone().requires_grad_()
        logits = model(points)
        lead = logits.gather(1, rivals[:, None]) - logits.gather(1, labels[:, None])
        (gradient,) = torch.autograd.grad(lead.sum(), points)
        return gradient / gradient.abs().mean(1, keepdim=True)

    free = FloorObjective(mix, sure=1.0).ascent(x, labels, rivals).gradient
    assert torch.allclose(free, unit_gradient(mix.standard) + unit_gradient(mix.robust))
    done = FloorObjective(mix, sure=-1.0).ascent(x, labels, rivals).gradient
    assert torch.allclose(done, unit_gradient(mix.robust))
    untargeted = FloorObjective(mix, sure=1.0).ascent(x, labels, torch.full_like(labels, -1)).gradient
    assert torch.allclose(untargeted, free)
    # with two classes the log-odds against y are the difference of the logits
    first = [MixedClassifier(*(nn.Sequential(m, First(2)) for m in (mix.standard, mix.robust)), 0.7)]
    zeros, ones, none = torch.zeros_like(labels), torch.ones_like(labels), torch.full_like(labels, -1)
    aimed, free = (FloorObjective(first[0], "all", sure=1.0).ascent(x, zeros, t).gradient for t in (ones, none))
    assert torch.allclose(aimed, free)


class Viewing(nn.Module):
    """A module of somebody else that insists on the usual layout."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.view(len(x), -1).view(x.shape))


@pytest.mark.parametrize("objective", ["classifier", "floor"])
def test_plain_and_foreign_modules_give_one_gradient_whatever_the_layout(objective: str) -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    networks = [
        build([c.Input((2, 4, 4)), c.Conv2d((0,), draw(3, 2, 3, 3), draw(3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
               c.Relu((1,)), c.Flatten((2,)), c.Linear((3,), draw(3, 48), draw(3))])
        for _ in range(2)
    ]  # fmt: skip
    plain = [PlainModule(n).double() for n in networks]
    x, labels, none = torch.from_numpy(rng.random((5, 2, 4, 4))), torch.arange(5) % 3, torch.full((5,), -1)
    found = [
        (ClassifierObjective(mix, "margin") if objective == "classifier" else FloorObjective(mix)).ascent(
            x, labels, none
        )
        for mix in (MixedClassifier(*plain, 0.7), MixedClassifier(*map(Viewing, plain), 0.7))
    ]
    assert torch.allclose(found[0].gradient, found[1].gradient, rtol=1e-10, atol=1e-12)
    assert torch.allclose(found[0].score, found[1].score, rtol=1e-10, atol=1e-12)


class First(nn.Module):
    """The first `count` logits."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, z: Tensor) -> Tensor:
        return z[:, : self.count]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    radius=st.floats(0.01, 1.0),
    name=st.sampled_from(list(ATTACKS)),
)
def test_every_attack_stays_in_the_set_and_reports_only_what_the_mix_computes(
    seed: int, norm: c.Norm, radius: float, name: str
) -> None:
    mix = random_mix(seed)
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(seed))
    labels = mix(x).argmax(1)
    result = ATTACKS[name](mix, make_ball(x, radius, norm, (0.0, 1.0)), labels, Budget(steps=5))
    for point, center in zip(result.points.numpy(), x.numpy(), strict=True):
        assert contained(point, center, radius, norm, (0.0, 1.0))
    # float32 sums depend on the size of the batch: near a tie another batch may see the other class
    assert bool(((margins(mix(result.points), labels) > -1e-5) | ~result.found).all())


@pytest.mark.parametrize("name", ["floor_targeted", "dlr", "floor"])
def test_a_point_found_on_the_way_is_kept_though_a_better_score_was_met(name: str) -> None:
    # targeted scores and losses can prefer an iterate that keeps the class to one that loses it
    for seed in range(30):
        mix = random_mix(seed)
        x = torch.rand(20, 6, generator=torch.Generator().manual_seed(seed))
        labels = mix(x).argmax(1)
        result = ATTACKS[name](mix, make_ball(x, 0.5, "Linf", (0.0, 1.0)), labels, Budget(steps=5))
        assert bool(((margins(mix(result.points), labels) > -1e-5) | ~result.found).all())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 0.55, 0.75, 1.0]), norm=st.sampled_from(["Linf", "L2"]))
def test_found_points_of_the_quick_attack_are_confirmed_in_real_arithmetic(
    seed: int, alpha: float, norm: c.Norm
) -> None:
    g, h = random_network(seed, gain=4.0), random_network(seed + 1)
    mix = MixedClassifier(PlainModule(g), PlainModule(h), alpha, 1.5)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
    labels = mix(x).argmax(1)
    radius = torch.full((4,), 0.5, dtype=torch.float64)
    result = quick_attack(PlainModule(g), PlainModule(h), alpha, 1.5, x, labels, norm, radius, (0.0, 1.0), steps=10)
    logits = mix(result.points)
    lead = logits.max(1).values - logits.gather(1, labels[:, None])[:, 0]
    for k in result.found.nonzero().flatten().tolist():
        if float(lead[k].detach()) > 1e-4:
            verdict = confirm(
                result.points[k].numpy(), x[k].numpy(), 0.5, norm, (0.0, 1.0), g, h, alpha, 1.5, int(labels[k])
            )
            assert isinstance(verdict, Confirmed)


def test_equal_seeds_give_equal_points_and_other_seeds_other_starts() -> None:
    mix = random_mix(11)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    ball, labels = make_ball(x, 0.05, "Linf", (0.0, 1.0)), mix(x).argmax(1)
    runs = [
        pgd(ClassifierObjective(mix, "margin"), ball, labels, Schedule(steps=3, seed=s, keep_going=True)).points
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_more_restarts_and_more_attacks_never_save_an_input() -> None:
    mix = random_mix(13)
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(4))
    ball, labels = make_ball(x, 0.1, "Linf", (0.0, 1.0)), mix(x).argmax(1)
    once = ATTACKS["mix"](mix, ball, labels, Budget(steps=5, restarts=1)).found
    thrice = ATTACKS["mix"](mix, ball, labels, Budget(steps=5, restarts=3)).found
    assert bool((thrice | ~once).all())
    few = worst(mix, ball, labels, Budget(steps=5), ("mix",)).found
    all_of_them = worst(mix, ball, labels, Budget(steps=5)).found
    assert bool((all_of_them | ~few).all())


@pytest.mark.parametrize(("seed", "norm"), [(0, "Linf"), (1, "L2"), (2, "L1")])
def test_the_attack_radius_of_a_linear_model_is_its_distance_to_the_boundary(seed: int, norm: c.Norm) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(2, 5, generator=generator), torch.rand(6, 5, generator=generator)
    model = linear(weight, torch.zeros(2))
    mix = MixedClassifier(model, model, 0.6)
    labels = mix(x).argmax(1)
    result = attack_radius(mix, x, labels, norm, None, limit=100.0, tolerance=0.02, steps=20)
    difference = weight[1] - weight[0]
    dual = {"Linf": difference.abs().sum(), "L2": difference.norm(), "L1": difference.abs().max()}[norm]
    for k in range(len(x)):
        distance = abs(float(difference @ x[k])) / float(dual)
        assert bool(result.found[k])
        assert distance * (1 - 1e-4) - 1e-6 <= float(result.radius[k]) <= distance * 1.04 + 1e-5
        assert contained(result.points[k].numpy(), x[k].numpy(), float(result.radius[k]), norm, None)
        assert int(mix(result.points)[k].argmax()) != int(labels[k])


def test_the_attack_radius_says_where_nothing_was_found() -> None:
    model = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
    x = torch.tensor([[0.9, 0.1], [0.5, 0.4], [0.4, 0.5]])
    result = attack_radius(MixedClassifier(model, model, 0.6), x, torch.tensor([0, 0, 0]), "Linf", (0.0, 1.0), 0.2)
    assert result.found.tolist() == [False, True, True]
    assert float(result.radius[0]) == 0.2
    assert 0.05 <= float(result.radius[1]) <= 0.0506
    assert float(result.radius[2]) == 0.0
    assert Fraction(float(result.points[0, 0])) <= Fraction(float(x[0, 0])) + Fraction(0.2)


@pytest.mark.parametrize("alpha", [0.6, 0.75, 0.9])
@pytest.mark.parametrize(("norm", "radius"), [("Linf", 0.1), ("L2", 0.5), ("L1", 2.0)])
def test_no_more_inputs_survive_than_foolbox_leaves_with_the_same_budget(
    norm: c.Norm, radius: float, alpha: float
) -> None:
    foolbox = pytest.importorskip("foolbox")
    digits = Path(__file__).parents[3] / "examples" / "digits"
    standard, robust = (load_model(digits / f"{name}.onnx").module for name in ("standard", "robust"))
    data = load_data(digits / "tune.npz", 200)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    mix = MixedClassifier(standard, robust, alpha).eval()
    theirs = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD, "L1": foolbox.attacks.L1PGD}[norm]
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(mix, bounds=(0, 1))
    _, _, lost = theirs(steps=20, rel_stepsize=2.5 / 20)(wrapped, x, labels, epsilons=radius)
    ball = make_ball(x, radius, norm, (0.0, 1.0))
    ours = quick_attack(standard, robust, alpha, 1.0, x, labels, norm, ball.radius, (0.0, 1.0), steps=10)
    assert int(ours.found.sum()) >= int(lost.sum())


@pytest.mark.parametrize(("norm", "radius"), [("Linf", 0.1), ("L2", 0.5), ("L1", 2.0)])
def test_every_member_of_autoattack_stays_in_the_set_and_finds_nothing_where_nothing_is(
    norm: c.Norm, radius: float
) -> None:
    digits = Path(__file__).parents[3] / "examples" / "digits"
    standard, robust = (load_model(digits / f"{name}.onnx").module for name in ("standard", "robust"))
    data = load_data(digits / "tune.npz", 4)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    mix = MixedClassifier(standard, robust, 0.75)
    radii = torch.tensor([radius, 2 * radius, 1e-6, 0.0], dtype=torch.float64)
    for member in ENSEMBLE:
        found = auto_attack(mix, make_ball(x, radii, norm, (0.0, 1.0)), labels, (member,), iterations=4, queries=20)
        for point, center, r in zip(found.points.numpy(), x.numpy(), radii.tolist(), strict=True):
            assert contained(point, center, r, norm, (0.0, 1.0))
        right = mix(x).argmax(1) == labels
        assert not bool((found.found & right)[radii < 1e-5].any())
        assert bool((found.found == (mix(found.points).argmax(1) != labels)).all())


def test_autoattack_is_part_of_the_worst_case_and_only_sees_what_survived() -> None:
    assert members_here()[-1] == "auto_attack"
    mix = random_mix(17)
    x = torch.rand(
        6, 6, generator=torch.Generator().manual_seed(6)
    )  # vectors: Square, which paints squares, is left out
    labels = mix(x).argmax(1)
    ball = make_ball(x, 0.3, "Linf", (0.0, 1.0))
    alone = auto_attack(mix, ball, labels, iterations=10).found
    assert bool(alone.any())
    assert bool((~alone | worst(mix, ball, labels, Budget(steps=10)).found).all())
    assert bool((alone == worst(mix, ball, labels, Budget(steps=10, rivals=9), ("auto_attack",)).found).all())


def test_autoattack_leaves_a_tracer_of_others_alone() -> None:
    mix, x = random_mix(3), torch.rand(1, 6)
    before, mine = sys.gettrace(), lambda *_: None
    try:
        sys.settrace(mine)
        auto_attack(mix, make_ball(x, 0.1, "L2", None), mix(x).argmax(1), ("apgd-ce",), iterations=1)
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is mine


def test_without_autoattack_the_worst_case_is_ours_and_asking_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert members_here() == WORST
    mix, x = random_mix(3), torch.rand(2, 6)
    ball, labels = make_ball(x, 0.1, "Linf", None), mix(x).argmax(1)
    assert len(worst(mix, ball, labels, Budget(steps=2)).found) == 2
    with pytest.raises(UsageError, match="pip install"):
        auto_attack(mix, ball, labels)


def test_misuse_names_the_value() -> None:
    with pytest.raises(UsageError, match="steps"):
        Schedule(steps=0)
    mix = random_mix(1)
    x = torch.rand(2, 6)
    with pytest.raises(UsageError, match="nonsense"):
        worst(mix, make_ball(x, 0.1, "Linf", None), torch.zeros(2, dtype=torch.int64), Budget(), ("nonsense",))
    with pytest.raises(UsageError, match="limit"):
        attack_radius(mix, x, torch.zeros(2, dtype=torch.int64), "L2", None, limit=0.0)

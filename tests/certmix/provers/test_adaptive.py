"""Mixes with an input-dependent alpha or transformed logits: the classifier, its certificates, forged ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shlex
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import certmix
from certmix.__main__ import main
from certmix.attacks import make_ball
from certmix.attacks.adaptive_weight import moved, weight_at
from certmix.attacks.arb_network import logits_in_arb
from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.mixing.mixed import MixedClassifier, transformed
from certmix.models.model import Model, load_model
from certmix.provers.adaptive_bounds import transformed_upper
from certmix.provers.certify import certify_adaptive
from certmix.provers.judging import JudgeSession
from certmix.records.outcomes import Abstained, Certified, Falsified, Outcome, Reason
from certmix.runs.adaptive import audit_adaptive
from certmix.runs.store import Store
from certmix.settings import Settings
from proofs_check import judge
from proofs_check.__main__ import main as judge_folder
from proofs_check.certificate import (
    Accepted,
    Adaptive,
    Assumption,
    Claim,
    Flatten,
    Input,
    Linear,
    MalformedError,
    MixedNuts,
    PlainNetwork,
    Rejected,
    Relu,
    Transform,
)
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules import adaptive as rule
from proofs_check.rules.case import Case
from verifiers.network.module import build

COUNT = 6
SMOOTHED = {"noise_std": 0.5, "base": "soft", "failure_probability": 0.001, "grid": 255, "networks": "robust"}
transforms = st.builds(Transform, st.floats(-2, 2), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), st.booleans())


def weight_network(seed: int) -> PlainNetwork:
    """Two logits of a digit."""
    rng = np.random.default_rng(seed)

    def f(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    return build(
        [Input((1, 8, 8)), Flatten((0,)), Linear((1,), f(16, 64), f(16)), Relu((2,)), Linear((3,), 4 * f(2, 16), f(2))]
    )


ALPHA = SigmoidAlpha(weight_network(0), 0.6, 0.95)
MIXES = {
    "network": AdaptiveMix(ALPHA),
    "declared": AdaptiveMix(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid(), nn.Flatten(0)), 0.75),
    "clamp": AdaptiveMix(0.75, transform=Transform(1.0, 2.0, True)),
    "cube": AdaptiveMix(0.75, transform=Transform(0.0, 3.0, False)),
    "nuts": AdaptiveMix(0.75, transform=MixedNuts(6.0, -0.8, 2.0)),
    "both": AdaptiveMix(ALPHA, transform=Transform(0.5, 1.5, True)),
}


@pytest.fixture(scope="module")
def pair(digits: Path) -> tuple[Model, Model]:
    return load_model(digits / "standard.onnx"), load_model(digits / "robust.onnx")


@pytest.fixture(scope="module")
def x(digits: Path) -> Tensor:
    images = np.load(digits / "audit.npz")["images"][:COUNT]
    return torch.from_numpy(images.astype(np.float32))


@pytest.fixture(scope="module")
def outcomes(pair: tuple[Model, Model], x: Tensor) -> dict[str, list[Outcome]]:
    settings = Settings(0.75, tolerance=0.02)
    return {name: certify_adaptive(*pair, x, mix, settings) for name, mix in MIXES.items()}


# ---------------------------------------------------------------- the classifier


class Weights(nn.Module):
    """Stated weights, whatever the input."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.values[: len(x)]


def logits(seed: int) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(4, 5, dtype=torch.float64)
    return nn.Linear(5, 3).double(), nn.Linear(5, 3).double(), x


def test_the_adaptive_mix_is_the_formula_with_its_own_weight_per_input():
    g, h, x = logits(1)
    weights = [0.0, 0.3, 0.9, 1.0]
    mix = MixedClassifier(g, h, Weights(weights), 2.0, alpha_lower=0.0)
    got = mix(x).exp()
    for k, a in enumerate(weights):
        wanted = (1 - a) * torch.softmax(g(x[k]), 0) + a * torch.softmax(2 * h(x[k]), 0)
        assert torch.allclose(got[k], wanted, atol=1e-12)
        assert torch.allclose(got[k], MixedClassifier(g, h, a, 2.0)(x[[k]]).exp()[0], atol=1e-12)


def test_the_declared_lower_bound_is_enforced():
    g, h, x = logits(2)
    low = MixedClassifier(g, h, Weights([0.1, 0.7, 0.8, 2.0]), alpha_lower=0.75)(x)
    assert torch.allclose(low, MixedClassifier(g, h, Weights([0.75, 0.75, 0.8, 1.0]), alpha_lower=0.0)(x))


def test_gradients_are_finite_at_every_weight():
    g, h, x = logits(3)
    x.requires_grad_()
    mix = MixedClassifier(g, h, Weights([0.0, 0.5, 1.0, 1.0]), alpha_lower=0.0, transform=Transform(0.0, 2.0, True))
    (gradient,) = torch.autograd.grad(mix(x).logsumexp(1).sum() + mix(x)[:, 0].sum(), x)
    assert bool(torch.isfinite(gradient).all())


def test_misuse_is_refused():
    g, h, x = logits(4)
    with pytest.raises(UsageError, match="alpha_lower"):
        MixedClassifier(g, h, Weights([0.5]))
    with pytest.raises(UsageError, match="alpha_lower"):
        MixedClassifier(g, h, 0.5, alpha_lower=0.5)
    with pytest.raises(UsageError, match="one weight per input"):
        MixedClassifier(g, h, Weights([0.5]), alpha_lower=0.1)(x)
    with pytest.raises(UsageError, match="range"):
        SigmoidAlpha(weight_network(1), 0.9, 0.6)
    with pytest.raises(MalformedError):
        Transform(0.0, 0.0, True)
    with pytest.raises(MalformedError):
        Adaptive(None, None)


@given(transforms, st.floats(-50, 50), st.floats(0, 50))
def test_transforms_do_not_decrease(how: Transform, z: float, step: float):
    low, high = transformed(torch.tensor([z, z + step], dtype=torch.float64), how).tolist()
    assert low <= high


@given(st.integers(1, 4), st.booleans(), st.floats(-3, 3), st.floats(-9, 9), st.floats(0, 2))
def test_the_judges_transform_encloses_exact_values(power: int, clamp: bool, shift: float, v: float, width: float):
    def exact(z: Fraction) -> Fraction:
        moved = z + Fraction(shift)
        if clamp:
            return max(moved, Fraction(0)) ** power
        return abs(moved) ** power * (1 if moved >= 0 else -1)

    ball = arb(v, width)
    found = rule.transform(ball, Transform(shift, float(power), clamp))
    for z in (Fraction(v), Fraction(v) - Fraction(width), Fraction(v) + Fraction(width) / 3):
        value = exact(z)
        assert found.contains(arb(value.numerator) / value.denominator)
        assert not found > arb(value.numerator) / value.denominator


# ---------------------------------------------------------------- pushing bounds through M


@given(st.integers(0, 2**32 - 1), transforms)
def test_pushed_bounds_hold_on_the_whole_set_and_never_exceed_those_of_single_logits(seed: int, how: Transform):
    rng = np.random.default_rng(seed)
    lower = rng.normal(0, 2, 4)
    upper = lower + rng.exponential(1, 4)
    own = np.array([0])
    z = rng.uniform(lower, upper, (500, 4))
    z[0], z[1] = upper, lower
    differences = (z[:250] - z[:250, :1]).max(axis=0)
    z = z[(z - z[:, :1] <= differences).all(axis=1)]
    args = (torch.from_numpy(a)[None] for a in (lower, upper, differences))
    found = transformed_upper(*args, torch.from_numpy(own), how)[0].numpy()
    m = transformed(torch.from_numpy(z), how).numpy()
    slack = 1e-12 * (1 + np.abs(m).max())  # float64 evaluation of both sides
    assert (m - m[:, :1] <= found + slack).all()
    low, high = (transformed(torch.from_numpy(a), how).numpy() for a in (lower, upper))
    assert (found[1:] <= (high - low[0])[1:]).all()


def test_differences_do_not_push_through_a_cube():
    """z = (t, t - 1): the difference is always -1, its cube's is between -1/4 and -infinity."""
    net = build([Input((1,)), Linear((0,), np.ones((2, 1), np.float32), np.array([0.0, -1.0], np.float32))])
    case = Case(prepare(net), None, np.array([0.5], np.float32))
    how = Transform(0.0, 3.0, False)
    plain = claim(net, case.input, 0, 0.25, Adaptive(None, how))
    found = rule.transformed_upper(plain, how, None, case)[1]
    worst = max((t - 1) ** 3 - t**3 for t in np.linspace(0.25, 0.75, 101))
    assert float(found.upper()) >= worst
    assert worst > -0.4 > (-1.0) ** 3


def test_differences_do_not_push_through_a_root_either():
    """z = (t, t - 1), t in [1, 2]: the clamped root is concave, its difference is least at t = 1 and not largest."""
    net = build([Input((1,)), Linear((0,), np.ones((2, 1), np.float32), np.array([0.0, -1.0], np.float32))])
    case = Case(prepare(net), None, np.array([1.5], np.float32))
    how = Transform(0.0, 0.5, True)
    found = rule.transformed_upper(claim(net, case.input, 0, 0.5, Adaptive(None, how)), how, None, case)[1]
    assert float(found.upper()) >= math.sqrt(1.0) - math.sqrt(2.0) > math.sqrt(0.0) - math.sqrt(1.0)


def claim(net: PlainNetwork, value: np.ndarray, y: int, radius: float, adaptive: Adaptive | None, alpha: float = 0.75):
    return Claim(
        "Linf",
        radius,
        alpha,
        1.0,
        y,
        "robust",
        None,
        "real",
        net.sha256,
        None,
        parse.array_sha256(value),
        None,
        adaptive,
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans(), st.sampled_from(["Linf", "L2", "L1"]))
def test_the_judges_pushed_bounds_hold_exactly_on_linear_networks(seed: int, power: int, clamp: bool, norm: str):
    rng = np.random.default_rng(seed)
    weight, bias = (rng.integers(-8, 9, s).astype(np.float32) / 4 for s in ((3, 2), (3,)))
    center = rng.integers(-8, 9, 2).astype(np.float32) / 8
    net = build([Input((2,)), Linear((0,), weight, bias)])
    exact = [[Fraction(float(w)) for w in row] for row in weight]
    z = [sum(w * Fraction(float(c)) for w, c in zip(row, center, strict=True)) + Fraction(float(b))
         for row, b in zip(exact, bias, strict=True)]  # fmt: skip
    y = int(np.argmax([float(v) for v in z]))
    if sorted(z)[-1] == sorted(z)[-2]:
        return
    how = Transform(0.5, float(power), clamp)
    made = dataclasses.replace(claim(net, center, y, 0.25, Adaptive(None, how)), norm=norm)
    found = rule.transformed_upper(made, how, None, Case(prepare(net), None, center))

    def m(v: Fraction) -> Fraction:
        moved = v + Fraction(1, 2)
        return max(moved, Fraction(0)) ** power if clamp else abs(moved) ** power * (1 if moved >= 0 else -1)

    for step in [
        (0, 0),
        (1, 0),
        (0, 1),
        (-1, 0),
        (0, -1),
        (Fraction(1, 2), Fraction(-1, 2)),
        (Fraction(3, 5), Fraction(4, 5)),
        (1, 1),
        (-1, 1),
    ]:
        size = {"Linf": max(map(abs, step)), "L2": step[0] ** 2 + step[1] ** 2, "L1": sum(map(abs, step))}[norm]
        if size > 1:
            continue
        here = [v + sum(w * Fraction(1, 4) * s for w, s in zip(row, step, strict=True))
                for v, row in zip(z, exact, strict=True)]  # fmt: skip
        for j in range(3):
            if j != y:
                value = m(here[j]) - m(here[y])
                assert not found[j] < arb(value.numerator) / value.denominator


# ---------------------------------------------------------------- certificates


def test_every_kind_of_mix_is_certified_and_says_what_it_rests_on(outcomes: dict[str, list[Outcome]]):
    for name, found in outcomes.items():
        certified = [o for o in found if isinstance(o, Certified)]
        assert len(certified) >= COUNT - 1
        wanted = {Assumption.ALPHA_BOUND_TRUSTED} if name == "declared" else set()
        for outcome in certified:
            assert outcome.radius > 0
            assert certmix.check(outcome) == Accepted(frozenset(wanted))


def test_points_of_certified_balls_keep_class_and_weight(outcomes, pair, x: Tensor):
    generator = torch.Generator().manual_seed(0)
    for name, found in outcomes.items():
        mix = MIXES[name].classifier(pair[0].module, pair[1].module, 1.0).double()
        for k, outcome in enumerate(found):
            if not isinstance(outcome, Certified):
                continue
            copies = x[[k]].expand(64, *x.shape[1:]).contiguous()
            ball = make_ball(copies, torch.full((64,), outcome.radius, dtype=torch.float64), "Linf", (0.0, 1.0))
            signs = torch.randint(0, 2, copies.shape, generator=generator).mul(2).sub(1)
            corners = ball.project(copies + 2 * outcome.radius * signs)
            for points in (ball.random(generator), corners):
                assert (mix(points.double()).argmax(1) == outcome.predicted).all()
                if MIXES[name].network is not None:
                    network = SigmoidAlpha(weight_network(0), 0.6, 0.95).double()
                    assert (network(points.double()) >= outcome.alpha).all()
        mix.float()


def test_a_bound_of_alpha_on_the_ball_beats_its_floor(outcomes, pair, x: Tensor):
    """The floor 0.6 alone certifies less than alpha bounded over each ball."""
    floor = certify_adaptive(
        *pair, x, AdaptiveMix(Weights([1.0] * COUNT), 0.6), Settings(0.75, tolerance=0.02, attack_steps=0)
    )
    ours = outcomes["network"]
    both = [
        (a.radius, b.radius)
        for a, b in zip(ours, floor, strict=True)
        if isinstance(a, Certified) and isinstance(b, Certified)
    ]
    assert sum(a for a, _ in both) > sum(b for _, b in both)


def forged(outcome: Certified, changes: dict) -> bytes:
    value = json.loads(outcome.line)
    del value["sha256"]
    for name, change in changes.items():
        value[name] = (
            {**value[name], **change} if isinstance(change, dict) and isinstance(value[name], dict) else change
        )
    return parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1])


def verdict(outcome: Certified, line: bytes, network: PlainNetwork | None) -> object:
    return judge.check_bytes(line, outcome.robust, outcome.standard, outcome.input, network)


@pytest.mark.parametrize(
    ("name", "changes", "step"),
    [
        ("network", {"alpha": 0.95}, "alpha"),
        ("network", {"radius": 0.9}, "alpha"),
        ("network", {"adaptive": {"alpha": {"network": None, "low": 0.6, "high": 1.0}}}, "alpha"),
        ("network", {"adaptive": {"alpha": {"network": "0" * 64, "low": 0.6, "high": 0.95}}}, "alpha"),
        ("network", {"adaptive": None}, "adaptive"),
        ("network", {"semantics": "float32"}, "semantics"),
        ("network", {"class_of": "mix"}, "class_of"),
        ("network", {"evidence": {"alpha_witness": "AAAA"}}, "witness"),
        ("declared", {"alpha": 0.76}, "alpha"),
        ("declared", {"radius": 0.9}, "margin"),
        ("clamp", {"alpha": 0.55}, "margin"),
        ("clamp", {"alpha": 0.5}, "margin"),
        ("clamp", {"class_of": "mix"}, "class_of"),
        ("clamp", {"smoothing": SMOOTHED}, "smoothing"),
        ("clamp", {"predicted": 0}, "margin"),
        ("clamp", {"temperature": 0.1}, "margin"),
        ("clamp", {"adaptive": {"transform": {"shift": -50.0, "power": 2.0, "clamp": True}}}, "margin"),
        ("cube", {"radius": 0.9}, "margin"),
        ("cube", {"adaptive": {"transform": {"shift": 0.0, "power": 0.1, "clamp": False}}}, "margin"),
    ],
)
def test_forged_certificates_are_rejected_at_the_right_step(outcomes, name: str, changes: dict, step: str):
    found = next(o for o in outcomes[name] if isinstance(o, Certified))
    assert isinstance(verdict(found, forged(found, {}), MIXES[name].network), Accepted)
    answer = verdict(found, forged(found, changes), MIXES[name].network)
    assert isinstance(answer, Rejected)
    assert answer.step == step


def test_without_its_network_or_with_another_nothing_is_proven(outcomes):
    found = next(o for o in outcomes["network"] if isinstance(o, Certified))
    for other in (None, weight_network(1), found.robust):
        answer = verdict(found, found.line, other)
        assert isinstance(answer, Rejected)
        assert answer.step == "alpha"


@pytest.mark.parametrize("name", sorted(set(EVIDENCE) - {"adaptive_margin"}))
def test_every_other_rule_rejects_adaptive_claims(outcomes, pair, x: Tensor, name: str):
    """A valid line of the rule, where it has simple evidence, with a claim that speaks of an adaptive mix."""
    (plain,) = certmix.certify(*pair, x[[0]], alpha=0.75)
    assert isinstance(plain, Certified)
    body = parse.line(plain.line, EVIDENCE)
    assert isinstance(body, parse.Certificate)
    changed = dataclasses.replace(body.claim, adaptive=Adaptive(None, Transform(0.0, 3.0, False)))
    certificate = dataclasses.replace(body, claim=changed, rule=name)
    answer = judge.check(certificate, Case(prepare(plain.robust), prepare(pair[0].network), plain.input))
    assert isinstance(answer, Rejected)
    assert answer.step == "adaptive"


@pytest.mark.parametrize(
    "adaptive",
    [
        {"alpha": None, "transform": None},
        {"alpha": None},
        {"alpha": {"network": "x", "low": 0.5, "high": 1.0}, "transform": None},
        {"alpha": {"network": None, "low": 0.9, "high": 0.5}, "transform": None},
        {"alpha": {"network": None, "low": -0.1, "high": 0.5}, "transform": None},
        {"alpha": None, "transform": {"shift": 0.0, "power": 0.0, "clamp": True}},
        {"alpha": None, "transform": {"shift": 0.0, "power": 1.0, "clamp": 1}},
    ],
)
def test_claims_that_say_nothing_clear_are_malformed(outcomes, adaptive: dict):
    found = next(o for o in outcomes["clamp"] if isinstance(o, Certified))
    value = json.loads(found.line)
    del value["sha256"]
    line = parse.seal(json.dumps({**value, "adaptive": adaptive}).encode()[:-1])
    with pytest.raises(MalformedError):
        parse.line(line, EVIDENCE)


def test_an_alpha_that_falls_inside_the_ball_is_not_certified(pair, x: Tensor):
    """Planted: alpha is 0.99 at the input and falls below 1/2 a small step away."""
    weight = np.zeros((2, 64), np.float32)
    weight[1] = 100.0
    bias = np.array([0.0, -100.0 * float(x[0].double().sum()) + 4.0], np.float32)
    falling = SigmoidAlpha(build([Input((1, 8, 8)), Flatten((0,)), Linear((1,), weight, bias)]), 0.3, 1.0)
    assert float(falling(x[[0]])[0]) > 0.9
    (at,) = certify_adaptive(*pair, x[[0]], AdaptiveMix(falling), Settings(0.75, radius=0.05))
    assert isinstance(at, Abstained)
    (largest,) = certify_adaptive(*pair, x[[0]], AdaptiveMix(falling), Settings(0.75, tolerance=0.02))
    assert not isinstance(largest, Certified) or largest.radius < 0.01


def test_a_run_of_adaptive_certificates_is_judged_from_its_folder(
    pair, x: Tensor, digits: Path, tmp_path: Path, capsys
):
    labels = np.load(digits / "audit.npz")["labels"][:COUNT].astype(np.int64)
    data = Dataset(x.numpy(), labels, "digits")
    out = tmp_path / "run"
    assert audit_adaptive(*pair, data, MIXES["both"], Settings(0.75, radius=0.05), out) == 0
    assert judge_folder([str(out)]) == 0
    assert "assumptions: none beyond exact export" in capsys.readouterr().out
    (out / "networks" / f"{weight_network(0).sha256}.safetensors").unlink()
    assert judge_folder([str(out)]) == 2


def test_a_certificate_that_an_attack_leaves_is_refuted_in_exact_arithmetic(pair, x: Tensor, monkeypatch):
    """Planted: a judge that accepts every line."""
    monkeypatch.setattr(JudgeSession, "verdict", lambda *_: Accepted(frozenset()))
    monkeypatch.setattr("certmix.provers.adaptive.LARGEST_JUDGED_LACK", 9.0)
    for name, mix in MIXES.items():
        found = certify_adaptive(*pair, x[:2], mix, Settings(0.75, radius=0.9, attack_steps=20))
        hits = [o for o in found if isinstance(o, Falsified)]
        assert hits, name
        for hit in hits:
            assert hit.confirmed
            classifier = mix.classifier(pair[0].module, pair[1].module, 1.0)
            assert int(classifier(torch.from_numpy(hit.counterexample)[None]).argmax()) != hit.predicted


def test_open_inputs_are_attacked_too(pair, x: Tensor):
    found = certify_adaptive(*pair, x, MIXES["both"], Settings(0.75, radius=0.9))
    assert {o.verdict for o in found} == {"attackable"}


@given(st.integers(1, 4), st.booleans(), *(st.floats(*ends, width=16) for ends in ((-3, 3), (-9, 9), (0, 2))))
def test_confirmation_encloses_transformed_logits(power: int, clamp: bool, shift: float, v: float, width: float):
    (found,) = moved([arb(v, width)], Transform(shift, float(power), clamp))
    for z in (Fraction(v), Fraction(v) - Fraction(width), Fraction(v) + Fraction(width) / 4):
        value = z + Fraction(shift)
        value = max(value, Fraction(0)) ** power if clamp else abs(value) ** power * (1 if value >= 0 else -1)
        assert found.contains(arb(value.numerator) / value.denominator)
        assert not found > arb(value.numerator) / value.denominator


def test_the_weight_at_a_point_is_enclosed_and_a_modules_is_within_its_bounds(x: Tensor):
    def in_arb(network: PlainNetwork, point: np.ndarray) -> list[arb]:
        return logits_in_arb(network, point, 200)

    for point in x:
        ball = weight_at(MIXES["network"], point.numpy(), in_arb)
        assert abs(float(ball.mid()) - float(copy.deepcopy(ALPHA).double()(point[None].double()))) < 1e-12
        assert 0.6 < float(ball.lower()) <= float(ball.upper()) < 0.95
        assert 0.75 <= float(weight_at(MIXES["declared"], point.numpy(), in_arb)) <= 1
    assert float(weight_at(AdaptiveMix(Weights([-3.0]), 0.7), x[0].numpy(), in_arb)) == 0.7
    assert float(weight_at(AdaptiveMix(Weights([3.0]), 0.7), x[0].numpy(), in_arb)) == 1.0


@pytest.mark.parametrize("change", [{"evidence": "engine"}, {"semantics": "float32"}, {"use_standard": True}])
def test_settings_that_adaptive_claims_cannot_follow_are_refused(pair, x: Tensor, change: dict):
    with pytest.raises(UsageError, match="method adaptive needs"):
        certify_adaptive(*pair, x, MIXES["clamp"], dataclasses.replace(Settings(0.75), **change))


def test_settings_and_mix_speak_of_one_another(pair, x: Tensor):
    with pytest.raises(UsageError, match="alpha is given twice"):
        certify_adaptive(*pair, x, MIXES["clamp"], Settings(0.8))
    with pytest.raises(UsageError, match="by Lemma 3"):
        certify_adaptive(*pair, x, MIXES["clamp"], Settings(0.75, method="lipschitz"))
    with pytest.raises(UsageError, match="method adaptive is for"):
        Settings(0.75, method="adaptive")
    with pytest.raises(UsageError, match="speaks of another mix"):
        certmix.certify(*pair, x, settings=Settings(0.75, method="adaptive", adaptive=MIXES["clamp"].claimed()))


def test_a_transform_that_overflows_is_an_outcome(pair, x: Tensor):
    mix = AdaptiveMix(0.75, transform=Transform(0.0, 900.0, True))
    for outcome in certify_adaptive(*pair, x[:1], mix, Settings(0.75, temperature=100.0)):
        assert isinstance(outcome, Abstained)
        assert (outcome.reason, "overflows" in outcome.advice) == (Reason.NO_THEOREM, True)


def test_lines_of_earlier_versions_which_say_method_margin_are_accepted(outcomes):
    found = next(o for o in outcomes["network"] if isinstance(o, Certified))
    assert json.loads(found.line)["method"] == "adaptive"
    assert isinstance(verdict(found, forged(found, {"method": "margin"}), MIXES["network"].network), Accepted)


# ---------------------------------------------------------------- the command


@pytest.fixture
def files(digits: Path, tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter
        heavy = nn.Linear(64, 1)
        nn.init.zeros_(heavy.weight), nn.init.constant_(heavy.bias, 7.0)
        models = {
            "alpha": model,
            "three": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            "weight": nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid()),
            "heavy": nn.Sequential(nn.Flatten(), heavy),
        }
        for name, module in models.items():
            torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), str(tmp_path / f"{name}.onnx"), dynamo=False)
    given = {"standard": "standard.onnx", "robust": "robust.onnx", "data": "audit.npz"}
    return [f"--{role}={digits / file}" for role, file in given.items()] + ["--limit=2", f"--out={tmp_path / 'run'}"]


@pytest.mark.parametrize("radius", [0.05, 0.9])
def test_the_command_audits_an_adaptive_mix_and_header_and_report_say_so(
    files: list[str], tmp_path: Path, radius: float, capsys
):
    how = [f"--alpha-network={tmp_path / 'alpha.onnx'}", "--alpha-range", "0.6", "0.95", "--transform", "0.5", "1.5"]
    assert main(["audit", "--method=adaptive", *files, *how, "--clamp", f"--radius={radius}"]) == 0
    out = tmp_path / "run"
    assert main(["check", str(out)]) == 0
    header = json.loads((out / "run.json").read_bytes())["settings"]
    claimed = dataclasses.asdict(MIXES["both"].claimed())
    assert (header["method"], header["alpha"], header["adaptive"]["transform"]) == (
        "adaptive",
        0.6,
        claimed["transform"],
    )
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert {line["outcome"] for line in lines} == ({"certified"} if radius == 0.05 else {"abstained"})
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "α depends on the input" in shown
    assert "clean accuracy, mix (worked out for this report)" in shown
    assert json.loads((out / "summary.json").read_text())["adaptive"] == header["adaptive"]
    page = (out / "report.html").read_text()
    assert "a(x)·softmax(T·M(h))" in page
    assert "alpha.onnx" in page
    assert main(["show", str(out), "0"]) == 0
    assert "method adaptive" not in capsys.readouterr().err


def test_the_command_takes_a_model_of_alpha_at_its_declared_bound(files: list[str], tmp_path: Path, capsys):
    how = ["--method=adaptive", f"--alpha-network={tmp_path / 'weight.onnx'}", "--alpha-lower=0.7", "--radius=0.05"]
    assert main(["audit", *files, *how]) == 0
    assert main(["check", str(tmp_path / "run")]) == 0
    header = json.loads((tmp_path / "run" / "run.json").read_bytes())["settings"]
    assert header["adaptive"]["alpha"] == {"network": None, "low": 0.7, "high": 1.0}
    (session,) = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert main(shlex.split(session["command"])[1:]) == 2
    assert "already holds this run, finished" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "α depends on the input" in shown
    assert "ALPHA_BOUND_TRUSTED" in shown


def test_adaptive_runs_have_no_sweep_and_tune_must_know_what_is_adaptive(files: list[str], tmp_path: Path, capsys):
    """Bounds of single logits are not in the archive."""
    how = ["--method=adaptive", "--alpha=0.75", "--transform", "0", "2"]
    assert main(["audit", *files, *how, "--radius=0.01"]) == 0
    assert main(["sweep", str(tmp_path / "run")]) == 2
    assert "method margin" in capsys.readouterr().err
    more = [f"--audit-data={tmp_path}", f"--out={tmp_path / 'tuned'}"]
    assert main(["tune", *files[:-1], "--method=adaptive", "--radius=0.01", "--clean-accuracy=0", *more]) == 2
    assert "give --alpha-network or --transform, or another --method" in capsys.readouterr().err


def test_the_command_repeats_itself(files: list[str], tmp_path: Path, capsys):
    """The command that the run records, given again, finds the run finished: it asks for the same."""
    assert main(["audit", "--method=adaptive", *files, "--alpha=0.75", "--transform", "-1", "2", "--radius=0.01"]) == 0
    (session,) = json.loads((tmp_path / "run" / "provenance.json").read_text())
    capsys.readouterr()
    assert main(shlex.split(session["command"])[1:]) == 2
    assert "already holds this run, finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--method=adaptive", "--alpha=0.75"], "nothing of this mix is adaptive"),
        (["--alpha=0.75", "--transform", "0", "2"], "--transform is for --method adaptive, not for margin"),
        (["--alpha=0.75", "--clamp"], "--clamp is for --method adaptive"),
        (["--method=adaptive", "--alpha-range", "0.6", "0.9"], "nothing of this mix is adaptive"),
        (["--method=adaptive", "--alpha-network=ALPHA"], "goes together with one of"),
        (["--method=adaptive", "--alpha-range", "0.6", "0.9", "--transform", "0", "2"], "goes together with one of"),
        (["--method=adaptive", "--alpha-lower=0", "--transform", "0", "2"], "goes together with one of"),
        (["--alpha=0.75", "--alpha-lower=0"], "--alpha-lower is for --method adaptive, not for margin"),
        (
            ["--method=adaptive", "--alpha-network=THREE", "--alpha-lower=0.6"],
            "one number for each input, gives",
        ),
        (["--method=adaptive", "--alpha-network=WEIGHT", "--alpha-lower=1.6"], "alpha must be in [0, 1], got 1.6"),
        (["--method=adaptive", "--alpha-network=HEAVY", "--alpha-lower=0.6"], "weights in [0, 1], gives 7 at"),
        (["--method=adaptive", "--alpha-network=ALPHA", "--alpha-range", "0.9", "0.6"], "got 0.9, 0.6"),
        (["--method=adaptive", "--alpha-network=ALPHA", "--alpha-range", "0.6", "0.9", "--clamp"], "--clamp says how"),
        (["--method=adaptive", "--alpha-network=THREE", "--alpha-range", "0.6", "0.9"], "two logits, has 3"),
        (["--method=adaptive", "--alpha-network=absent.onnx", "--alpha-range", "0.6", "0.9"], "absent.onnx"),
        (["--method=adaptive", "--alpha=.7", "--alpha-network=ALPHA", "--alpha-range", "0.6", "0.9"], "given twice"),
        (["--method=adaptive", "--transform", "0", "2"], "--alpha is missing"),
        (["--method=adaptive", "--alpha=0.75", "--transform", "0", "-2"], "power must be > 0 and finite, got -2.0"),
        (
            ["--method=adaptive", "--alpha=0.75", "--transform=mixednuts:5,-1,0"],
            "power must be > 0 and finite, got 0.0",
        ),
        (["--method=adaptive", "--alpha=0.75", "--transform=mixednuts:5,-1"], "mixednuts:5,-1: it takes SHIFT POWER"),
        (["--method=adaptive", "--alpha=0.75", "--transform=mixednuts:5,-1,2", "--clamp"], "or mixednuts:S,C,P"),
        (["--method=adaptive", "--alpha=0.75", "--transform", "1"], "it takes SHIFT POWER"),
        (["--method=adaptive", "--alpha=0.75", "--transform", "0", "2", "--use-standard"], "method adaptive needs"),
        (["--method=adaptive", "--alpha=1.5", "--transform", "0", "2"], "alpha must be in [0, 1], got 1.5"),
    ],
)
def test_the_command_refuses_options_that_contradict_each_other(
    files: list[str], tmp_path: Path, given: list[str], words: str, capsys
):
    named = {name.upper(): str(tmp_path / f"{name}.onnx") for name in ("alpha", "three", "weight", "heavy")}
    for name, path in named.items():
        given = [word.replace(name, path) for word in given]
    assert main(["audit", *files, *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_misuse_of_certify_adaptive_is_refused(pair, x: Tensor):
    with pytest.raises(UsageError, match="nothing of this mix is adaptive"):
        certify_adaptive(*pair, x, AdaptiveMix(0.75), Settings(0.75))
    with pytest.raises(UsageError, match="alpha_lower"):
        certify_adaptive(*pair, x, AdaptiveMix(Weights([1.0])), Settings(0.75))
    wrong = build([Input((3,)), Linear((0,), np.zeros((2, 3), np.float32), np.zeros(2, np.float32))])
    with pytest.raises(UsageError, match="takes inputs"):
        certify_adaptive(*pair, x, AdaptiveMix(SigmoidAlpha(wrong, 0.6, 0.9)), Settings(0.75))


def test_an_adaptive_run_is_not_finished_before_the_network_of_alpha_is_on_the_disk(
    pair, x: Tensor, tmp_path: Path, monkeypatch
):
    out = tmp_path / "run"
    stored = out / "networks" / f"{weight_network(0).sha256}.safetensors"
    seen: list[bytes] = []
    monkeypatch.setattr(Store, "finish", lambda store: seen.append(stored.read_bytes()))
    data = Dataset(x[:2].numpy(), np.zeros(2, dtype=np.int64), "digits")
    audit_adaptive(*pair, data, MIXES["both"], Settings(0.75, radius=0.05), out)
    assert seen == [weight_network(0).data]

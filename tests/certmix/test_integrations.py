"""Models of other libraries: with the real library where it is installed, else by what its documentation promises."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

import certmix
from certmix import integrations
from certmix.errors import UsageError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def net(shape: tuple[int, ...] = (3, 4, 4), classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(8, classes)
    last.weight.data *= 20  # margins worth certifying
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 8), nn.ReLU(), last).eval()


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", [dict, types.SimpleNamespace])
def test_a_model_of_timm_takes_raw_images(form: type, x: torch.Tensor):
    base = net()
    base.pretrained_cfg = form(mean=MEAN, std=STD, input_size=(3, 4, 4))  # type: ignore[assignment]
    model = integrations.from_timm(base)
    assert model.input_shape == (3, 4, 4)
    assert model.network is not None
    torch.testing.assert_close(model.module(x), base(normalised(x)))


def test_a_module_that_is_not_of_timm_is_refused():
    with pytest.raises(UsageError, match="Sequential has no pretrained_cfg"):
        integrations.from_timm(net())


class Classifier(nn.Module):
    """As of transformers: pixel_values -> an object with logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, pixel_values: torch.Tensor | None = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(logits=self.base(pixel_values))


def processor(**more: object) -> types.SimpleNamespace:
    said = {"image_mean": list(MEAN), "image_std": list(STD), "rescale_factor": 1 / 255, "do_rescale": True}
    return types.SimpleNamespace(**(said | {"do_normalize": True, "size": {"height": 4, "width": 4}} | more))


@pytest.mark.parametrize(
    "more",
    [{}, {"do_center_crop": True, "size": {"shortest_edge": 9}, "crop_size": {"height": 4, "width": 4}}],
    ids=["size", "crop"],
)
def test_a_classifier_of_transformers_takes_raw_images(more: dict[str, object], x: torch.Tensor):
    base = net()
    model = integrations.from_transformers(Classifier(base), processor(**more))
    assert model.input_shape == (3, 4, 4)
    assert model.network is not None
    torch.testing.assert_close(model.module(x), base(normalised(x)))


def test_a_processor_that_does_not_normalise_is_followed(x: torch.Tensor):
    model = integrations.from_transformers(Classifier(net()), processor(do_normalize=False))
    torch.testing.assert_close(model.module(x), net()(x))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rescale_factor": 1 / 127.5}, "not 1/255"),
        ({"size": {"shortest_edge": 224}}, "no height and width: give input_shape"),
        ({"image_mean": None}, "says no image_mean"),
    ],
)
def test_a_processor_of_other_pixels_is_refused(more: dict[str, object], words: str):
    with pytest.raises(UsageError, match=words):
        integrations.from_transformers(Classifier(net()), processor(**more))


def test_foolbox_attacks_the_mix(x: torch.Tensor):
    foolbox = pytest.importorskip("foolbox")
    mix = certmix.MixedClassifier(net(), net(), 0.75)
    labels = mix(x).argmax(1)
    model = integrations.to_foolbox(mix)
    assert foolbox.accuracy(model, x, labels) == 1
    _, (moved,), _ = foolbox.attacks.LinfPGD(steps=5)(model, x, labels, epsilons=[0.05])
    assert float((moved - x).abs().max()) <= 0.05 + 1e-6


def test_art_sees_the_mix(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """ART itself where it is installed; else what its PyTorchClassifier is documented to take."""
    mix = certmix.MixedClassifier(net(), net(), 0.75)
    if importlib.util.find_spec("art") is None:
        given: dict[str, object] = {}
        fake = types.ModuleType("art.estimators.classification")
        fake.PyTorchClassifier = lambda **arguments: given.update(arguments) or "classifier"  # type: ignore
        for name in ("art", "art.estimators"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "art.estimators.classification", fake)
        assert integrations.to_art(mix, (3, 4, 4), 3) == "classifier"
        assert {"model", "loss", "input_shape", "nb_classes", "clip_values", "device_type"} == set(given)
        return
    classifier = integrations.to_art(mix, (3, 4, 4), 3)
    np.testing.assert_allclose(classifier.predict(x.numpy()), mix(x).detach().numpy(), rtol=1e-5)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "foolbox.models.pytorch", None)
    with pytest.raises(UsageError, match="pip install foolbox"):
        integrations.to_foolbox(net())


# ---------------------------------------------------------------- names that others use, in certmix.certify


def test_eps_and_bounds_are_radius_and_domain(x: torch.Tensor):
    pair = net(), net()
    ours = certmix.certify(*pair, x, alpha=0.9, radius=0.01, domain=(0, 1))
    theirs = certmix.certify(*pair, x, alpha=0.9, eps=0.01, bounds=(0, 1), batch_size=2, device="cpu", norm=np.inf)
    assert [type(o) for o in ours] == [type(o) for o in theirs]
    assert any(isinstance(o, certmix.Certified) for o in ours)


@pytest.mark.parametrize("twice", [{"radius": 0.1, "eps": 0.1}, {"domain": (0, 1), "bounds": (0, 1)}])
def test_one_thing_by_two_names_is_refused(twice: dict[str, object], x: torch.Tensor):
    with pytest.raises(UsageError, match="are two names of one: leave one out"):
        certmix.certify(net(), net(), x, alpha=0.9, **twice)  # type: ignore[arg-type]


def test_preprocessing_is_the_first_layer_of_both(x: torch.Tensor):
    said = {"mean": np.array(MEAN), "std": list(STD), "axis": -3}
    with_it = certmix.certify(net(), net(), x, alpha=0.9, eps=0.01, preprocessing=said)
    by_hand = [certmix.from_module(net(), (3, 4, 4), preprocess=certmix.Preprocess(MEAN, STD)) for _ in range(2)]
    assert any(isinstance(o, certmix.Certified) for o in with_it)
    assert [getattr(o, "line", None) for o in with_it] == [
        getattr(o, "line", None) for o in certmix.certify(*by_hand, x, alpha=0.9, radius=0.01)
    ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"mean": MEAN, "axis": -1}, "3 numbers along axis -1 of inputs"),
        ({"mean": MEAN, "axis": 0}, "axes count from the end"),
        ({"mean": 0.5, "flip": True}, "takes mean, std and axis, got 'flip'"),
        ({"std": 0.0}, "std must be > 0"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(said: dict[str, object], words: str, x: torch.Tensor):
    with pytest.raises(UsageError, match=words):
        certmix.certify(net(), net(), x, alpha=0.9, radius=0.01, preprocessing=said)


def test_preprocessing_of_a_model_that_was_loaded_is_refused(x: torch.Tensor):
    model = certmix.from_module(net(), (3, 4, 4))
    with pytest.raises(UsageError, match="where it is loaded"):
        certmix.certify(model, net(), x, alpha=0.9, radius=0.01, preprocessing={"mean": 0.5})


class HalfSpace(nn.Module):
    """Logits (w · x + b, 0)."""

    def __init__(self, w: torch.Tensor, b: float) -> None:
        super().__init__()
        self.linear = nn.Linear(w.numel(), 2)
        self.linear.weight.data = torch.stack([w, torch.zeros_like(w)])
        self.linear.bias.data = torch.tensor([b, 0.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def radius_of_counts(count: int, n: int, alpha: float, sigma: float) -> float:
    """Cohen's sigma Φ⁻¹(p), p by Clopper and Pearson."""
    return sigma * float(norm.ppf(beta.ppf(alpha, count, n - count + 1)))


def test_a_constant_classifier_has_cohens_radius_rounded_down():
    smooth = integrations.Smooth(HalfSpace(torch.zeros(12), 1.0), 2, 0.5)
    predicted, radius = smooth.certify(torch.full((3, 2, 2), 0.4), 100, 1000, 0.001, 500)
    closed_form = radius_of_counts(1000, 1000, 0.001, 0.5)
    assert predicted == 0
    assert 1 - 1e-6 < radius / closed_form <= 1
    assert closed_form == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1000)), abs=1e-9)  # 1.2316
    assert smooth.predict(torch.full((3, 2, 2), 0.4), 100, 0.001, 64) == 0


def test_the_radius_of_a_half_space_is_below_its_distance_and_not_far_below():
    w, b = torch.linspace(0.2, 1.0, 12), -1.6
    x = torch.linspace(0, 1, 12).mul(255).round().div(255).reshape(3, 2, 2)
    value = float(w @ x.flatten()) + b
    smooth = integrations.Smooth(HalfSpace(w, b), 2, 0.5, seed=3)
    predicted, radius = smooth.certify(x, 100, 4000, 0.001, 1000)
    distance = abs(value) / float(w.norm())  # where the smoothed classifier changes its answer
    assert predicted == (0 if value > 0 else 1)
    assert 0.75 * distance < radius <= distance
    assert smooth.predict(x, 200, 0.001, 100) == predicted


def test_where_the_answer_is_open_smoothing_abstains():
    tied = integrations.Smooth(HalfSpace(torch.ones(12), -6.0), 2, 0.5)
    x = torch.full((3, 2, 2), 0.5)
    assert tied.certify(x, 50, 200, 0.001, 100) == (integrations.Smooth.ABSTAIN, 0.0)
    assert tied.predict(x, 100, 0.001, 100) == -1
    sure = integrations.Smooth(HalfSpace(torch.zeros(12), 1.0), 2, 0.5)
    assert sure.certify(x, 10, 9, 0.001, 9) == (-1, 0.0)  # 2^-9 > 0.001: so few draws prove nothing


def test_calls_draw_noise_of_their_own_and_the_same_again():
    w, x = torch.ones(12), torch.full((3, 2, 2), 0.6)
    first, again = (integrations.Smooth(HalfSpace(w, -6.0), 2, 0.5, seed=7) for _ in range(2))
    radii = [first.certify(x, 20, 300, 0.01, 100)[1] for _ in range(3)]
    assert len(set(radii)) > 1
    assert radii == [again.certify(x, 20, 300, 0.01, 100)[1] for _ in range(3)]


def test_misuse_of_smoothing_is_refused(x: torch.Tensor):
    with pytest.raises(UsageError, match="noise_std must be > 0"):
        integrations.Smooth(net(), 3, 0.0)
    with pytest.raises(UsageError, match="num_classes must be at least 2, got 1"):
        integrations.Smooth(net(), 1, 0.5)
    with pytest.raises(UsageError, match="has 3 classes, not num_classes = 10"):
        integrations.Smooth(net(), 10, 0.5).predict(x[0], 10, 0.1, 10)
    with pytest.raises(UsageError, match="failure_probability"):
        integrations.Smooth(net(), 3, 0.5).certify(x[0], 10, 100, 1.0, 10)

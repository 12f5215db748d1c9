"""The Python interface: outcomes for every input, and what happens when something upstream is broken."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import certmix
from certmix.__main__ import main
from certmix.errors import UsageError
from certmix.provers.judging import JudgeSession
from certmix.settings import Settings, diameter
from proofs_check.certificate import Accepted

ALPHA = 0.75


@pytest.fixture(scope="module")
def pair(digits: Path) -> tuple[certmix.Model, certmix.Model]:
    return certmix.load_model(digits / "standard.onnx"), certmix.load_model(digits / "robust.onnx")


@pytest.fixture(scope="module")
def x(digits: Path) -> torch.Tensor:
    return torch.from_numpy(certmix.load_data(digits / "audit.npz", 8).inputs)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_every_certified_outcome_is_accepted_by_the_judge(pair, x, norm):
    outcomes = certmix.certify(*pair, x, alpha=ALPHA, norm=norm)
    certified = [o for o in outcomes if isinstance(o, certmix.Certified)]
    assert len(certified) >= 6
    for outcome in certified:
        assert certmix.check(outcome) == Accepted(frozenset())
        assert 0 < outcome.radius <= diameter(norm, (0.0, 1.0), x[0].numel())


def test_a_process_that_reads_subnormal_numbers_as_zero_is_refused_in_words(pair, x):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor always keeps subnormal numbers")
    try:
        with pytest.raises(UsageError, match="reads subnormal numbers as zero"):
            certmix.certify(*pair, x, alpha=ALPHA, radius=0.1)
    finally:
        torch.set_flush_denormal(False)


def test_the_largest_radius_is_certified_as_a_fixed_one_and_a_tenth_more_is_not(pair, x):
    for k, outcome in enumerate(certmix.certify(*pair, x[:4], alpha=ALPHA)):
        assert isinstance(outcome, certmix.Certified)
        one = x[k : k + 1]
        (again,) = certmix.certify(*pair, one, alpha=ALPHA, radius=outcome.radius * 0.999)
        assert isinstance(again, certmix.Certified)
        (more,) = certmix.certify(*pair, one, alpha=ALPHA, radius=outcome.radius * 1.1)
        assert isinstance(more, certmix.Abstained)
        assert more.reason is certmix.Reason.RADIUS_NOT_REACHED


def test_a_larger_alpha_never_certifies_fewer_inputs(pair, x):
    shares = [
        {k for k, o in enumerate(certmix.certify(*pair, x, alpha=a, radius=0.1)) if isinstance(o, certmix.Certified)}
        for a in (0.6, 0.8, 1.0)
    ]
    assert shares[0] <= shares[1] <= shares[2]


def test_torch_modules_give_what_their_onnx_files_give(pair, x):
    torch.manual_seed(0)
    g = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    outcomes = certmix.certify(g, pair[1], x, alpha=ALPHA)
    by_file = certmix.certify(*pair, x, alpha=ALPHA)
    assert [getattr(o, "radius", None) for o in outcomes] == [getattr(o, "radius", None) for o in by_file]


def test_a_standard_model_that_cannot_be_exported_is_enough_for_the_lemma(pair, x):
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(torch.sin(x.flatten(1))[:, :10], dim=1)

    outcomes = certmix.certify(Odd(), pair[1], x[:2], alpha=ALPHA)
    assert all(isinstance(o, certmix.Certified) and o.standard is None for o in outcomes)
    assert all(certmix.check(o) == Accepted(frozenset()) for o in outcomes)
    with pytest.raises(UsageError, match="use_standard"):
        certmix.certify(Odd(), pair[1], x[:2], alpha=ALPHA, settings=Settings(ALPHA, use_standard=True))


def test_bounding_g_too_certifies_below_one_half(pair, x):
    settings = Settings(0.4, use_standard=True)
    outcomes = certmix.certify(*pair, x, alpha=0.4, settings=settings)
    certified = [o for o in outcomes if isinstance(o, certmix.Certified)]
    assert certified
    assert all(o.class_of == "mix" and certmix.check(o) == Accepted(frozenset()) for o in certified)


def test_a_point_just_beyond_the_critical_alpha_is_told_which_alpha_would_do(pair, x):
    outcomes = certmix.certify(*pair, x, alpha=0.501)
    small = [o for o in outcomes if isinstance(o, certmix.Abstained)]
    assert all(o.reason is certmix.Reason.MARGIN_TOO_SMALL and "raise alpha above" in o.advice for o in small)
    for k, outcome in enumerate(outcomes):
        if isinstance(outcome, certmix.Abstained):
            needed = float(outcome.advice.split("alpha above ")[1].split()[0])
            (again,) = certmix.certify(*pair, x[k : k + 1], alpha=needed + 1e-3)
            assert not isinstance(again, certmix.Abstained) or again.reason is not certmix.Reason.MARGIN_TOO_SMALL


def test_a_tie_certifies_nothing(pair):
    tied = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        for p in tied.parameters():
            p.zero_()
    (outcome,) = certmix.certify(pair[0], tied, torch.zeros(1, 1, 8, 8), alpha=ALPHA)
    assert isinstance(outcome, certmix.Abstained)
    assert outcome.reason is certmix.Reason.TIE


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(0, 1, 8, 8),
        torch.zeros(1, 8, 8),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
        np.zeros((1, 1, 8, 8), np.uint8),
        np.full((1, 1, 8, 8), 1e300),
        [[0.5] * 64],
        torch.full((1, 1, 8, 8), torch.nan),
        torch.full((1, 1, 8, 8), 1.5),
    ],
    ids=["empty", "shape", "bytes", "array of bytes", "too large", "list", "nan", "domain"],
)
def test_unusable_inputs_are_refused(pair, bad):
    with pytest.raises(UsageError):
        certmix.certify(*pair, bad, alpha=ALPHA)


def test_an_input_without_a_batch_axis_is_told_how_to_get_one(pair, x):
    with pytest.raises(UsageError, match=r"one input without a batch axis: pass x\[None\]"):
        certmix.certify(*pair, x[0], alpha=ALPHA)


def test_channels_in_the_wrong_place_are_told_which_transpose(pair, x):
    with pytest.raises(UsageError, match=r"images\.transpose\(0, 3, 1, 2\)"):
        certmix.certify(*pair, x.permute(0, 2, 3, 1), alpha=ALPHA)


def test_arrays_and_doubles_are_rounded_and_certified_as_the_tensor_is(pair, x):
    doubles = x[:2].double().numpy() + 1e-12
    outcomes = certmix.certify(*pair, doubles.clip(0, 1), alpha=ALPHA, radius=0.05)
    tensor = certmix.certify(*pair, torch.from_numpy(doubles.clip(0, 1).astype(np.float32)), alpha=ALPHA, radius=0.05)
    assert [o.line for o in outcomes] == [o.line for o in tensor]
    assert outcomes[0].input.dtype == np.float32
    assert certmix.check(outcomes[0]) == Accepted(frozenset())


@pytest.mark.parametrize(
    ("norm", "meant"), [(np.inf, "Linf"), ("inf", "Linf"), (2, "L2"), ("l2", "L2"), (np.float64(1), "L1"), ("1", "L1")]
)
def test_norms_and_radii_may_be_written_as_elsewhere(norm, meant):
    settings = Settings(ALPHA, norm=norm, radius="2/255")
    assert settings == Settings(ALPHA, norm=meant, radius=2 / 255)
    assert type(settings.radius) is float


@pytest.mark.parametrize("given", [{"norm": 3}, {"norm": True}, {"norm": None}, {"radius": "a/b"}, {"radius": True}])
def test_other_norms_and_radii_are_refused_with_their_value(given):
    with pytest.raises(UsageError, match=str(next(iter(given.values())))):
        Settings(ALPHA, **given)


def test_an_argument_that_contradicts_the_settings_is_refused_with_both_values(pair, x):
    for given, words in (
        ({"alpha": 0.6}, r"alpha is given twice, 0\.6 and settings\.alpha = 0\.9"),
        ({"norm": "Linf"}, r"norm is given twice, Linf and settings\.norm = L2"),
        ({"radius": None}, r"radius is given twice, None and settings\.radius = 0\.1"),
        ({"domain": (0, 255)}, r"domain is given twice"),
        ({"temperature": 2}, r"temperature is given twice, 2 and settings\.temperature = 1"),
    ):
        with pytest.raises(UsageError, match=words):
            certmix.certify(*pair, x, settings=Settings(0.9, norm="L2", radius=0.1), **given)
    with pytest.raises(UsageError, match="alpha is missing"):
        certmix.certify(*pair, x)


def test_a_model_that_ends_in_softmax_is_warned_of(pair, x):
    g = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match=r"standard \(torch module Sequential\): its outputs are probabilities"):
        certmix.certify(g, pair[1], x[:2], alpha=ALPHA, radius=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certmix.certify(*pair, x[:2], alpha=ALPHA, radius=0.05)


def test_what_a_notebook_shows_is_short(pair, x, digits):
    outcomes = certmix.certify(*pair, x, alpha=ALPHA, radius=0.12)
    assert len({type(outcome) for outcome in outcomes}) == 2
    mix = certmix.MixedClassifier(pair[0].module, pair[1].module, ALPHA)
    falsified = certmix.Falsified(3, 0.1, "Linf", ALPHA, "margin", "robust", x[0].numpy(), True, "because " * 100)
    data = certmix.load_data(digits / "audit.npz")
    for value in (outcomes, *outcomes, falsified, *pair, pair[0].network, mix, data):
        assert 10 < len(repr(value)) < 300
        assert "\n" not in repr(value)
    # the double nearest to 0.12 is below it, and what is shown of a bound is never above it
    assert "radius 0.119999," in repr(next(o for o in outcomes if isinstance(o, certmix.Certified)))
    assert "confirmed" in repr(falsified)
    page = outcomes._repr_html_()
    assert page.count("<tr>") == 1 + len(x)


def test_outcomes_become_rows_and_frames(pair, x, monkeypatch):
    outcomes = certmix.certify(*pair, x, alpha=ALPHA, radius=0.12)
    rows = outcomes.records()
    assert [row["radius"] for row in rows] == [0.12] * len(x)
    assert [row["outcome"] == "certified" for row in rows] == [isinstance(o, certmix.Certified) for o in outcomes]
    assert all((row["why"] is None) == (row["outcome"] == "certified") for row in rows)
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns)))
    assert certmix.to_dataframe(outcomes) == (rows, list(rows[0]))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        outcomes.to_dataframe()


def test_the_module_names_its_version_and_what_it_offers():
    assert certmix.__version__ == importlib.metadata.version("certmix")
    assert set(certmix.__all__) <= set(dir(certmix))
    assert all(getattr(certmix, name) is not None for name in certmix.__all__)


def test_models_of_different_class_counts_are_refused(pair, x):
    with pytest.raises(UsageError, match="class"):
        certmix.certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), pair[1], x, alpha=ALPHA)


def test_a_broken_judge_is_found_out_by_the_attack(digits: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(JudgeSession, "verdict", lambda self, line, value: Accepted(frozenset()))
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    given = ["audit", *models, "--data", str(digits / "audit.npz"), "--alpha", "0.75", "--limit", "3"]
    out = tmp_path / "run"
    assert main([*given, "--radius", "0.6", "--engine", "auto_lirpa", "--out", str(out)]) == 1
    assert "REFUTED" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    refuted = [line for line in lines if line["outcome"] == "falsified"]
    assert refuted
    assert all(line["confirmed"] for line in refuted)
    kept = np.load(out / "refuted" / f"{refuted[0]['index']}.npz")
    assert np.abs(kept["counterexample"].astype(np.float64) - kept["input"].astype(np.float64)).max() <= 0.6


def test_changed_bytes_of_an_outcome_are_not_accepted(pair, x):
    (outcome,) = certmix.certify(*pair, x[:1], alpha=ALPHA)
    assert isinstance(outcome, certmix.Certified)
    with pytest.raises(ValueError, match="sha256"):
        certmix.check(dataclasses.replace(outcome, line=outcome.line.replace(b'"alpha":0.75', b'"alpha":0.65')))

"""The Python interface: outcomes for every input, and what happens when something upstream is broken."""

from __future__ import annotations

import dataclasses
import json
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
        torch.zeros(1, 1, 8, 8, dtype=torch.float64),
        torch.full((1, 1, 8, 8), torch.nan),
        torch.full((1, 1, 8, 8), 1.5),
    ],
    ids=["empty", "shape", "double", "nan", "domain"],
)
def test_unusable_inputs_are_refused(pair, bad):
    with pytest.raises(UsageError):
        certmix.certify(*pair, bad, alpha=ALPHA)


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

"""Adapters, and defects of published software that the suite must find when pointed at it."""

from __future__ import annotations

import pytest

from certmix.testing.adapters import art, auto_lirpa, cohen
from certmix.testing.laws import laws_of
from certmix.testing.protocol import Certifier, certifier
from certmix.testing.runner import LawResult, run_law
from verifiers.auto_lirpa import compat
from verifiers.engine import EngineError


def lirpa() -> bool:
    """Whether auto_LiRPA of any version can be imported."""
    try:
        compat.load()
    except EngineError:
        return False
    return True


needs_lirpa = pytest.mark.skipif(not lirpa(), reason="auto_LiRPA is not installed")


def tried(subject: Certifier, law: str, examples: int) -> LawResult:
    """One law, so many examples."""
    (found,) = laws_of(subject.protocol, [law])
    return run_law(found, subject, 60.0, 0, 0.0, most_examples=examples)


@needs_lirpa
def test_auto_lirpas_convolution_bounds_for_l3_are_found_unsound_and_those_for_l2_are_not() -> None:
    law = "first_layers_respect_the_norm"
    cubic = tried(certifier(auto_lirpa.logits_ibp, norms=["L3"], tolerance=1e-6), law, 75)
    assert cubic.status == "broken"
    square = tried(certifier(auto_lirpa.logits_ibp, norms=["L2"], tolerance=1e-6), law, 50)
    assert square.status == "held"


@needs_lirpa
def test_auto_lirpa_does_not_round_outward_and_is_found_out() -> None:
    subject = certifier(auto_lirpa.logits_crown_float32, norms=["Linf"])
    assert tried(subject, "no_counterexample_by_closed_form", 75).status == "broken"


@needs_lirpa
def test_upstreams_softmax_bounds_are_found_unsound_in_extreme_ranges() -> None:
    if compat.is_old(compat.load()):
        pytest.skip("the softmax bounds of 0.3 are others: put an upstream checkout on PYTHONPATH")
    subject = certifier(auto_lirpa.probabilities_ibp, tolerance=1e-6)
    assert tried(subject, "no_counterexample_in_extreme_ranges", 150).status == "broken"


def test_cohens_script_keeps_its_failure_probability() -> None:
    result = tried(certifier(cohen.certify), "false_certificates_of_sampling_are_rare", 20)
    assert result.status == "held"
    assert result.claims > 0


def test_arts_smoothing_keeps_its_failure_probability() -> None:
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    pytest.importorskip("statsmodels", reason="statsmodels, which ART's smoothing needs, is not installed")
    result = tried(certifier(art.smoothing), "false_certificates_of_sampling_are_rare", 2)
    assert result.status == "held"
    assert result.claims > 0

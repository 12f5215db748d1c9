"""The suite breaks every planted bug, and nothing that is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted_certifiers.bugs import BLEMISHES, BUGS, SOUND

from certmix.testing import planted
from certmix.testing.laws import LAWS, laws_of
from certmix.testing.laws.quality import contains
from certmix.testing.protocol import Certifier, certifier
from certmix.testing.runner import run, run_law
from verifiers.network.module import PlainModule

LAW_TO_TRY_FIRST = {
    "float32_bounds": "no_counterexample_far_from_the_origin",
    "float32_ball": "no_counterexample_far_from_the_origin",
    "local_constant_outside_its_ball": "no_counterexample_near_critical_alpha",
    "always_l2": "normalisation_is_part_of_the_network",
    "cells_moved_back": "no_counterexample_by_sampling",
    "curve_at_its_ends": "no_counterexample_in_curves_and_gates",
    "curve_by_its_tangent": "no_counterexample_in_curves_and_gates",
    "product_of_lower_ends": "no_counterexample_in_curves_and_gates",
    "gate_at_its_centre": "no_counterexample_in_curves_and_gates",
    "product_without_second_order": "no_counterexample_in_curves_and_gates",
    "alpha_below_half": "no_counterexample_by_attack",
    "always_abstains": "easy_problems_are_certified",
    "zero_for_none": "abstains_at_a_tie",
    "random_radius": "answers_repeat_and_ignore_the_batch",
    "batch_minimum": "answers_repeat_and_ignore_the_batch",
    "fixed_radii": "scaling_scales_the_radius",
    "alpha_not_monotone": "larger_alpha_is_never_harder",
    "class_zero_only": "class_names_do_not_matter",
    "near_the_origin": "translation_does_not_matter",
}

# where a right certifier is likeliest to be called wrong
HARD_LAWS = (
    "no_counterexample_by_attack", "no_counterexample_near_critical_alpha", "no_counterexample_in_extreme_ranges",
    "no_counterexample_in_curves_and_gates",
    "no_counterexample_far_from_the_origin", "cancelling_weights_are_not_certified_away",
    "false_certificates_of_votes_are_rare", "false_certificates_of_sampling_are_rare",
)  # fmt: skip


def first_broken(subject: Certifier, kind: str) -> str | None:
    """A law of this kind that breaks within 200 examples, the likeliest one first."""
    laws = [law for law in laws_of(subject.protocol) if law.kind == kind and not law.needs]
    for law in sorted(laws, key=lambda law: law.name != LAW_TO_TRY_FIRST.get(subject.name)):
        if run_law(law, subject, 60.0, 0, 0.0, most_examples=200).broken is not None:
            return law.name
    return None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_breaks_a_soundness_law(name: str) -> None:
    bug = BUGS[name]
    assert first_broken(certifier(bug.certifier, name, bug.protocol), "soundness") is not None, bug.what


@pytest.mark.parametrize("name", BLEMISHES)
def test_a_poor_certifier_raises_a_warning(name: str) -> None:
    bug = BLEMISHES[name]
    assert first_broken(certifier(bug.certifier, name), "quality") is not None, bug.what


@pytest.mark.parametrize("name", SOUND)
def test_the_certifiers_that_bugs_are_cut_from_break_nothing(name: str) -> None:
    subject = certifier(SOUND[name], name)
    claims = 0
    for law in laws_of(subject.protocol):
        if law.name in HARD_LAWS:
            result = run_law(law, subject, 0.5, 1, 0.0, most_examples=25)
            assert result.broken is None, f"{law.name}: {result.broken}"
            assert result.crashes == 0, result.crash
            claims += result.claims
    assert claims > 0


@pytest.mark.slow
def test_the_default_budget_breaks_every_planted_bug() -> None:
    for name, bug in BUGS.items():
        assert run(certifier(bug.certifier, name, bug.protocol), 60.0, 3, stop_at_first=True).exit_code == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_the_certifiers_that_bugs_are_cut_from_break_nothing_for_a_minute(name: str) -> None:
    report = run(certifier(SOUND[name], name), 60.0, 7)
    assert not report.broken
    assert report.exit_code == 0


def test_at_least_forty_bugs_are_planted_and_every_protocol_has_one() -> None:
    assert len(BUGS) >= 40
    protocols = {certifier(b.certifier, n, b.protocol).protocol for n, b in BUGS.items()}
    assert protocols == {"mix", "logits", "probabilities", "lipschitz", "counts", "smoothed"}


def test_laws_have_distinct_names_and_say_where_they_come_from() -> None:
    assert len({law.name for law in LAWS}) == len(LAWS)
    assert all(law.source and law.meaning for law in LAWS)


def test_a_hidden_spike_changes_the_class_where_sampling_sees_nothing() -> None:
    center = np.array([0.5, 0.25, 0.5], np.float32)
    module = PlainModule(planted.spike_network(center, 2.0**-6, 32.0, np.array([4, 0], np.float32), 1))
    assert int(module(torch.from_numpy(center)[None]).argmax()) == 1
    around = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    assert (module(around).argmax(-1) == 0).all()


@pytest.mark.parametrize("power", [24, 40, 60])
def test_cancelling_weights_hide_a_class_from_floats_and_not_from_fractions(power: int) -> None:
    from certmix.testing import exact

    base = np.array([4, 0], np.float32)
    network = planted.blind_jump_network(1, base, 1, power)
    x = np.zeros((1, 1), np.float32)
    z = exact.logits(network, x[0])
    assert z[1] - z[0] == 4
    assert int(PlainModule(network)(torch.from_numpy(x)).argmax()) == 0


def test_a_certifier_that_only_raises_could_not_be_run() -> None:
    def broken(standard: Any, robust: Any, x: Any, alpha: float) -> list[None]:
        raise RuntimeError("no licence")

    report = run(certifier(broken), 1.0, only=("no_counterexample_by_sampling",))
    assert report.exit_code == 2
    assert "no licence" in report.results[0].crash


def test_a_counterexample_shrinks_to_a_handful_of_weights() -> None:
    bug = BUGS["diameter_reported"]
    (law,) = laws_of("mix", ["no_counterexample_by_attack"])
    result = run_law(law, certifier(bug.certifier), 30.0, 0, 20.0)
    assert result.broken is not None
    assert result.broken.exact
    assert np.count_nonzero(result.broken.example.robust.nodes[-1].weight) <= 4


def test_a_method_that_loses_to_a_looser_one_is_warned_about() -> None:
    looser = certifier(SOUND["margin"], "looser")
    worse = certifier(BLEMISHES["fixed_radii"].certifier, "worse")
    assert run_law(contains(looser), worse, 30.0, 0, 0.0).status == "warning"
    assert run_law(contains(worse), looser, 2.0, 0, 0.0, most_examples=25).status == "held"

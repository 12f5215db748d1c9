"""Attacks beyond certificates: every point confirmed, no attack below a certificate, verdicts that follow."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import NORMS, mlp

import certmix
from certmix.attacks.confirm import Confirmed, contained, evaluate
from certmix.errors import UsageError
from certmix.models.model import Model
from certmix.provers.certify import certify
from certmix.records import attack_archive
from certmix.records.outcomes import Attack, Outcome
from certmix.settings import Settings
from verifiers.network.module import PlainModule


def model(seed: int) -> Model:
    network = mlp(seed)
    return Model(PlainModule(network).eval(), network, network.classes, network.input_shape, "random", 0.0)


def attack_holds(g: Model, h: Model, x: np.ndarray, outcome: Outcome, s: Settings) -> None:
    attack = getattr(outcome, "attack", None)
    assert isinstance(attack, Attack)
    assert contained(attack.point, x, attack.radius, s.norm, s.domain)
    answer = evaluate(attack.point, g.network, h.require_network(), s.alpha, s.temperature, attack.predicted)
    assert isinstance(answer, Confirmed)
    assert answer.rival == attack.rival


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(NORMS), st.sampled_from([0.4, 0.7, 0.95]), st.sampled_from([None, 0.2])
)
def test_every_attack_is_real_and_none_lies_below_a_certificate(seed, norm, alpha, radius):
    g, h = model(seed), model(seed + 1)
    x = torch.from_numpy(np.random.default_rng(seed).random((3, 4), dtype=np.float32))
    s = Settings(alpha=alpha, norm=norm, radius=radius, use_standard=True, optimise=0, curves=False)
    for k, outcome in enumerate(certify(g, h, x, settings=s)):
        assert outcome.verdict in ("certified", "attackable", "open")
        if outcome.attack is not None:
            attack_holds(g, h, x[k].numpy(), outcome, s)
            assert outcome.verdict == ("certified" if isinstance(outcome, certmix.Certified) else "attackable")
        if isinstance(outcome, certmix.Certified) and outcome.attack is not None:
            assert radius is None
            assert Fraction(outcome.attack.radius) > Fraction(outcome.radius)
        if isinstance(outcome, certmix.Abstained) and radius is not None and outcome.attack is not None:
            assert outcome.attack.radius <= radius


def test_a_mix_that_changes_nearby_is_attackable_and_one_left_alone_is_open():
    g, h = model(0), model(1)
    x = torch.from_numpy(np.random.default_rng(0).random((6, 4), dtype=np.float32))
    s = Settings(alpha=0.6, radius=0.3, optimise=0)
    verdicts = [o.verdict for o in certify(g, h, x, settings=s)]
    assert "attackable" in verdicts
    unattacked = certify(g, h, x, settings=Settings(alpha=0.6, radius=0.3, optimise=0, attack_steps=0))
    assert {o.verdict for o in unattacked} <= {"certified", "open"}
    assert [o.verdict == "certified" for o in unattacked] == [v == "certified" for v in verdicts]


def test_largest_radii_come_with_an_attack_radius(digits: Path):
    inputs = np.load(digits / "audit.npz")["images"][:4]
    outcomes = certify(
        certmix.load_model(digits / "standard.onnx"), certmix.load_model(digits / "robust.onnx"), inputs, alpha=0.75
    )
    for outcome in outcomes:
        assert isinstance(outcome, certmix.Certified)
        assert outcome.attack is not None
        assert outcome.radius < outcome.attack.radius < 3 * outcome.radius


attacks = st.dictionaries(
    st.integers(0, 10**6),
    st.builds(
        lambda radius, pair, seed: Attack(
            radius, pair[0], pair[1], np.random.default_rng(seed).random((2, 3), dtype=np.float32)
        ),
        st.floats(0, 1e6),
        st.tuples(st.integers(0, 9), st.integers(0, 9)),
        st.integers(0, 99),
    ),
    max_size=4,
)


@given(attacks, attacks)
def test_attacks_are_read_as_they_were_written_and_a_batch_replaces_itself(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("run")
    attack_archive.write(folder, 0, first)
    attack_archive.write(folder, 0, second)
    read = attack_archive.read(folder)
    assert list(read) == list(second)
    for index, attack in second.items():
        found = read[index]
        assert (found.radius, found.predicted, found.rival) == (attack.radius, attack.predicted, attack.rival)
        assert found.point.tobytes() == attack.point.tobytes()


def test_damaged_attacks_are_refused_by_name(tmp_path: Path):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "00000000.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UsageError, match=r"00000000\.npz holds no attacks"):
        attack_archive.read(tmp_path)

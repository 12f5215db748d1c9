"""The law of the whole suite bites: planted pairs of a certificate and a counterexample are found, others are not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coexistence import Law, Problem, Proven, Refuted, conflicts

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PROBLEM = Problem("h", "g", 0.75, 1.0, 2)
CENTER = np.array([0.5, 0.25], np.float32)
CLAIM = Proven(PROBLEM, CENTER.tobytes(), 0.125, "Linf", (0.0, 1.0), "test_a")

PLANTED = """
import sys
import numpy as np
import torch
import certmix
from certmix.attacks import confirm

MODULE = torch.nn.Linear(2, 2).requires_grad_(False)
MODULE.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
MODULE.bias.zero_()
H = certmix.from_module(MODULE, (2,))
X = np.array([0.9, 0.25], np.float32)


def test_certificate():
    (outcome,) = certmix.certify(H, H, torch.from_numpy(X[None]), alpha=0.75)
    assert isinstance(outcome, certmix.Certified)


def test_counterexample(monkeypatch):
    module = sys.modules["certmix.attacks.confirm"]
    monkeypatch.setattr(module, "_decide", lambda *_: module.Confirmed(1, 0.5))
    confirm(X, X, 0.125, "Linf", (0.0, 1.0), H.network, H.network, 0.75, 1.0, 0)
"""


def point(*values: float, **changes: object) -> Refuted:
    return Refuted(dataclasses.replace(PROBLEM, **changes), np.array(values, np.float32).tobytes(), "test_b")


def test_a_point_in_a_certified_ball_is_a_conflict_and_names_both_tests() -> None:
    (line,) = conflicts([CLAIM], [point(0.625, 0.125)])
    assert "test_a" in line
    assert "test_b" in line


@pytest.mark.parametrize(
    "other",
    [
        point(np.nextafter(np.float32(0.625), np.float32(1)), 0.25),
        point(0.5, 0.25, robust="h2"),
        point(0.5, 0.25, standard="g2"),
        point(0.5, 0.25, alpha=0.8),
        point(0.5, 0.25, temperature=2.0),
        point(0.5, 0.25, predicted=1),
    ],
    ids=["outside", "another h", "another g", "another alpha", "another temperature", "another class"],
)
def test_a_point_of_another_problem_or_outside_the_ball_is_none(other: Refuted) -> None:
    assert conflicts([CLAIM], [other]) == []


def test_a_side_that_speaks_of_every_standard_model_meets_all_of_them() -> None:
    for_every_g = dataclasses.replace(CLAIM, problem=dataclasses.replace(PROBLEM, standard=None))
    assert len(conflicts([for_every_g], [point(0.5, 0.25)])) == 1
    assert len(conflicts([CLAIM], [point(0.5, 0.25, standard=None)])) == 1
    alone = dataclasses.replace(CLAIM, problem=dataclasses.replace(PROBLEM, alpha=1.0))
    assert len(conflicts([alone], [point(0.5, 0.25, alpha=1.0, standard="g2")])) == 1


def test_the_session_keeps_what_certify_and_confirm_say(pytestconfig: pytest.Config) -> None:
    import torch

    import certmix
    from certmix.attacks import Confirmed, confirm

    law = pytestconfig.pluginmanager.get_plugin("coexistence")
    assert isinstance(law, Law)
    law.watch()
    weight = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    module = torch.nn.Linear(2, 2).requires_grad_(False)
    module.weight.copy_(weight)
    module.bias.zero_()
    h = certmix.from_module(module, (2,))
    assert h.network is not None
    x = np.array([0.9, 0.25], np.float32)
    (outcome,) = certmix.certify(h, h, torch.from_numpy(x[None]), alpha=0.75)
    assert isinstance(outcome, certmix.Certified)
    beyond = np.array([0.25, 0.75], np.float32)
    answer = confirm(beyond, x, 1.0, "Linf", (0.0, 1.0), h.network, h.network, 0.75, 1.0, 0)
    assert isinstance(answer, Confirmed)
    digest = h.network.sha256
    claims = [p for p in law.proven.values() if p.problem.robust == digest and p.center == x.tobytes()]
    points = [p for p in law.refuted.values() if p.problem.robust == digest and p.point == beyond.tobytes()]
    assert max(c.radius for c in claims) == outcome.radius
    assert len(points) == 1
    assert conflicts(claims, points) == []
    too_large = [dataclasses.replace(c, radius=1.0) for c in claims]
    assert len(conflicts(too_large[:1], points)) == 1


def test_a_pair_from_two_processes_fails_the_session(tmp_path: Path) -> None:
    # both tests pass; the second one's confirmation lies
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "coexistence.py").write_text(CONFTEST.with_name("coexistence.py").read_text())
    (tmp_path / "test_planted.py").write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "-n2", "-pno:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "CERTIFIED AND REFUTED" in ran.stdout
    assert ran.returncode == 1

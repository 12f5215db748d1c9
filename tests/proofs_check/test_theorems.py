"""Every theorem behind a rule is proven by z3, none of its hypotheses is idle, and every rule has one."""

from __future__ import annotations

import pytest
import z3

from proofs_check.kernel.layers import KINDS
from proofs_check.rules import RULES
from proofs_check.theorems import THEOREMS
from proofs_check.theorems.theorem import Theorem

BY_NAME = {t.name: t for t in THEOREMS}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_theorem_is_proven(name: str):
    assert BY_NAME[name].decide() == "proven"


@pytest.mark.parametrize(("name", "hypothesis"), [(t.name, h) for t in THEOREMS for h in t.hypotheses])
def test_without_any_hypothesis_a_theorem_fails(name: str, hypothesis: str):
    assert BY_NAME[name].decide(without=hypothesis) == "refuted"


@pytest.mark.parametrize("name", BY_NAME)
def test_the_hypotheses_of_a_theorem_can_be_met(name: str):
    solver = z3.Solver()
    solver.add(*BY_NAME[name].hypotheses.values())
    assert solver.check() == z3.sat


def test_every_rule_rests_on_a_theorem_and_every_theorem_bears_something():
    assert len(BY_NAME) == len(THEOREMS)
    assert {rule for t in THEOREMS for rule in t.rules} == set(RULES)
    kinds = {kind.__name__ for kind in KINDS.values()}
    for theorem in THEOREMS:
        assert theorem.rules or theorem.layers
        assert set(theorem.layers) <= kinds


def test_a_false_statement_is_refuted():
    margin, alpha = z3.Reals("margin alpha")
    half = {"margin": 2 * alpha * margin > 1 - alpha, "alpha": alpha <= 1}
    weaker = Theorem("lemma 3.2 at half the margin", "", half, alpha * margin - (1 - alpha) > 0)
    assert weaker.decide() == "refuted"

"""Every theorem behind a rule is proven by z3, none of its hypotheses is idle, and every rule has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import z3

import proofs_check
from proofs_check.kernel.layers import KINDS
from proofs_check.rules import RULES
from proofs_check.theorems.in_z3 import THEOREMS
from proofs_check.theorems.statements import STATEMENTS
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


def test_every_rule_and_layer_kind_rests_on_a_theorem_and_every_theorem_bears_something():
    names = [s.name for s in STATEMENTS]
    assert len(names) == len(THEOREMS)
    assert set(names) == set(BY_NAME)
    assert {rule for s in STATEMENTS for rule in s.rules} == set(RULES)
    for statement in STATEMENTS:
        assert statement.beside != bool(statement.rules or statement.layers)
    named = {name for s in STATEMENTS for name in s.layers}
    classes = {kind: {base.__name__ for base in kind.__mro__} for kind in KINDS.values()}
    assert [kind.__name__ for kind, bases in classes.items() if not named & bases] == []
    assert named <= {name for bases in classes.values() for name in bases}


def test_a_statement_that_bears_something_is_shown_on_one_line():
    """Of an explanation, 80 columns wide, six of them for the section."""
    assert [s.name for s in STATEMENTS if not s.beside and len(s.text) > 74] == []


def test_every_statement_is_found_where_it_says():
    page = (Path(proofs_check.__file__).parents[1] / "docs" / "maths.md").read_text("utf-8")
    headings = set(re.findall(r"^#{2,3} (\d+[a-z]?)\.? ", page, re.MULTILINE))
    assert {s.section for s in STATEMENTS} <= headings


def test_a_false_statement_is_refuted():
    margin, alpha = z3.Reals("margin alpha")
    half = {"margin": 2 * alpha * margin > 1 - alpha, "alpha": alpha <= 1}
    weaker = Theorem("lemma 3.2 at half the margin", half, alpha * margin - (1 - alpha) > 0)
    assert weaker.decide() == "refuted"


# ---------------------------------------------------------------- in Coq (make proofs)

COQ = Path(proofs_check.__file__).parent / "theorems" / "coq"


def code_of(file: str) -> str:
    return re.sub(r"\(\*.*?\*\)", "", (COQ / file).read_text("utf-8"), flags=re.DOTALL)


def test_nothing_is_assumed_in_coq_but_in_the_file_of_axioms():
    files = {p.name for p in COQ.glob("*.v")}
    assert {"Axioms.v", "Margin.v", "Statements.v", "Tree.v"} <= files
    assuming = re.compile(r"\b(Axioms?|Parameters?|Conjecture|Admitted|admit|give_up)\b")
    without = {f: re.sub(r"(Require Import|Print).*", "", code_of(f)) for f in files}
    assert {f for f in files if assuming.search(without[f])} == {"Axioms.v"}


def test_make_proofs_prints_what_every_theorem_assumes():
    theorems = {n for p in COQ.glob("*.v") for n in re.findall(r"\b(?:Theorem|Corollary) (\w+)", code_of(p.name))}
    assert set(re.findall(r"Print Assumptions (\w+)\.", code_of("Statements.v"))) == theorems
    built = re.search(r"^PROOFS := (.*)$", (COQ.parents[2] / "Makefile").read_text(), re.MULTILINE)
    assert built
    assert {f"{name}.v" for name in built.group(1).split()} | {"Statements.v"} == {p.name for p in COQ.glob("*.v")}

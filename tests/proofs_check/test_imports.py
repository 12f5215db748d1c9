"""What the judge may be made of: numpy, flint, the standard library, itself; no assert; not too much of it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import proofs_check
from certmix.reports.explained.lines import code_lines

ROOT = Path(proofs_check.__file__).parent
STATEMENTS = sorted((ROOT / "theorems").glob("*.py"))  # for z3, beside the judge and no part of it
FILES = sorted(set(ROOT.rglob("*.py")) - set(STATEMENTS))
ALLOWED = {"numpy", "flint", "proofs_check", *sys.stdlib_module_names}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_of_the_judge_imports_only_what_it_may(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        assert {n.split(".")[0] for n in names} <= ALLOWED
        assert not any(n.startswith("proofs_check.theorems") for n in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_of_the_judge_has_no_assert_and_runs_no_text(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS


def test_the_judge_does_not_grow_unnoticed():
    """Of the lines to be trusted. To raise the number, say in the change what the new lines are for.

    Some 160 of them say in words, and to programs, what was proven: a reviewer signs the sentences, so they are judged.
    Some 300 are the price of a room for every layer kind (imports, signatures, the table) and of names for directed
    sums and products. 182 are branching: 127 the rule of trees, a quarter of which unfold their bytes, and 55 bounds on
    a part of the ball, cut or made anew. 9 say of each line how large it is, and how long judging it took.
    62 are spectral norms of convolutions by their Fourier blocks. 41 are a node
    that moves cells and inputs of any rank: of the files people have a third are refused for nothing else.
    413 are gains of blocks, where paths join: 223 of them take convolutions frequency by frequency, residual and
    circular ones, for those of networks that are Lipschitz by design are too large to be written out.
    43 are signatures: of norms, which answer in one file what nine asked by name.
    39 are smoothing that may stop at any draw: the same means, by bets alone, with no share for looks.
    75 are the map of MixedNUTS, as claimed, in words, and its bounds: 14 push bounds of differences through it, without
    which it certifies next to nothing.
    248 are curves: 90 bound any function that bends piecewise, the others are ten functions of two lines, and fields.
    47 let a smoothed claim name a model of any kind by its file: digest and signature are tied, nothing is derived.
    93 are trees that split g, too: the rule, lines above negative weights, and a room of their own for the bytes.
    116 are products of two values, inverse powers and roots, of which norms, gates and attention are made.
    74 bound sums of exponentials by one constant of all logits (4b), which 4a takes apart.
    23 let a cluster judge a run's lines, and take types apart once; 8 bound neurons anew that were split, without which
    empty parts seem open.
    95 are constants of both networks, whose margins may have either sign.
    """
    assert sum(len(code_lines(path)) for path in FILES) <= 4651


@pytest.mark.parametrize("path", sorted((ROOT / "rules").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_rule_file_is_short_enough_to_be_read(path: Path):
    assert len(code_lines(path)) <= 150


PROVING = [p for folder in ("kernel", "rules") for p in sorted((ROOT / folder).rglob("*.py")) if p.stem != "__init__"]


@pytest.mark.parametrize("path", PROVING, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_that_proves_says_what_it_requires_and_where_rounding_is_charged(path: Path):
    notes = (ast.get_docstring(ast.parse(path.read_text())) or "").lower()
    assert all(word in notes for word in ("precondition", "postcondition", "charge"))

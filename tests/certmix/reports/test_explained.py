"""One certificate explained: true to the judge, and on one screen."""

from __future__ import annotations

import importlib
import re
from fractions import Fraction
from pathlib import Path

import exact_network as en
import numpy as np
import pytest
from flint import arb

from certmix.__main__ import main
from certmix.attacks.adaptive_weight import moved
from certmix.records.trees import size_of
from certmix.reports.explained import chains
from certmix.reports.explained.observed import Call, observed
from certmix.reports.explained.text import explain, judged
from proofs_check.certificate import MixedNuts
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE, RULES
from proofs_check.run import Run, open_judge
from proofs_check.theorems.statements import STATEMENTS
from proofs_check.witness import slope_starts

BY_NAME = {s.name: s for s in STATEMENTS}
STORED = Path(__file__).parents[2] / "proofs_check"
ACCEPTED = sorted((STORED / "accepted").iterdir())
WIDTH, HEIGHT = 80, 42


def line_of(path: Path, index: int) -> parse.Certificate:
    line = parse.line(list(folder.lines(path))[index], EVIDENCE)
    assert isinstance(line, parse.Certificate)
    return line


def first_of(path: Path) -> int:
    return judged(path, None)[0].index


def test_every_rule_is_explained():
    assert set(chains.CHAINS) == set(RULES)


def test_what_a_statement_depends_on_is_there():
    for place in {s.only for s in STATEMENTS if s.only}:
        file, _, function = place.partition(" ")
        module = importlib.import_module("proofs_check." + file.removesuffix(".py").replace("/", "."))
        assert callable(getattr(module, function))


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda p: p.name)
def test_an_explanation_fits_one_screen_and_names_its_rule(path: Path):
    code, text = explain(path, None)
    assert code == 0
    assert len(text) <= HEIGHT
    assert max(map(len, text)) <= WIDTH
    rule = line_of(path, first_of(path)).rule
    assert f"rule       {rule}" in text
    assert any(re.match("what proves: [1-9]", part) for part in text)


def test_the_example_of_ten_classes_fits_one_screen_with_trees(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # as in out/demo: a longer name takes another line
    models = [f"--standard={digits / 'standard.onnx'}", f"--robust={digits / 'robust.onnx'}"]
    rest = ["--alpha=0.75", "--norm=L2", "--branch=1", "--limit=1", "--attack-steps=0"]
    assert main(["audit", *models, f"--data={digits / 'audit.npz'}", *rest, "--out=run"]) == 0
    code, text = explain(Path("run"), 0)
    assert code == 0
    assert len(table(text)) == 9
    assert any(row[-2] == "tree (10)" for row in table(text))
    assert len(text) <= HEIGHT
    assert max(map(len, text)) <= WIDTH


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda p: p.name)
def test_watching_changes_no_verdict(path: Path):
    result, _, _ = judged(path, None)
    run = Run(path)
    task = next(t for t in run.tasks() if t[0] == result.index)
    assert open_judge(path, run.header).measured(*task) == result


def table(text: list[str]) -> list[list[str]]:
    """Cells of the rivals' rows."""
    start = next(k for k, part in enumerate(text) if part.startswith("rival"))
    end = next(k for k, part in enumerate(text) if part.startswith("theorems"))
    return [re.split("  +", part) for part in text[start + 1 : end]]


def exact_margins(path: Path, index: int) -> tuple[np.ndarray, np.ndarray]:
    """d(x), exactly; and h_y - h_j there, to double precision."""
    run = Run(path)
    claim = line_of(path, index).claim
    row = list(folder.rows(path))[index]
    logits = en.exact_values(folder.network(path, run.header.robust), en.exact(row.value))[-1]
    d = np.array([Fraction(int(v.numer()), int(v.denom())) for v in logits - logits[claim.predicted]])
    e = np.exp(claim.temperature * d.astype(float))
    return d, (1 - e) / e.sum()


@pytest.mark.parametrize("name", ["margin_linf", "margin_l2", "margin_temperature", "branched"])
def test_numbers_of_a_margin_hold_the_truth_at_the_input(name: str):
    path = STORED / "accepted" / name
    index = first_of(path)
    claim, rows = line_of(path, index).claim, table(explain(path, index)[1])
    required = (1 - Fraction(claim.alpha)) / Fraction(claim.alpha)
    d, margins = exact_margins(path, index)
    assert [int(row[0]) for row in rows] == [j for j in range(len(d)) if j != claim.predicted]
    for j, by_intervals, ends, how, proof in ((int(row[0]), *row[1:]) for row in rows):
        low, high = ends.split(" .. ")
        assert Fraction(low) <= d[j] <= Fraction(high)
        assert d[j] <= Fraction(by_intervals)
        if how == "box (3a)":
            assert required < Fraction(proof.removeprefix(">= ")) <= margins[j] + 1e-12
        elif how == "line (3b)":
            most, threshold = map(Fraction, proof.removeprefix("<= ").split(" < "))
            assert most < threshold <= 2 * Fraction(claim.alpha) - 1


def test_leaves_are_those_of_the_trees():
    path = STORED / "accepted" / "branched"
    index = first_of(path)
    line, run = line_of(path, index), Run(path)
    columns = slope_starts(folder.network(path, run.header.robust))[-1]
    sizes = {str(j): size_of(tree, columns) for j, tree in enumerate(line.evidence.trees) if tree is not None}
    text = explain(path, index)[1]
    said = {row[0]: row[-1] for row in table(text) if row[-2] == "tree (10)"}
    assert said == {j: f"{s.leaves} leaves, {s.deepest} deep" for j, s in sizes.items()}
    assert any(f"{sum(s.leaves for s in sizes.values())} leaves: " in part for part in text)


def test_constants_and_confidence_bounds_are_those_of_the_judge():
    path = STORED / "accepted" / "lipschitz_layers_l2"
    index = first_of(path)
    stated = line_of(path, index).evidence.constants
    for row in table(explain(path, index)[1]):
        assert Fraction(row[2]) <= Fraction(stated[int(row[0])]) * Fraction(1001, 1000)
        assert Fraction(row[3]) >= Fraction(stated[int(row[0])])
    path = STORED / "accepted" / "smoothing_hard"
    mean = next(part for part in explain(path, None)[1] if part.startswith("mean"))
    lower = line_of(path, first_of(path)).evidence.predicted.lower
    assert lower - 1e-3 < Fraction(mean.split(">= ")[1]) <= Fraction(lower)


def value_of(text: list[str], head: str) -> str:
    return next(part.removeprefix(head).strip() for part in text if part.startswith(head))


def test_draws_that_stopped_are_told_with_how_many_there_could_have_been():
    path = STORED / "accepted" / "smoothing_stopped"
    line, text = line_of(path, first_of(path)), explain(path, None)[1]
    sample = line.evidence.sample
    assert sample.samples < sample.most
    assert value_of(text, "draws").startswith(f"{sample.samples} of at most {sample.most};")
    assert Fraction(value_of(text, "mean").split(">= ")[1]) <= Fraction(line.evidence.predicted.lower)
    shared = sum(Fraction(g.complement.share) for g in line.evidence.groups if g.complement is not None)
    assert Fraction(line.evidence.predicted.share) + shared <= Fraction(value_of(text, "may fail").split("<= ")[1])
    shown = {part.strip() for part in text}
    for name in ("Ville's inequality, one draw", "several bets at once", "direct margin bound"):
        assert any(BY_NAME[name].text in part for part in shown)


def test_what_no_bet_proves_does_not_rest_on_bets():
    text = "\n".join(explain(STORED / "accepted" / "smoothing_hard", None)[1])
    assert BY_NAME["direct margin bound"].text in text
    assert BY_NAME["several bets at once"].text not in text


def test_a_model_file_is_an_assumption_and_no_layer_is_spoken_of():
    path = STORED / "accepted" / "smoothing_model_file"
    text = explain(path, None)[1]
    assert "MODEL_FILE" in " ".join(text[:3])
    assert BY_NAME["form on an affine node"].text not in "\n".join(text)


def test_differences_after_the_map_of_mixednuts_hold_the_truth_at_the_input():
    path = STORED / "accepted" / "adaptive_nuts"
    index = first_of(path)
    claim, rows = line_of(path, index).claim, table(explain(path, index)[1])
    logits = en.exact_values(
        folder.network(path, Run(path).header.robust), en.exact(list(folder.rows(path))[index].value)
    )[-1]
    assert claim.adaptive is not None
    assert isinstance(claim.adaptive.transform, MixedNuts)
    after = moved([arb(v) for v in logits], claim.adaptive.transform)
    e = [(arb(claim.temperature) * (v - after[claim.predicted])).exp() for v in after]
    required = (1 - Fraction(claim.alpha)) / Fraction(claim.alpha)
    assert [int(row[0]) for row in rows] == [j for j in range(len(e)) if j != claim.predicted]
    for j, most, margin in ((int(row[0]), *row[1:]) for row in rows):
        assert not after[j] - after[claim.predicted] > arb(most)
        assert Fraction(margin) > required
        assert not (1 - e[j]) / sum(e, arb(0)) < arb(margin)


@pytest.mark.parametrize(
    ("value", "bound", "expected"), [("0.33335", Fraction(1, 3), "0.3333"), ("0.33", Fraction(1, 10), "0.3299")]
)
def test_a_margin_is_shown_below_its_value_and_above_what_it_exceeds(value: str, bound: Fraction, expected: str):
    shown = chains.above(chains.arb(value), bound)
    assert bound < Fraction(shown) <= Fraction(value)
    assert shown.startswith(expected)


# ---------------------------------------------------------------- the command


def test_the_command_explains_by_index(capsys: pytest.CaptureFixture[str]):
    path = STORED / "accepted" / "margin_linf"
    assert main(["check", "--explain", str(path), "1"]) == 0
    assert capsys.readouterr().out.startswith("input 1    of ")


@pytest.mark.parametrize(
    ("run", "code", "word"), [("rejected/larger_radius", 1, "rejected"), ("malformed/changed_network", 2, "malformed")]
)
def test_what_is_not_accepted_is_said_to_be_so(run: str, code: int, word: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check", "--explain", str(STORED / run)]) == code
    assert capsys.readouterr().out.startswith(word)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--explain", "{}", "99"], "there is no 99"),
        (["{}", "1"], "is for --explain"),
        (["--explain", "{}", "1", "--json"], "no other option"),
    ],
)
def test_a_mistaken_command_says_what_is_wrong(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(STORED / "accepted" / "margin_linf")
    assert main(["check", *(a.format(path) for a in arguments)]) == 2
    assert word in capsys.readouterr().err


# ---------------------------------------------------------------- watching


def test_calls_are_nested_and_arguments_are_those_at_the_start():
    path = STORED / "accepted" / "margin_linf"
    result, _, seen = judged(path, None)
    assert result.state == "accepted"
    misses = seen.root.of(chains.MISSES)
    assert len(misses) == 1
    assert [c.function for c in misses[0].inside] == [
        *[chains.CHORD] * len(misses[0].arguments["unproven"]),
        chains.UPPER_OF,
    ]
    assert misses[0].result == []


def test_a_summary_takes_the_place_of_what_it_sums_up():
    path = STORED / "accepted" / "branched"
    run = Run(path)
    index = first_of(path)
    task = next(t for t in run.tasks() if t[0] == index)

    def size(call: Call) -> int:
        return len(call.inside)

    with observed((chains.MARGIN_LOWER,), {chains.LEAF: size}) as seen:
        verdict = open_judge(path, run.header).judge(*task)
    assert verdict.state == "accepted"
    leaves = seen.root.all_of(chains.LEAF)
    assert leaves
    assert {c.result for c in leaves} == {1}
    assert not any(c.inside or c.arguments for c in leaves)


def test_a_function_that_is_gone_is_missed():
    with pytest.raises(AttributeError), observed(("rules.margin.rule.no_such",), {}):
        pass

"""The table of docs/theorem-to-test.md is what the code says. `python tests/proofs_check/test_table_of_theorems.py`
prints it."""

from __future__ import annotations

import re
from pathlib import Path

from proofs_check.rules import RULES
from proofs_check.theorems.statements import STATEMENTS

ROOT = Path(__file__).resolve().parents[2]
COQ = ROOT / "proofs_check" / "theorems" / "coq"
# by section of the page on the mathematics: what Coq proves of it, and tests of what rests on it
PROVEN_IN_COQ = {
    "2": ("lemma_3_2", "lemma_3_2_of_logits", "lemma_3_2_is_tight", "lemma_3_2_on_a_ball"),
    "3a": ("box_form", "box_form_rival_above"),
    "3b": ("exponential_form",),
    "4": ("theorem_3_5", "theorem_3_5_relaxed", "derivative_of_margin"),
    "4a": ("twice_artanh_is_lipschitz",),
    "5a": ("direct_margin_bound",),
    "9a": (
        "affine_step", "error_of_a_coefficient", "relu_step", "line_below_relu", "chord_above_relu", "concretized_Linf",
        "concretized_L1", "concretized_L2",
    ),
    "10": ("accepted_trees_prove", "accepted_trees_prove_the_ball", "strongest_rival"),
}  # fmt: skip
TESTED_BY = {
    "2": ("proofs_check/rules/test_margin.py",),
    "3a": ("proofs_check/rules/test_margin.py", "second_judge"),
    "3b": ("proofs_check/rules/test_exponential.py", "second_judge"),
    "4": (
        "proofs_check/rules/test_lipschitz.py", "proofs_check/rules/test_lipsdp.py",
        "proofs_check/kernel/test_jacobian.py",
    ),
    "4a": ("proofs_check/rules/test_lipschitz.py", "proofs_check/rules/test_layer_norms.py"),
    "4b": ("proofs_check/rules/test_joint.py",),
    "5": ("certmix/theorems",),
    "5a": ("proofs_check/rules/test_smoothing.py",),
    "5b": ("proofs_check/rules/test_smoothing.py",),
    "5c": ("proofs_check/rules/test_smoothing_counts.py",),
    "5d": ("proofs_check/rules/test_stopped.py",),
    "6": (
        "proofs_check/rules/test_margin.py", "proofs_check/rules/test_branched_pair.py",
        "proofs_check/rules/test_lipschitz_pair.py",
    ),
    "8": ("proofs_check/rules/test_adaptive.py",),
    "9a": ("proofs_check/kernel", "second_judge"),
    "10": ("proofs_check/rules/test_branching.py", "proofs_check/rules/test_branched_pair.py", "second_judge"),
    "11": ("proofs_check/rules/test_blocks.py", "proofs_check/rules/test_frequencies.py"),
}  # fmt: skip


def headings() -> dict[str, str]:
    page = (ROOT / "docs" / "maths.md").read_text("utf-8")
    return dict(re.findall(r"^#{2,3} (\d+[a-z]?)\.? (.*)$", page, re.MULTILINE))


def table() -> str:
    """A row for each section with a theorem that something rests on, or that is proven beside."""
    titles = headings()
    lines = ["| theorem | machine proof | what rests on it | tests |", "|---|---|---|---|"]
    for section, title in titles.items():
        of_section = [s for s in STATEMENTS if s.section == section]
        proofs = [f"{len(of_section)} by z3"] if of_section else []
        proofs += [f"Coq `{name}`" for name in PROVEN_IN_COQ.get(section, ())]
        rules = sorted({rule for s in of_section for rule in s.rules})
        layers = sorted({layer for s in of_section for layer in s.layers})
        bears = ["every rule"] if len(rules) == len(RULES) else [f"`{rule}`" for rule in rules]
        bears += [f"layers: {', '.join(layers)}"] if layers else []
        if proofs:
            link = f"[{section} {title}](maths.md#{anchor(section, title)})"
            cells = (link, ", ".join(proofs), ", ".join(bears) or "nothing: proven beside")
            tests = ", ".join(f"[{Path(t).stem}](../tests/{t})" for t in TESTED_BY[section])
            lines.append(f"| {' | '.join((*cells, tests))} |")
    return "\n".join(lines) + "\n"


def anchor(section: str, title: str) -> str:
    return re.sub(r"[^\w\- ]", "", f"{section} {title}".lower()).replace(" ", "-")


def test_the_page_has_the_table_that_the_code_gives():
    assert table() in (ROOT / "docs" / "theorem-to-test.md").read_text("utf-8")


def test_what_the_table_names_is_there_and_nothing_in_coq_is_left_out():
    in_coq = {n for p in COQ.glob("*.v") for n in re.findall(r"^\s*(?:Theorem|Corollary) (\w+)", p.read_text(), re.M)}
    named = [name for names in PROVEN_IN_COQ.values() for name in names]
    assert sorted(named) == sorted(in_coq)
    assert all((ROOT / "tests" / path).exists() for paths in TESTED_BY.values() for path in paths)
    assert set(TESTED_BY) == {*(s.section for s in STATEMENTS), *PROVEN_IN_COQ} <= set(headings())


if __name__ == "__main__":
    print(table(), end="")

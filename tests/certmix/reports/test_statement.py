"""The statement for a safety file says what the judge accepted, and asks for what no run can say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from certmix.__main__ import main
from certmix.reports import statement

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "review"
COUNT = 4


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits, the last one with a wrong label, at a radius that not all reach."""
    folder = tmp_path_factory.mktemp("statement")
    whole = np.load(digits / "audit.npz")
    chosen = [0, 1, 2, 3]
    wrong = (whole["labels"][chosen] + np.array([0, 0, 0, 1])) % 10
    np.savez(folder / "few.npz", images=whole["images"][chosen], labels=wrong)
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    given = ["audit", *models, "--data", str(folder / "few.npz"), "--alpha", "0.75", "--radius", "0.1", "--quiet"]
    assert main([*given, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def fresh(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_it_says_what_is_certified_what_not_and_what_nobody_can_read_from_a_run(fresh: Path, capsys):
    assert main(["report", str(fresh), "--statement", "--attack-steps", "0"]) == 0
    assert str(fresh / "statement.md") in capsys.readouterr().out.replace("\n", "")
    text = (fresh / "statement.md").read_text()
    assert "| certified | 3 (75.0 %) |" in text
    assert "| of these, of another class than the label | 3 |" in text
    assert "- Attackable inputs: 2." in text
    assert "- Open inputs: none." in text
    assert "3 accepted, 0 rejected, 1 abstained" in text
    assert "**EXACT\\_EXPORT**" in text
    assert text.count("______") > 12
    assert "finitely many draws" not in text


def test_a_certificate_that_the_judge_rejects_is_said_in_bold(fresh: Path):
    lines = (fresh / "certificates.jsonl").read_bytes().splitlines()
    lines[0] = lines[0].replace(b'"radius":0.1', b'"radius":0.2')
    (fresh / "certificates.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert main(["report", str(fresh), "--statement", "--attack-steps", "0"]) == 0
    text = (fresh / "statement.md").read_text()
    assert "**The judge did not accept every certificate." in text
    assert "| certified | 2 (50.0 %) |" in text


def test_no_statement_without_the_judge(fresh: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(fresh), "--statement", "--no-check"]) == 2
    assert "--statement says what the judge accepts: leave out --no-check" in capsys.readouterr().err
    assert not (fresh / "statement.md").exists()


def test_names_of_files_are_no_markup():
    assert statement.plain("a|b_[x](y)<z>*") == r"a\|b\_\[x\](y)\<z\>\*"


def test_many_inputs_are_counted_and_the_first_named():
    assert statement.listed([]) == "none"
    assert statement.listed(list(range(30))).endswith("23, 24, … (30 in all)")


def test_the_example_is_what_its_commands_write(tmp_path: Path):
    """Figures may differ by a digit or two between processors."""
    config = str(EXAMPLE / "audit.toml")
    assert main(["audit", "--config", config, "--out", str(tmp_path / "run"), "--limit", "40", "--quiet"]) == 0
    assert main(["report", str(tmp_path / "run"), "--statement"]) == 0
    shown, found = ((p / "statement.md").read_text() for p in (EXAMPLE, tmp_path / "run"))
    assert structure(found) == structure(shown)


def structure(text: str) -> list[str]:
    return [re.sub(r"[0-9a-f]{64}|[\d.,…()]+| in all|none| ", "", line) for line in text.splitlines()]

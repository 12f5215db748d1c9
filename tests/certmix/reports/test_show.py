"""One input on the terminal: the same as on the page, judged on the spot."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from certmix.__main__ import main
from certmix.records import attack_archive
from certmix.reports.one_input import STEPS, drawn
from proofs_check.certificate import Claim
from proofs_check.rules import RULES
from proofs_check.rules.margin import branching
from proofs_check.rules.margin.differences import Differences
from proofs_check.rules.margin.trees import Leaf

COUNT = 3


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("show") / "run"
    assert main(["audit", "--config", str(digits / "audit.toml"), "--limit", str(COUNT), "--out", str(out)]) == 0
    return out


@pytest.fixture
def fresh(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_every_methods_radius_the_attack_and_the_judges_steps_are_shown(run: Path, capsys: pytest.CaptureFixture[str]):
    line = json.loads((run / "certificates.jsonl").read_text().splitlines()[1])
    assert main(["show", str(run), "1"]) == 0
    shown = capsys.readouterr().out
    assert f"label {line['label']}, class {line['predicted']}, certified" in shown
    radii = [Fraction(text) for text in re.findall(r"certified to ([0-9.e-]+)", shown)]
    assert len(radii) == 2
    assert 0 < radii[0] <= Fraction(line["radius"])
    assert "lipschitz (proven now, and accepted by the judge)" in shown
    attack = attack_archive.read(run)[1]
    (reach,) = re.findall(r"attack: class \d at ([0-9.e-]+) or less", shown)
    assert Fraction(reach) >= Fraction(attack.radius) > max(radii)
    assert shown.count("✓") == 2 + len(STEPS["network_margin"])
    assert "accepted; assumptions: none beyond exact export" in shown


def test_what_a_proof_takes_is_said_and_of_a_tree_what_the_judge_went_through(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    whole = np.load(digits / "audit.npz")
    np.savez(tmp_path / "one.npz", images=whole["images"][1:2], labels=whole["labels"][1:2])
    files = ["--data", str(tmp_path / "one.npz"), "--out", str(tmp_path / "run")]
    options = ["--limit", "1", "--norm", "L2", "--radius", "0.463", "--branch", "60", "--attack-steps", "0"]
    models = [word for name in ("standard", "robust") for word in (f"--{name}", str(digits / f"{name}.onnx"))]
    assert main(["audit", *models, *files, *options, "--alpha", "0.75"]) == 0
    depths = list[int]()
    proves = branching._leaf_proves

    def counted(found: Differences, rival: int, claim: Claim, leaf: Leaf) -> bool:
        depths.append(len(leaf.path))
        return proves(found, rival, claim, leaf)

    monkeypatch.setattr(branching, "_leaf_proves", counted)
    assert main(["show", str(tmp_path / "run"), "0"]) == 0
    shown = capsys.readouterr().out
    assert "lipschitz: none: " in shown
    assert "branch" not in shown.replace("rule branched_margin", "")
    (line,) = (tmp_path / "run" / "certificates.jsonl").read_bytes().splitlines()
    assert f"{len(line)} bytes, judged in " in shown
    assert len(depths) > 10
    assert f" trees of {len(depths)} leaves, at most {max(depths)} splits above one" in shown


def test_a_line_that_is_not_accepted_is_no_certificate(fresh: Path, capsys: pytest.CaptureFixture[str]):
    path = fresh / "certificates.jsonl"
    lines = path.read_bytes().splitlines()
    lines[0] = lines[0].replace(b'"label":', b'"label": ', 1)
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert main(["show", str(fresh), "0", "--quick"]) == 2
    shown = capsys.readouterr().out
    assert "malformed" in shown
    assert "certified to" not in shown
    assert main(["show", str(fresh), "2", "--quick"]) == 0
    assert "certified to" in capsys.readouterr().out


@pytest.mark.parametrize("index", ["-1", str(COUNT), "x"])
def test_an_input_that_is_not_there_is_refused(run: Path, index: str, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(run), index]) == 2
    assert index in capsys.readouterr().err


def test_every_rule_has_its_steps():
    assert set(STEPS) == set(RULES)


def test_only_pictures_are_drawn():
    assert drawn(np.zeros(64, dtype=np.float32)) == []
    assert drawn(np.zeros((2, 8, 8), dtype=np.float32)) == []
    half = np.zeros((1, 4, 6), dtype=np.float32)
    half[:, 2:] = 1
    assert drawn(half) == [" " * 12] * 2 + ["█" * 12] * 2
    assert len(drawn(np.zeros((3, 224, 224), dtype=np.float32))) <= 32

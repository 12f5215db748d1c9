"""auto_LiRPA beside the native engine on an audit's certified balls: asked by default, believed by nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certmix.__main__ import main
from certmix.runs.cross_check import SAMPLE, cross_check
from certmix.settings import Settings
from proofs_check import certificate as c
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.engine import AutoLirpa
from verifiers.crown.engine import Crown
from verifiers.engine import Bounds, Engine, EngineError
from verifiers.network.module import build

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits"


def audit(out: Path, *options: str) -> dict[str, Any]:
    """audit.json of the README's command on the bundled digits."""
    files = {"standard": "standard.onnx", "robust": "robust.onnx", "data": "audit.npz"}
    given = [f"--{name}={DIGITS / file}" for name, file in files.items()]
    assert main(["audit", *given, "--alpha=0.75", "--radius=0.01", "--limit=6", f"--out={out}", *options]) == 0
    return json.loads((out / "audit.json").read_text())


@pytest.mark.parametrize("method", ["margin", "lipschitz"])
def test_an_audit_asks_auto_lirpa_unless_the_native_engine_alone_is_asked_for(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lirpa, modules = compat.load(), list[int]()
    make = lirpa.BoundedModule.__init__
    monkeypatch.setattr(lirpa.BoundedModule, "__init__", lambda *a, **k: (modules.append(1), make(*a, **k))[1])
    record = audit(tmp_path / "best", f"--method={method}")["cross_check"]
    assert len(modules) > 0
    assert len(record["inputs"]) == SAMPLE
    assert record["contradictions"] == []
    assert record["left_out"] is None
    assert f"auto_LiRPA, asked on {SAMPLE} balls, contradicts no bound" in capsys.readouterr().out
    modules.clear()
    assert "cross_check" not in audit(tmp_path / "crown", f"--method={method}", "--engine=crown")
    assert modules == []
    best, crown = ((tmp_path / name / "certificates.jsonl").read_bytes() for name in ("best", "crown"))
    assert best == crown


def network() -> c.PlainNetwork:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return build(
        [c.Input((6,)), c.Linear((0,), draw(12, 6), draw(12)), c.Relu((1,)), c.Linear((2,), draw(3, 12), draw(3))]
    )


@pytest.mark.parametrize("wrong", [Crown, AutoLirpa])
def test_an_engine_that_is_wrong_at_one_ball_is_reported_there(
    wrong: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = np.random.default_rng(1).random((9, 6), np.float32)
    certified = [(n, 0.01, 0) for n in (0, 2, 5, 8)]
    settings = Settings(0.75, engine="best")
    assert cross_check(network(), inputs, certified, settings).contradictions == ()
    original: Any = wrong.bound

    def bound(engine: Engine, *rest: Any) -> Any:
        bounds, left = original(engine, *rest)
        shift = bounds.lower.new_zeros(bounds.lower.shape)
        shift[2, 1] = 1e3
        return Bounds(bounds.lower + shift, bounds.upper + shift), left

    monkeypatch.setattr(wrong, "bound", bound)
    found = cross_check(network(), inputs, certified, settings)
    assert found.inputs == (0, 2, 5, 8)
    assert found.contradictions == (5,)
    text, doubtful = found.in_words()
    assert doubtful
    assert "inputs 5" in text


def test_where_auto_lirpa_is_absent_or_cannot_the_audit_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise EngineError("auto_LiRPA is not installed; pip install it")

    monkeypatch.setattr(compat, "load", absent)
    record = audit(tmp_path / "run", "--batch-size=2")["cross_check"]
    assert record["left_out"] == "auto_LiRPA left out: auto_LiRPA is not installed; pip install it"
    assert capsys.readouterr().out.count("auto_LiRPA is not installed") == 1


def test_a_run_that_certifies_nothing_compares_nothing() -> None:
    found = cross_check(network(), np.zeros((3, 6), np.float32), [], Settings(0.75, engine="best"))
    assert found.inputs == ()
    assert found.in_words() == ("engines not compared: nothing is certified", False)

"""The folders accepted/, rejected/ and malformed/ are judged as their names say, by the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proofs_check.__main__ import main

HERE = Path(__file__).resolve().parent
CODES = {"accepted": 0, "rejected": 1, "malformed": 2}
CASES = sorted(path for kind in CODES for path in (HERE / kind).iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", CASES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_case_is_judged_as_its_folder_says(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(folder), "--json"]) == CODES[folder.parent.name]
    *verdicts, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(v["reason"] for v in verdicts if v["state"] in ("rejected", "malformed"))
    if folder.parent.name == "accepted":
        assert summary["summary"]["accepted"] > 0
        trusted = {"ENGINE_TRUSTED"} if folder.name == "engine_trusted" else set()
        assert set(summary["assumptions"]) >= trusted
        assert folder.name == "engine_trusted" or "ENGINE_TRUSTED" not in summary["assumptions"]


@pytest.mark.parametrize("flags", [["-O"], ["-W", "error"]], ids=["optimised", "warnings are errors"])
def test_the_judge_runs_without_asserts_and_without_warnings(flags: list[str]):
    for kind, code in CODES.items():
        folder = next(p for p in CASES if p.parent.name == kind)
        done = subprocess.run(
            [sys.executable, *flags, "-m", "proofs_check", str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert not done.stderr


def test_the_judges_process_never_imports_what_it_must_not():
    code = (
        "import sys, proofs_check.__main__ as m; m.main([sys.argv[1]]); "
        "bad = {'torch', 'scipy', 'cvxpy', 'certmix', 'verifiers', 'auto_LiRPA', 'onnx'} & set(sys.modules); "
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(CASES[0])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", sorted(CODES))
def test_the_command_with_two_processes_says_what_it_says_with_one(kind: str):
    folder = next(p for p in CASES if p.parent.name == kind)
    command = [sys.executable, "-m", "proofs_check", str(folder), "--jobs"]
    one, two = (subprocess.run([*command, n], capture_output=True, text=True, check=False) for n in ("1", "2"))
    assert (two.returncode, two.stdout) == (CODES[kind], one.stdout), two.stderr
